//! Listening sockets that the service manager opened and passed to this process (systemd: `LISTEN_FDS`).
//!
//! The manager keeps them open while this process runs, so their addresses can't be bound. All of them are kept here,
//! whether a listener uses them or not. [`claim`] gives a descriptor to the listener with that address, also to one
//! that a reload adds. Descriptors belong to the process, so the list is a static.

use crate::base::Endpoint;
use crate::base::text::hidden_in;
use parking_lot::Mutex;
use socket2::{Domain, Socket};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Bounded by the number of inherited sockets.
static INHERITED: Mutex<Vec<Inherited>> = Mutex::new(Vec::new());

struct Inherited {
    endpoint: Endpoint,
    socket: Socket,
    claimed: bool,
}

/// Keeps a socket for the listener with its address. Fails if the socket does not listen, or has no address that a
/// listener can have.
pub fn inherit(socket: Socket) -> io::Result<()> {
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
    INHERITED.lock().push(Inherited { endpoint, socket, claimed: false });
    Ok(())
}

/// The inherited socket with this address, if there is one.
pub(super) fn claim(endpoint: &Endpoint) -> io::Result<Option<Socket>> {
    let mut inherited = INHERITED.lock();
    let Some(found) = inherited.iter_mut().find(|candidate| candidate.endpoint == *endpoint) else { return Ok(None) };
    let socket = found.socket.try_clone()?;
    found.claimed = true;
    Ok(Some(socket))
}

/// Whether the service manager opened a socket with this address.
pub fn is_offered(endpoint: &Endpoint) -> bool {
    INHERITED.lock().iter().any(|inherited| inherited.endpoint == *endpoint)
}

/// Whether a listener uses the inherited socket with this address. Its file belongs to the service manager and stays.
pub fn is_inherited(endpoint: &Endpoint) -> bool {
    INHERITED.lock().iter().any(|inherited| inherited.claimed && inherited.endpoint == *endpoint)
}

/// The addresses that no listener has claimed.
pub fn unclaimed() -> Vec<Endpoint> {
    let inherited = INHERITED.lock();
    inherited.iter().filter(|inherited| !inherited.claimed).map(|inherited| inherited.endpoint.clone()).collect()
}
