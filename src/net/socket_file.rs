//! The files of the unix sockets that this process bound: their permissions and their removal.
//!
//! Another process may remove such a file and put its own at the same path. So the device and inode of each bound file
//! are kept, and a file with other ones stays as it is. The inode can't be given to another file while the socket is
//! open. Paths belong to the process, so the list is a static.

use crate::base::Endpoint;
use parking_lot::Mutex;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Each bound file. Bounded by the number of bound sockets.
static FILES: Mutex<BTreeMap<PathBuf, Known>> = Mutex::new(BTreeMap::new());

/// The user that this process changes to once everything is bound.
static USER: OnceLock<Uid> = OnceLock::new();

/// A file that this process bound, or whose socket it takes over.
#[derive(Clone, Copy)]
struct Known {
    id: FileId,
    /// The predecessor still serves there: a failure of this process must not remove the file, and gives it these permissions back.
    lent: Option<Permissions>,
}

/// What distinguishes a file from another one that takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(found: &Stat) -> FileId {
        FileId { device: found.st_dev, inode: found.st_ino }
    }
}

/// Keeps the identity of a file that was just bound.
pub(super) fn remember(path: &Path) -> io::Result<()> {
    let id = FileId::of(&rustix::fs::lstat(path)?);
    FILES.lock().insert(path.to_owned(), Known { id, lent: None });
    Ok(())
}

/// The file of a unix socket that this process bound.
pub fn file_of(endpoint: &Endpoint) -> Option<FileId> {
    let Endpoint::Unix(path) = endpoint else { return None };
    FILES.lock().get(&**path).map(|known| known.id)
}

/// Whether this process has the file to itself: it bound the socket, or has taken it over.
pub fn is_own_file(endpoint: &Endpoint) -> bool {
    let Endpoint::Unix(path) = endpoint else { return false };
    FILES.lock().get(&**path).is_some_and(|known| known.lent.is_none())
}

/// This process changes to this user once everything is bound, and changes no lent file in a way that the user could not undo.
pub fn leave_files_to(user: Uid) {
    // Called once.
    let _ = USER.set(user);
}

/// Gives the file of a socket that the predecessor has lent these permissions. It is removed as an own one after [`own_lent`]. Another
/// file in its place stays as it is.
pub(super) fn borrow(path: &Path, id: FileId, permissions: &Permissions) -> io::Result<()> {
    let Some(found) = socket(path, id) else {
        log::warn!(
            "leaves {} in place: it is not the file of the socket that the process before has bound",
            path.display()
        );
        return Ok(());
    };
    // It gets its place first: only a known file is changed.
    FILES.lock().insert(path.to_owned(), Known { id, lent: Some(Permissions::default()) });
    if USER.get().is_some_and(|user| !permissions.can_be_undone_by(*user, &found)) {
        log::warn!(
            "leaves the mode, owner and group of {} as they are: a restart applies them (an upgrade that fails could not restore them)",
            path.display()
        );
        return Ok(());
    }
    let before = permissions.apply(path)?;
    if before != *permissions {
        FILES.lock().insert(path.to_owned(), Known { id, lent: Some(before) });
    }
    Ok(())
}

/// The socket file at this path, if it is this one.
fn socket(path: &Path, id: FileId) -> Option<Stat> {
    let found = rustix::fs::lstat(path).ok()?;
    (FileType::from_raw_mode(found.st_mode).is_socket() && FileId::of(&found) == id).then_some(found)
}

/// The predecessor's files belong to this process from now on, and so does their removal.
pub(super) fn own_lent() {
    FILES.lock().values_mut().for_each(|known| known.lent = None);
}

/// The predecessor goes on. Its files get back the permissions that they had, and those that this process bound are removed.
pub fn give_files_back() {
    let paths: Vec<PathBuf> = FILES.lock().keys().cloned().collect();
    paths.iter().for_each(|path| remove(path));
}

/// A successor has all files: the end of this process removes none.
pub fn disown_files() {
    FILES.lock().clear();
}

/// Removes the files of unix sockets that are closed. A file left behind would look like a server that does not answer.
/// Files that the service manager or another process made stay.
pub fn remove_files<'a>(endpoints: impl IntoIterator<Item = &'a Endpoint>) {
    for endpoint in endpoints {
        if let Endpoint::Unix(path) = endpoint {
            remove(path);
        }
    }
}

pub(super) fn remove(path: &Path) {
    let Some(Known { id, lent }) = FILES.lock().get(path).copied() else { return };
    match lent {
        Some(before) => {
            if let Err(error) = before.apply(path) {
                log::warn!("can't restore the permissions of {}: {error}", path.display());
            }
        }
        None => remove_own(path, id),
    }
    FILES.lock().remove(path);
}

/// Removes a file if it is this one.
pub(super) fn remove_own(path: &Path, id: FileId) {
    let removed = match rustix::fs::lstat(path) {
        Ok(found) if FileId::of(&found) != id => {
            return log::warn!("leaves {} in place: it is not the file that tcplb made", path.display());
        }
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error.into()),
    };
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        log::warn!("can't remove {}: {error}", path.display());
    }
}

/// The files of unix sockets that this process bound. Dropping it removes them, so that a failure leaves none behind.
#[derive(Debug, Default)]
pub struct BoundFiles(Vec<Endpoint>);

impl BoundFiles {
    /// Adds the file of an endpoint, if it has one.
    pub fn add(&mut self, endpoint: &Endpoint) {
        if matches!(endpoint, Endpoint::Unix(_)) {
            self.0.push(endpoint.clone());
        }
    }

    /// Leaves the files in place.
    pub fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for BoundFiles {
    fn drop(&mut self) {
        remove_files(&self.0);
    }
}

/// The permissions of a socket file; `None` keeps the system's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// The permission bits.
    pub mode: Option<u32>,
    /// The owner's user id.
    pub owner: Option<u32>,
    /// The group's id.
    pub group: Option<u32>,
}

impl Permissions {
    /// Applies them to a socket file of this process, never to another file in its place. Returns the permissions that
    /// they replace. On an error the file keeps its old ones.
    pub fn apply(&self, path: &Path) -> io::Result<Permissions> {
        if *self == Permissions::default() {
            return Ok(*self);
        }
        let file = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let found = rustix::fs::fstat(&file)?;
        if FILES.lock().get(path).map(|known| known.id) != Some(FileId::of(&found)) {
            return Err(io::Error::other("another file has taken its place"));
        }
        let before = Permissions {
            mode: self.mode.and(Some(found.st_mode & 0o777)),
            owner: self.owner.and(Some(found.st_uid)),
            group: self.group.and(Some(found.st_gid)),
        };
        self.set(&file).inspect_err(|_| drop(before.set(&file)))?;
        Ok(before)
    }

    /// Whether this user, without capabilities, could restore the file once it has these.
    fn can_be_undone_by(&self, user: Uid, found: &Stat) -> bool {
        let stays = |new: Option<u32>, old: u32| new.is_none_or(|new| new == old);
        let owners_stay = stays(self.owner, found.st_uid) && stays(self.group, found.st_gid);
        owners_stay && (stays(self.mode, found.st_mode & 0o777) || found.st_uid == user.as_raw())
    }

    fn set(&self, file: &OwnedFd) -> io::Result<()> {
        let (owner, group) = (self.owner.map(Uid::from_raw), self.group.map(Gid::from_raw));
        if owner.is_some() || group.is_some() {
            rustix::fs::chownat(file, "", owner, group, AtFlags::EMPTY_PATH)?;
        }
        // The mode comes last: before, users other than the new owner could use it. An O_PATH descriptor takes no mode
        // (open(2)).
        self.mode.map_or(Ok(()), |mode| {
            let file = format!("/proc/self/fd/{}", file.as_raw_fd());
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode))
        })
    }
}
