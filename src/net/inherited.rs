//! Listening sockets that a service manager opened before it started us (systemd: `LISTEN_FDS`).
//!
//! They are offered once, at the start. Whoever binds an address for which one is offered gets it; what nobody asked for
//! by the end of the start is dropped by [`unclaimed`] and said so. The offers are the process's, like the descriptors
//! themselves, which is why they are kept in a static.

use crate::base::Endpoint;
use parking_lot::Mutex;
use socket2::{Domain, Socket};
use std::io;

/// At most as many as were inherited; only ever shrinks.
static OFFERED: Mutex<Vec<(Endpoint, Socket)>> = Mutex::new(Vec::new());

/// Those of them that are in use, or were.
static TAKEN: Mutex<Vec<Endpoint>> = Mutex::new(Vec::new());

/// Offers a socket. An error if it is none that listens, or its address is none of ours.
pub fn inherit(socket: Socket) -> io::Result<()> {
    let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why);
    if !socket.is_listener()? {
        return Err(wrong("it does not listen"));
    }
    let address = socket.local_addr()?;
    let endpoint = match (socket.domain()?, address.as_socket(), address.as_pathname()) {
        (Domain::IPV4 | Domain::IPV6, Some(at), _) => Endpoint::Inet(at),
        (Domain::UNIX, _, Some(path)) => Endpoint::Unix(path.into()),
        _ => return Err(wrong("it has neither an IP address nor a path")),
    };
    socket.set_nonblocking(true)?;
    OFFERED.lock().push((endpoint, socket));
    Ok(())
}

/// The socket offered for this address, if there is one.
pub(super) fn take(endpoint: &Endpoint) -> Option<Socket> {
    let mut offered = OFFERED.lock();
    let index = offered.iter().position(|(candidate, _)| candidate == endpoint)?;
    let (endpoint, socket) = offered.swap_remove(index);
    TAKEN.lock().push(endpoint);
    Some(socket)
}

/// Was a socket taken over there? Its file, if it has one, is the service manager's: it stays.
pub fn is_inherited(endpoint: &Endpoint) -> bool {
    TAKEN.lock().contains(endpoint)
}

/// Drops what nobody asked for and says where it listened.
pub fn unclaimed() -> Vec<Endpoint> {
    OFFERED.lock().drain(..).map(|(endpoint, _)| endpoint).collect()
}
