//! One process at a time keeps the table of a network namespace: the one whose helper has the abstract unix socket [`NAME`].
//!
//! The kernel frees the name with the process, however that ends.

use super::wire::Failure;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

/// The name. Abstract names belong to a network namespace, as tables do.
pub(super) const NAME: &str = "tcplb-kernel";

/// How long the process before may take to let go: it ends, or hands over.
const PATIENCE: Duration = Duration::from_secs(3);

const PAUSE: Duration = Duration::from_millis(20);

/// The socket.
#[derive(Debug)]
pub(super) struct Hold {
    _socket: OwnedFd,
}

impl Hold {
    /// Takes the name.
    pub(super) fn take() -> Result<Hold, Failure> {
        let until = Instant::now() + PATIENCE;
        loop {
            match try_take() {
                Ok(hold) => return Ok(hold),
                Err(Errno::ADDRINUSE) if Instant::now() < until => thread::sleep(PAUSE),
                Err(Errno::ADDRINUSE) => return Err(Failure::Held),
                Err(error) => return Err(Failure::Refused(format!("it can't bind @{NAME}: {error}"))),
            }
        }
    }
}

fn try_take() -> Result<Hold, Errno> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrUnix::new_abstract_name(NAME.as_bytes())?)?;
    // `ss -l` shows sockets that listen.
    listen(&socket, 0)?;
    Ok(Hold { _socket: socket })
}
