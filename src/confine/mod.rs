//! Least privilege: what the process gives up once everything is bound, for good. Linux only.
//!
//! It is not what decides who may connect or call; it is what is left to somebody who got in through a mistake of ours.
//! `cli` makes a [`Confinement`] before anything is opened, so that an unknown user is told first; `app` carries it out between
//! the last bind and the first thread. That order is what makes it hold: user, capabilities, no_new_privs and Landlock
//! belong to a thread, and threads take them over from the one that starts them.
//!
//! In this order:
//!
//! 1. Files of sockets are given to the user, who would otherwise have an admin socket (mode 0600) that is not his; so is the
//!    access log, which was opened before and is opened again by him.
//! 2. The process becomes the user, in his groups as the system lists them, with no way back: real, effective and saved ids.
//! 3. Of the capabilities CAP_NET_BIND_SERVICE stays, if it was there, so that a reload may add a port below 1024. Root that
//!    is to stay root keeps all of them, and is told.
//! 4. no_new_privs, always: no program it could start (it starts none) gets more by a set-user-id bit or file capabilities.
//! 5. Landlock, see `sandbox`.
//!
//! Whoever lets it start programs (a hand-over to a new binary) has to allow the execution of that binary and of its
//! interpreter (ld.so) in `sandbox`, and to raise CAP_NET_BIND_SERVICE to the ambient set first: no_new_privs ignores the
//! file's capabilities.

mod account;
mod sandbox;

pub use account::owners;
pub use sandbox::{hint_to_reading, shuts_out_abstract_sockets};

use crate::base::address::abstract_name;
use crate::base::{Address, Endpoint, Listen};
use crate::config::model::{LogTo, Model, Sandbox};
use account::Account;
use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

/// The one capability that is of use later.
const KEPT: CapabilitySet = CapabilitySet::NET_BIND_SERVICE;

/// What becoming somebody else takes.
const NEEDED: CapabilitySet = CapabilitySet::SETUID.union(CapabilitySet::SETGID);

/// What to add to an error about listening there: the remedy, where a permission is missing.
pub fn hint_to_binding(listen: &Listen, error: &io::Error) -> String {
    let port = match &listen.0 {
        Address::Unix(path) => return sandbox::hint_to_binding_file(path, error).to_owned(),
        Address::Any(port) | Address::Name(_, port) => *port,
        Address::Inet(at) => at.port(),
    };
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!(
            " (port {port} takes CAP_NET_BIND_SERVICE: `setcap cap_net_bind_service=+ep` on the binary, AmbientCapabilities= in \
             a service, or a start as root with `user`)"
        ),
        _ => String::new(),
    }
}

/// What is to be given up, known to be possible as far as that can be known.
#[derive(Debug)]
pub struct Confinement {
    account: Option<Account>,
    sandbox: bool,
    /// Is a backend an abstract socket?
    abstract_backend: bool,
    /// Socket files whose owner, and whose group, the configuration names.
    owned: Vec<(PathBuf, bool, bool)>,
    /// What reloads read.
    files: Vec<PathBuf>,
    /// The access log, which may be opened again under that name.
    log: Option<PathBuf>,
}

impl Confinement {
    /// Looks up who is asked for, and opens nothing of ours. `file` is where the model came from, if from a file.
    pub fn new(model: &Model, file: Option<&Path>) -> Result<Confinement, String> {
        let global = &model.global;
        let account = global.user.as_deref().map(|user| Account::find(user, global.group.as_deref())).transpose()?;
        // Started as the right one already, by a service manager for one: nothing to do.
        let account = account.filter(|account| !account.is_ours());
        if let Some(account) = &account
            && !capabilities(None).is_ok_and(|sets| sets.effective.contains(NEEDED))
        {
            let own = account::own();
            return Err(format!(
                "user: can't become {account}: {own}, who started tcplb, lacks the rights (CAP_SETUID, CAP_SETGID): start it as \
                 root or as {account}, or leave user out"
            ));
        }
        let lists = model.listeners.iter().flat_map(|listener| [&listener.allow_file, &listener.deny_file]);
        let lists = lists.flatten().map(|list| list.path.as_path());
        let files = file.into_iter().chain(lists).map(Path::to_owned).collect();
        let log = match &global.access_log {
            Some(LogTo::File(path)) => Some(path.clone()),
            Some(LogTo::Stdout) | None => None,
        };
        let owned = model.listeners.iter().flat_map(|listener| {
            let (owner, group) = (listener.socket_file.owner.is_some(), listener.socket_file.group.is_some());
            listener.socket_files().map(move |path| (path.clone(), owner, group))
        });
        let owned = owned.collect();
        let mut backends = model.pools.iter().flat_map(|pool| &pool.backends);
        let abstract_backend = backends.any(|backend| backend.address.is_abstract());
        Ok(Confinement { account, sandbox: global.sandbox == Sandbox::Auto, abstract_backend, owned, files, log })
    }

    /// Does the process become somebody else?
    pub fn changes_user(&self) -> bool {
        self.account.is_some()
    }

    /// Carries it out, for this thread and those it starts; `sockets` are what we bound, `log` is the access log if it is a file
    /// and open. stderr says what is in force. An error leaves the process half confined: it must end.
    pub fn carry_out(self, sockets: &[Endpoint], log: Option<BorrowedFd<'_>>) -> Result<(), String> {
        let paths: Vec<&Path> = sockets.iter().filter_map(path).collect();
        // As whoever we were, so that a directory which is closed to the user today may be opened to him tomorrow.
        let rules = match self.sandbox {
            true => Some(
                sandbox::SandboxRules::plan(&self.files, &paths, self.log.as_deref(), self.abstract_backend)
                    .map_err(|why| off_hint(&why))?,
            ),
            false => None,
        };
        if let Some(account) = &self.account {
            for path in &paths {
                let named = self.owned.iter().find(|(owned, ..)| owned == path);
                let (owner, group) = named.map_or((false, false), |(_, owner, group)| (*owner, *group));
                give(path, account, (!owner, !group))
                    .map_err(|error| format!("can't give {} to {account}: {error}", path.display()))?;
            }
            if let Some((path, log)) = self.log.as_deref().zip(log) {
                give_log(log, account)
                    .map_err(|error| format!("can't give {} to {account}: {error}", path.display()))?;
            }
            account.become_it().map_err(|error| format!("can't become {account}: {error}"))?;
        }
        let root = rustix::process::geteuid().is_root();
        if !root {
            shed().map_err(|error| format!("can't give up capabilities: {error}"))?;
        }
        let privileges = |error| format!("can't do without new privileges: {error}");
        rustix::thread::set_no_new_privs(true).map_err(privileges)?;
        let state = match rules {
            Some(rules) => rules.enter().map_err(|why| off_hint(&why))?,
            None => "no sandbox".to_owned(),
        };
        let who = account::own();
        let kept = if root { "every capability it was given" } else { bind_service() };
        log::info!("runs as {who} with {kept}, no new privileges, {state}");
        if root {
            log::warn!("runs as root, which it has no need to: say whom it shall become with user, or --user");
        }
        self.foresee(&paths);
        Ok(())
    }

    /// What will fail later is told now, when somebody is looking.
    fn foresee(&self, sockets: &[&Path]) {
        for file in &self.files {
            if let Err(error) = std::fs::File::open(file) {
                let who = account::own();
                log::warn!("a reload will fail: {who} can't read {}: {error}", file.display());
            }
        }
        if let Some(log) = self.log.as_deref().filter(|log| log.metadata().is_ok_and(|log| log.is_file()))
            && rustix::fs::access(directory(log), Access::WRITE_OK | Access::EXEC_OK).is_err()
        {
            let (who, log, directory) = (account::own(), log.display(), directory(log).display());
            log::warn!(
                "once {log} is renamed, SIGUSR1 will fail to open another: {who} can't make files in {directory}; what renames it \
                 has to make the new one, for him"
            );
        }
        for socket in sockets {
            let directory = directory(socket);
            if rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK).is_err() {
                let (who, socket, directory) = (account::own(), socket.display(), directory.display());
                log::warn!("{socket} will stay behind at the end: {who} can't remove files from {directory}");
            }
        }
    }
}

/// Whoever reads it at night shall know the way out.
fn off_hint(why: &str) -> String {
    format!("can't lock itself in: {why}; sandbox = \"off\" (or --sandbox off) does without")
}

fn path(endpoint: &Endpoint) -> Option<&Path> {
    match endpoint {
        Endpoint::Unix(path) => abstract_name(path).is_none().then_some(path),
        Endpoint::Inet(_) => None,
    }
}

/// Where a path's last part stands.
fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Changes the owner and the group of a socket file, as far as wanted, and of nothing that somebody may have put in its place.
fn give(path: &Path, account: &Account, (owner, in_group): (bool, bool)) -> io::Result<()> {
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if !FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode).is_socket() {
        return Err(io::Error::other("it is no socket any more"));
    }
    let (user, group) = account.ids();
    let (user, group) = (Some(user).filter(|_| owner), Some(group).filter(|_| in_group));
    Ok(rustix::fs::chownat(&file, "", user, group, AtFlags::EMPTY_PATH)?)
}

/// Changes the owner of a log that is a file. A name that somebody else made for it may stand for something that is not his.
fn give_log(file: BorrowedFd<'_>, account: &Account) -> io::Result<()> {
    let found = rustix::fs::fstat(file)?;
    let (user, group) = account.ids();
    if !FileType::from_raw_mode(found.st_mode).is_file() || found.st_uid == user.as_raw() {
        return Ok(());
    }
    if found.st_nlink != 1 {
        return Err(io::Error::other("the file has a second name (a hard link)"));
    }
    Ok(rustix::fs::fchown(file, Some(user), Some(group))?)
}

/// Gives up every capability but the one. Where a service manager did, it makes no call that such a manager's filter may
/// punish.
fn shed() -> rustix::io::Result<()> {
    let now = capabilities(None)?;
    let kept = now.permitted & KEPT;
    let wanted = CapabilitySets { effective: kept, permitted: kept, inheritable: now.inheritable & kept };
    if now == wanted { Ok(()) } else { set_capabilities(None, wanted) }
}

fn bind_service() -> &'static str {
    match capabilities(None) {
        Ok(sets) if sets.effective.contains(KEPT) => "CAP_NET_BIND_SERVICE only",
        _ => "no capability",
    }
}
