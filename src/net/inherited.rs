//! Listening sockets that this process did not open: from the service manager (systemd: `LISTEN_FDS`), or from the process that it
//! takes over from ([`crate::handover`]).
//!
//! All of them are kept here until a listener claims them. Descriptors belong to the process, so the list is a static.
//!
//! | giver | sockets of an address | closed by | unclaimed |
//! |---|---|---|---|
//! | service manager | one, which all workers share | the manager: it keeps its own descriptors, so the address stays bound | kept for a listener that a reload adds |
//! | predecessor | one per worker of it | this process: they are like those that it opened | [`own_lent`] |
//!
//! A predecessor lends its sockets: it serves there again if this process fails. So nothing of them changes before [`own_lent`]. Options
//! and the length of the accept queue are those of the socket, not of the descriptor, and both processes have the same socket.

use super::socket_file::{self, FileId};
use crate::base::Endpoint;
use crate::base::text::hidden_in;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};
use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the predecessor may serve again at sockets that it has given.
static LENT: AtomicBool = AtomicBool::new(false);

/// Bounded by the number of sockets that were given.
static INHERITED: Mutex<Vec<Inherited>> = Mutex::new(Vec::new());

struct Inherited {
    endpoint: Endpoint,
    socket: Socket,
    /// Streams or messages.
    kind: Type,
    claimed: bool,
    giver: Giver,
}

/// Where a socket comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Giver {
    /// The service manager.
    Manager {
        /// The process that ran before has passed it on, and may still serve there.
        lent: bool,
    },
    /// The process that ran before.
    Predecessor {
        /// What has the address, if its configuration asks for any port.
        claimant: Option<Claimant>,
        /// The file of a unix socket.
        file: Option<FileId>,
    },
}

/// The part of a configuration that has an address. It gets the port back that the kernel chose for its port 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Claimant {
    /// A listener.
    Listener {
        /// Its name.
        name: String,
        /// The place of the address in its `bind`.
        place: usize,
    },
    /// The admin API.
    Admin,
}

/// The sockets of an address that a listener has claimed.
pub(super) enum Claim {
    /// One of the service manager, which workers share.
    Shared {
        /// The socket.
        socket: Socket,
        /// See [`Giver::Manager`].
        lent: bool,
    },
    /// Those of the predecessor's workers.
    Own {
        /// The sockets.
        sockets: Vec<Socket>,
        /// The file of a unix socket.
        file: Option<FileId>,
    },
}

/// Keeps a socket of the service manager for the listener with its address. Fails if the socket does not listen, or has no
/// address that a listener can have.
pub fn inherit(socket: Socket) -> io::Result<()> {
    keep(socket, Giver::Manager { lent: false })
}

/// Keeps a socket of the predecessor. Fails as [`inherit`] does.
pub fn take_over(descriptor: OwnedFd, giver: Giver) -> io::Result<()> {
    LENT.store(true, Ordering::Relaxed);
    keep(Socket::from(descriptor), giver)
}

fn keep(socket: Socket, giver: Giver) -> io::Result<()> {
    let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why);
    if !socket.is_listener()? {
        return Err(wrong("it does not listen"));
    }
    let address = socket.local_addr()?;
    let named = |name: &[u8]| Path::new(OsStr::from_bytes(&[b"@", name].concat())).to_owned();
    let unix = address.as_pathname().map(Path::to_owned).or_else(|| address.as_abstract_namespace().map(named));
    let endpoint = match (socket.domain()?, address.as_socket(), unix) {
        (Domain::IPV4 | Domain::IPV6, Some(at), _) => Endpoint::Inet(at),
        (Domain::UNIX, _, Some(path)) if hidden_in(&path.to_string_lossy()).is_some() => {
            return Err(wrong("its path contains a control, direction-changing or invisible character"));
        }
        (Domain::UNIX, _, Some(path)) => Endpoint::Unix(path.into()),
        _ => return Err(wrong("it has neither an IP address nor a path nor a name")),
    };
    socket.set_nonblocking(true)?;
    let kind = socket.r#type()?;
    INHERITED.lock().push(Inherited { endpoint, socket, kind, claimed: false, giver });
    Ok(())
}

/// The sockets of this kind with this address, if there are some. A port of 0 takes the one that the predecessor has for the same
/// claimant.
pub(super) fn claim(endpoint: &Endpoint, kind: Type, claimant: Option<&Claimant>) -> io::Result<Option<Claim>> {
    let mut inherited = INHERITED.lock();
    let fits = |candidate: &&mut Inherited| match &candidate.giver {
        Giver::Manager { .. } => candidate.endpoint == *endpoint,
        Giver::Predecessor { claimant: other, .. } => {
            let same = claimant.is_some() && claimant == other.as_ref();
            candidate.endpoint == *endpoint || (same && is_any_port_of(endpoint, &candidate.endpoint))
        }
    };
    let Some(found) = inherited.iter_mut().filter(|candidate| candidate.kind == kind).find(fits) else {
        return Ok(None);
    };
    found.claimed = true;
    let file = match found.giver {
        Giver::Manager { lent } => return Ok(Some(Claim::Shared { socket: found.socket.try_clone()?, lent })),
        Giver::Predecessor { file, .. } => file,
    };
    let endpoint = found.endpoint.clone();
    let of_it = |one: &mut Inherited| !one.giver.is_manager() && one.endpoint == endpoint && one.kind == kind;
    let sockets = inherited.extract_if(.., of_it).map(|one| one.socket).collect();
    Ok(Some(Claim::Own { sockets, file }))
}

impl Giver {
    fn is_manager(&self) -> bool {
        matches!(self, Giver::Manager { .. })
    }
}

/// Does the configured address, of port 0, fit to the bound one?
fn is_any_port_of(asked: &Endpoint, bound: &Endpoint) -> bool {
    let ip = |at: &SocketAddr| at.ip();
    match (asked, bound) {
        (Endpoint::Inet(asked), Endpoint::Inet(bound)) => asked.port() == 0 && ip(asked) == ip(bound),
        (Endpoint::Unix(_), _) | (_, Endpoint::Unix(_)) => false,
    }
}

fn of_manager() -> impl Fn(&&Inherited) -> bool {
    |inherited| inherited.giver.is_manager()
}

/// Whether a socket of the service manager or of the predecessor keeps others from listening there.
pub fn holds(at: SocketAddr) -> bool {
    INHERITED.lock().iter().any(|inherited| inherited.endpoint.inet().is_some_and(|held| overlap(held, at)))
}

/// Whether two sockets can't listen at these addresses at once.
pub fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let (ip, of_other) = (one.ip().to_canonical(), other.ip().to_canonical());
    one.port() == other.port() && (ip == of_other || ip.is_unspecified() || of_other.is_unspecified())
}

/// Whether the service manager opened a socket with this address.
pub fn is_offered(endpoint: &Endpoint) -> bool {
    INHERITED.lock().iter().filter(of_manager()).any(|inherited| inherited.endpoint == *endpoint)
}

/// Whether a listener uses the service manager's socket with this address. Its file belongs to the service manager and stays.
pub fn is_inherited(endpoint: &Endpoint) -> bool {
    let inherited = INHERITED.lock();
    inherited.iter().filter(of_manager()).any(|inherited| inherited.claimed && inherited.endpoint == *endpoint)
}

/// The addresses of the service manager that no listener has claimed.
pub fn unclaimed() -> Vec<Endpoint> {
    let inherited = INHERITED.lock();
    let unclaimed = inherited.iter().filter(of_manager()).filter(|inherited| !inherited.claimed);
    unclaimed.map(|inherited| inherited.endpoint.clone()).collect()
}

/// The sockets of the service manager, for a successor.
pub fn of_service_manager() -> io::Result<Vec<(Endpoint, OwnedFd)>> {
    let inherited = INHERITED.lock();
    let copy = |one: &Inherited| Ok((one.endpoint.clone(), one.socket.try_clone()?.into()));
    inherited.iter().filter(of_manager()).map(copy).collect()
}

/// Closes the sockets that are kept here: another process serves there.
pub fn leave_inherited() {
    INHERITED.lock().clear();
}

/// Whether sockets may be those of a predecessor that serves again if this process fails.
pub(super) fn are_lent() -> bool {
    LENT.load(Ordering::Relaxed)
}

/// The sockets of the predecessor and their files belong to this process from now on. Those that no listener has claimed close.
pub fn own_lent() {
    LENT.store(false, Ordering::Relaxed);
    socket_file::own_lent();
    let mut inherited = INHERITED.lock();
    for Inherited { endpoint, giver, .. } in inherited.extract_if(.., |one| !one.giver.is_manager()) {
        if let (Endpoint::Unix(path), Giver::Predecessor { file: Some(file), .. }) = (endpoint, giver) {
            socket_file::remove_own(&path, file);
        }
    }
}
