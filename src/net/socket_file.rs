//! The files of the unix sockets that this process bound: their permissions and their removal.
//!
//! Another process may remove such a file and put its own at the same path. So the device and inode of each bound file
//! are kept, and a file with other ones stays as it is. The inode can't be given to another file while the socket is
//! open. Paths belong to the process, so the list is a static.

use crate::base::Endpoint;
use crate::base::address::abstract_name;
use parking_lot::Mutex;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Stat, Uid};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Each bound file. Bounded by the number of bound sockets.
static FILES: Mutex<BTreeMap<PathBuf, Known>> = Mutex::new(BTreeMap::new());

/// A file that this process bound, or whose socket it takes over.
#[derive(Clone, Copy)]
struct Known {
    /// Device and inode.
    identity: (u64, u64),
    /// The predecessor still serves there: a failure of this process must not remove the file.
    lent: bool,
}

fn identity(found: &Stat) -> (u64, u64) {
    (found.st_dev, found.st_ino)
}

/// Keeps the identity of a file that was just bound.
pub(super) fn remember(path: &Path) -> io::Result<()> {
    keep(path, false)
}

/// Keeps the identity of a file whose socket the predecessor has lent. It is removed as an own one after [`own_lent_files`].
pub(super) fn remember_lent(path: &Path) -> io::Result<()> {
    keep(path, true)
}

fn keep(path: &Path, lent: bool) -> io::Result<()> {
    let found = rustix::fs::lstat(path)?;
    FILES.lock().insert(path.to_owned(), Known { identity: identity(&found), lent });
    Ok(())
}

/// The predecessor's files belong to this process from now on, and so does their removal. `unused` are those that no listener uses.
pub fn own_lent_files<'a>(unused: impl IntoIterator<Item = &'a Endpoint>) {
    for endpoint in unused {
        if let Endpoint::Unix(path) = endpoint
            && abstract_name(path).is_none()
            && remember_lent(path).is_err()
        {
            log::debug!("{} is gone already", path.display());
        }
    }
    FILES.lock().values_mut().for_each(|known| known.lent = false);
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
    let Some(Known { identity: own, lent }) = FILES.lock().remove(path) else { return };
    if lent {
        return;
    }
    let removed = match rustix::fs::lstat(path) {
        Ok(found) if identity(&found) != own => {
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
        if FILES.lock().get(path).map(|known| known.identity) != Some(identity(&found)) {
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
