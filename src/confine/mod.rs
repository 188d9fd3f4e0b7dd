//! Least privilege: the process gives up privileges once everything is bound, and cannot regain them. Linux
//! only.
//!
//! It does not decide which clients may connect or call; it limits what an attacker gains from a fault of ours. `cli` creates a
//! [`Confinement`] before anything is opened, so that an unknown user is an early error. `app` carries it out between
//! the last bind and the first thread. That order matters: user, capabilities, no_new_privs and Landlock belong to a
//! thread, and threads inherit them from the one that starts them.
//!
//! The steps, in this order:
//!
//! 1. Socket files get the user as their owner: otherwise the user could not use an admin socket (mode 0600). So does
//!    the access log, which root opened and the user opens again. A file that a predecessor has lent keeps its owner. The
//!    predecessor may serve there again, and this process could not give it back after step 2. `net::socket_file` leaves
//!    its group and mode for the same reason.
//! 2. The process changes to the user and its groups, with no way back: real, effective and saved ids.
//! 3. Of the capabilities, CAP_NET_BIND_SERVICE stays if it was there, so that a reload may add a port below 1024. With a pool
//!    that has `source = "client"`, so does CAP_NET_ADMIN, or CAP_NET_RAW if that is all there is. A process that stays root
//!    keeps all of them, and logs a warning.
//! 4. no_new_privs, always: a program that it starts (it starts none) gains nothing by a set-user-id bit or file
//!    capabilities.
//! 5. Landlock, see `sandbox`.
//!
//! The process that starts a successor ([`crate::launcher`]) is started before all of this, and is not confined. The helper of the
//! kernel engine confines itself: `net_admin`.

mod account;
mod net_admin;
mod sandbox;

pub use account::owners;
pub use net_admin::{NotConfined, check_net_admin, confine_to_net_admin};
pub use sandbox::{hint_to_reading, shuts_out_abstract_sockets};

use crate::base::address::abstract_name;
use crate::base::{Address, Endpoint, Listen};
use crate::config::model::{LogTo, Model, Sandbox, SourceAddress};
use account::Account;
use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// The capability that is needed later, whatever the configuration.
const KEPT: CapabilitySet = CapabilitySet::NET_BIND_SERVICE;

/// Those of which one permits connections from addresses of other machines (ip(7), IP_TRANSPARENT), the preferred one first.
const TRANSPARENT: [(CapabilitySet, &str); 2] =
    [(CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"), (CapabilitySet::NET_RAW, "CAP_NET_RAW")];

/// The capabilities that a change of user needs.
const NEEDED: CapabilitySet = CapabilitySet::SETUID.union(CapabilitySet::SETGID);

/// The text to add to an error about listening. It names the remedy for a missing permission, or what stands in the way
/// of a socket file, or is empty.
pub fn hint_to_binding(listen: &Listen, error: &io::Error) -> String {
    let port = match &listen.0 {
        Address::Unix(path) if !listen.0.is_abstract() => return hint_to_binding_file(path, error),
        Address::Unix(_) | Address::Mapped(..) => return String::new(),
        Address::Any(port) | Address::Name(_, port) => *port,
        Address::Inet(at) => at.port(),
    };
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!(
            " (port {port} needs CAP_NET_BIND_SERVICE: `setcap cap_net_bind_service=+ep` on the binary, AmbientCapabilities= in \
             a service, or a start as root with `user`)"
        ),
        _ => String::new(),
    }
}

fn hint_to_binding_file(path: &Path, error: &io::Error) -> String {
    match (error.kind(), path.symlink_metadata()) {
        (io::ErrorKind::NotFound, _) if !directory(path).is_dir() => {
            format!(" (there is no directory {})", directory(path).display())
        }
        (io::ErrorKind::AddrInUse, Ok(found)) if found.is_dir() => " (a directory is at that path)".to_owned(),
        (io::ErrorKind::AddrInUse, Ok(found)) if !found.file_type().is_socket() => {
            " (a file that is no socket is at that path)".to_owned()
        }
        _ => sandbox::hint_to_binding_file(path, error).to_owned(),
    }
}

/// Fails if a pool's `source = "client"` needs a capability that this thread lacks.
pub fn check_transparent(model: &Model) -> Result<(), String> {
    let client = |source: &SourceAddress| *source == SourceAddress::Client;
    let Some(pool) = model.pools.iter().find(|pool| client(&pool.source)) else { return Ok(()) };
    if capabilities(None).is_ok_and(|sets| transparent(sets.effective).is_some()) {
        return Ok(());
    }
    Err(format!(
        "pool {}: source = \"client\" needs CAP_NET_ADMIN, which {} lacks: AmbientCapabilities= in a service, `setcap \
         cap_net_admin,cap_net_bind_service=+ep` on the binary, or a start as root with `user`",
        pool.name,
        account::own()
    ))
}

/// The capability of a set that permits connections from addresses of other machines.
fn transparent(set: CapabilitySet) -> Option<(CapabilitySet, &'static str)> {
    TRANSPARENT.into_iter().find(|(capability, _)| set.contains(*capability))
}

/// The privileges to give up, checked as far as possible.
#[derive(Debug)]
pub struct Confinement {
    account: Option<Account>,
    sandbox: bool,
    /// Whether a backend is an abstract socket.
    abstract_backend: bool,
    /// Whether a pool connects from its clients' addresses.
    transparent: bool,
    /// Socket files, and whether the configuration names their owner and their group.
    owned: Vec<(PathBuf, bool, bool)>,
    /// Files that are read later, each with what reads it: a reload, or a source.
    files: Vec<(String, PathBuf)>,
    /// The access log, which may be opened again by its path.
    log: Option<PathBuf>,
    /// The state file, which is written anew after each change.
    state: Option<PathBuf>,
}

impl Confinement {
    /// Looks up the account and opens none of our files. `file` is the path of the configuration file. Fails if the
    /// user is unknown or the process may not change to it, or if the capability for `source = "client"` is missing.
    pub fn new(model: &Model, file: Option<&Path>) -> Result<Confinement, String> {
        let global = &model.global;
        let account = global.user.as_deref().map(|user| Account::find(user, global.group.as_deref())).transpose()?;
        // A service manager may have started the process as this account already.
        let account = account.filter(|account| !account.is_ours());
        if let Some(account) = &account
            && !capabilities(None).is_ok_and(|sets| sets.effective.contains(NEEDED))
        {
            let own = account::own();
            return Err(format!(
                "user: can't become {account}: tcplb was started by {own}, which lacks CAP_SETUID and CAP_SETGID: start it as \
                 root or as {account}, or leave user out"
            ));
        }
        check_transparent(model)?;
        let transparent = model.pools.iter().any(|pool| pool.source == SourceAddress::Client);
        let lists = model.listeners.iter().flat_map(|listener| [&listener.allow_file, &listener.deny_file]);
        let lists = lists.flatten().map(|list| list.path.as_path());
        let of_reload = file.into_iter().chain(lists).map(|file| ("a reload".to_owned(), file));
        let named = of_reload.chain(model.source_files().into_iter().map(|(_, source, file)| (source, file)));
        let named = named.map(|(reader, file)| (reader, file.to_owned()));
        let files = named.chain(model.further_source_files()).collect();
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
        let (sandbox, state) = (global.sandbox == Sandbox::Auto, global.state_file.clone());
        Ok(Confinement { account, sandbox, abstract_backend, transparent, owned, files, log, state })
    }

    /// The user that the process changes to, if it does.
    pub fn user(&self) -> Option<Uid> {
        self.account.as_ref().map(|account| account.ids().0)
    }

    /// Confines this thread and those that it starts, and logs what is in force. `own` are the endpoints that we bound,
    /// `lent` those of a predecessor, `log` is the open access log if it is a file. After an error the process is half
    /// confined and must end.
    pub fn carry_out(self, own: &[Endpoint], lent: &[Endpoint], log: Option<BorrowedFd<'_>>) -> Result<(), String> {
        let paths: Vec<&Path> = own.iter().chain(lent).filter_map(path).collect();
        let read: Vec<&Path> = self.files.iter().map(|(_, file)| file.as_path()).collect();
        // Planned with the original user, so that the rules also cover directories that become accessible to the new
        // user later.
        let rules = match self.sandbox {
            true => Some(
                sandbox::SandboxRules::plan(&self.sandboxed(&read, &paths), self.abstract_backend)
                    .map_err(|why| off_hint(&why))?,
            ),
            false => None,
        };
        if let Some(account) = &self.account {
            for path in own.iter().filter_map(path) {
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
            shed(self.transparent).map_err(|error| format!("can't give up capabilities: {error}"))?;
        }
        let privileges = |error| format!("can't set no_new_privs: {error}");
        rustix::thread::set_no_new_privs(true).map_err(privileges)?;
        let state = match rules {
            Some(rules) => rules.enter().map_err(|why| off_hint(&why))?,
            None => "no sandbox".to_owned(),
        };
        let account = account::own();
        let kept = if root { "every capability it was given".to_owned() } else { kept() };
        log::info!("runs as {account} with {kept}, no new privileges, {state}");
        if root {
            log::warn!("runs as root without need: name an unprivileged user with user, or --user");
        }
        self.warn_of_failures(&paths);
        Ok(())
    }

    /// The files that the process opens again.
    fn sandboxed<'a>(&'a self, read: &'a [&'a Path], sockets: &'a [&'a Path]) -> sandbox::Files<'a> {
        let (log, state) = (self.log.as_deref(), self.state.as_deref());
        sandbox::Files { read, sockets, log, state }
    }

    /// Warns of what will fail later, while an operator is likely to read the log.
    fn warn_of_failures(&self, sockets: &[&Path]) {
        for (reader, file) in &self.files {
            if let Err(error) = std::fs::File::open(file) {
                let account = account::own();
                log::warn!("{reader} will fail: {account} can't read {}: {error}", file.display());
            }
        }
        if let Some(log) = self.log.as_deref().filter(|log| log.metadata().is_ok_and(|log| log.is_file()))
            && rustix::fs::access(directory(log), Access::WRITE_OK | Access::EXEC_OK).is_err()
        {
            let (account, log, directory) = (account::own(), log.display(), directory(log).display());
            log::warn!(
                "once {log} is renamed, SIGUSR1 will fail to open another: {account} can't create files in {directory}; the tool that renames \
                 the log must create the new file, owned by {account}"
            );
        }
        for socket in sockets {
            let directory = directory(socket);
            if rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK).is_err() {
                let (account, socket, directory) = (account::own(), socket.display(), directory.display());
                log::warn!("{socket} will stay behind at the end: {account} can't remove files from {directory}");
            }
        }
    }
}

/// The error names the setting that turns the sandbox off.
fn off_hint(why: &str) -> String {
    format!("can't set up the sandbox: {why}; sandbox = \"off\" (or --sandbox off) turns it off")
}

fn path(endpoint: &Endpoint) -> Option<&Path> {
    match endpoint {
        Endpoint::Unix(path) => abstract_name(path).is_none().then_some(path),
        Endpoint::Inet(_) => None,
    }
}

/// The directory of a path; `.` for a bare name.
pub fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Changes the owner or the group of a socket file, never of a file of another kind in its place.
fn give(path: &Path, account: &Account, (owner, in_group): (bool, bool)) -> io::Result<()> {
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if !FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode).is_socket() {
        return Err(io::Error::other("it is no longer a socket"));
    }
    let (user, group) = account.ids();
    let (user, group) = (Some(user).filter(|_| owner), Some(group).filter(|_| in_group));
    Ok(rustix::fs::chownat(&file, "", user, group, AtFlags::EMPTY_PATH)?)
}

/// Changes the owner of the log, if it is a regular file. A file with a second name (a hard link) may belong to another
/// user's directory and is refused.
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

/// Drops every capability but those that are needed later. If there is nothing to drop, it makes no call: a service manager's seccomp
/// filter may kill the process for it.
fn shed(is_transparent: bool) -> rustix::io::Result<()> {
    let now = capabilities(None)?;
    let also = transparent(now.permitted).filter(|_| is_transparent).map_or(CapabilitySet::empty(), |(one, _)| one);
    let kept = now.permitted & (KEPT | also);
    let wanted = CapabilitySets { effective: kept, permitted: kept, inheritable: now.inheritable & kept };
    if now == wanted { Ok(()) } else { set_capabilities(None, wanted) }
}

/// The capabilities that are left.
fn kept() -> String {
    let effective = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    let bind_service = effective.contains(KEPT).then_some("CAP_NET_BIND_SERVICE");
    let names = bind_service.into_iter().chain(transparent(effective).map(|(_, name)| name));
    match names.collect::<Vec<_>>().as_slice() {
        [] => "no capability".to_owned(),
        names => format!("{} only", names.join(" and ")),
    }
}
