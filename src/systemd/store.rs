//! The service manager's descriptor store. It keeps descriptors while the service restarts, and passes them to the next process
//! (sd_notify(3), `FDSTORE=1`; systemd.service(5), `FileDescriptorStoreMax=`).
//!
//! The manager answers no message. Two things show what it has done:
//!
//! * It reads messages in order, and closes the descriptor of `BARRIER=1` once it has read that message and all before it. The other
//!   end of the pipe shows that.
//! * It closes a descriptor that it does not keep. So what is given to it is one end of a socket pair, and the other end shows that.
//!   systemd 254 and later close it a moment after the barrier.

use super::{AGAIN, address};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pipe::{PipeFlags, pipe_with};
use std::env;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::{Duration, Instant};

/// The store of the manager that started this process.
#[derive(Debug)]
pub struct Store(UnixDatagram);

impl Store {
    /// Connects to the manager. Fails with the reason.
    pub fn connect() -> Result<Store, String> {
        let Some(path) = env::var_os("NOTIFY_SOCKET") else {
            return Err("no service manager has started tcplb (NOTIFY_SOCKET is not set)".to_owned());
        };
        let connect = || {
            let socket = UnixDatagram::unbound()?;
            socket.connect_addr(&address(&path)?)?;
            Ok(Store(socket))
        };
        connect().map_err(|error: io::Error| format!("can't reach the service manager: {error}"))
    }

    /// Gives it one end of a socket pair, under a name. False: it does not keep that, as the `other` end has shown by `grace` after the
    /// manager has read the message.
    pub fn put(&self, name: &str, end: OwnedFd, other: impl AsFd, grace: Duration, until: Instant) -> io::Result<bool> {
        // Without FDPOLL=0 the manager drops it once the other end is closed.
        self.send(&format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"), &[end.as_fd()], until)?;
        drop(end);
        self.flush(until)?;
        Ok(!hangs_up(other, grace)?)
    }

    /// Removes the descriptors of this name.
    pub fn remove(&self, name: &str, until: Instant) -> io::Result<()> {
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[], until)
    }

    /// Waits until the manager has read all messages so far.
    fn flush(&self, until: Instant) -> io::Result<()> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        self.send("BARRIER=1", &[write.as_fd()], until)?;
        drop(write);
        match hangs_up(&read, until.saturating_duration_since(Instant::now()))? {
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::TimedOut, "the service manager does not read its messages")),
        }
    }

    /// Sends a message. The manager's queue may be full, and so may be the kernel's count of descriptors that are on their way
    /// (ETOOMANYREFS): both pass.
    fn send(&self, text: &str, descriptors: &[BorrowedFd<'_>], until: Instant) -> io::Result<()> {
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for a message"));
            }
            let bytes = [IoSlice::new(text.as_bytes())];
            match sendmsg(&self.0, &bytes, &mut ancillary, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::TOOMANYREFS | Errno::INTR) if Instant::now() < until => {
                    thread::sleep(AGAIN);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether all copies of the other end are closed, now or within `time`.
fn hangs_up(end: impl AsFd, time: Duration) -> io::Result<bool> {
    let until = Instant::now() + time;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        // A hang-up is always reported.
        match poll(&mut [PollFd::new(&end, PollFlags::empty())], Some(&left)) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
