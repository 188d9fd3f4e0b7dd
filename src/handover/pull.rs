//! The socket at which a running process hands over to one that it did not start: `[global] take_over`, `--take-over`. Linux only.
//!
//! The running process listens there. A new one, the *puller*, connects, and is then a successor like any other ([`super`]). The
//! connection is the [`Channel`]. The two may be in different PID namespaces, like containers that share a volume. So neither needs the
//! process number of the other. The end of the puller closes the channel, that of the predecessor closes [`super::Life`].
//!
//! | at the path | the new process |
//! |---|---|
//! | no file, or a socket on which no process listens | starts anew, with a warning |
//! | the socket of a tcplb | takes over, or ends with the reason of a refusal |
//! | anything else, or no permission | ends with an error |
//!
//! The socket file has mode 0600. The running process also asks the kernel for the user of the puller ([`Puller::uid`]). The puller
//! trusts the path, as it trusts that of its configuration file.

use super::Channel;
use nix::sys::socket::{getsockopt, sockopt};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, socket_with};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// A process that has connected to the socket.
pub struct Puller {
    /// The connection.
    pub channel: Channel,
    /// Its number; `None` in another PID namespace, where it has none here.
    pub pid: Option<i32>,
    /// Its effective user when it connected (SO_PEERCRED, unix(7)).
    pub uid: u32,
}

/// Accepts the next one. `WouldBlock`: none waits.
pub fn accept(listening: &impl AsFd) -> io::Result<Puller> {
    let connection = accept_with(listening, FLAGS)?;
    let peer = getsockopt(&connection, sockopt::PeerCredentials)?;
    Ok(Puller { channel: Channel::of(connection)?, pid: Some(peer.pid()).filter(|pid| *pid > 0), uid: peer.uid() })
}

/// Connects to the process that listens at the path. `None`: there is none, which is logged.
pub fn connect(path: &Path) -> Result<Option<Channel>, String> {
    let wrong = |why: &dyn std::fmt::Display| Err(format!("can't take over at {}: {why}", path.display()));
    let connected = || {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok::<_, Errno>(socket)
    };
    match connected() {
        Ok(socket) => Channel::of(socket).map(Some).or_else(|error| wrong(&error)),
        Err(Errno::CONNREFUSED) if !is_socket(path) => wrong(&"expected a unix socket, but the file is none"),
        Err(error @ (Errno::NOENT | Errno::CONNREFUSED)) => {
            log::warn!("nothing to take over at {}: starts anew ({})", path.display(), io::Error::from(error));
            Ok(None)
        }
        Err(Errno::PROTOTYPE) => wrong(&"expected the socket of take_over, but a socket of another kind is there"),
        Err(Errno::AGAIN) => wrong(&"too many processes wait there already"),
        Err(error) => wrong(&io::Error::from(error)),
    }
}

fn is_socket(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn a_puller_is_known_by_its_user_and_its_number() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("take-over.sock");
        let listening = crate::net::listen::bind_for_messages(&path).unwrap();
        assert_eq!(accept(&listening).err().map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
        let ours = connect(&path).unwrap().unwrap();
        let Puller { channel, pid, uid } = accept(&listening).unwrap();
        assert_eq!((pid, uid), (i32::try_from(std::process::id()).ok(), rustix::process::geteuid().as_raw()));
        let soon = Instant::now() + Duration::from_secs(10);
        ours.send(b"hello", &[], soon).unwrap();
        assert_eq!(channel.receive(soon).unwrap().unwrap().bytes, b"hello");
    }

    #[test]
    fn without_a_process_there_is_nothing_to_take_over_and_another_file_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        assert!(connect(&path("absent")).unwrap().is_none());
        drop(crate::net::listen::bind_for_messages(&path("left")).unwrap());
        assert!(path("left").exists() && connect(&path("left")).unwrap().is_none());
        std::fs::write(path("file"), "").unwrap();
        assert!(connect(&path("file")).unwrap_err().ends_with("expected a unix socket, but the file is none"));
        let _stream = std::os::unix::net::UnixListener::bind(path("stream")).unwrap();
        assert!(connect(&path("stream")).unwrap_err().contains("a socket of another kind"));
    }
}
