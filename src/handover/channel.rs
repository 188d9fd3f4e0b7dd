//! The connection between two processes: a pair of unix sockets that keep the bounds of messages (SOCK_SEQPACKET, unix(7)).
//!
//! A message is at most [`MESSAGE_MAX`] bytes, and carries at most [`DESCRIPTORS_MAX`] descriptors (SCM_RIGHTS). Every call
//! has a deadline. The kernel drops descriptors where the receiver's limit is reached. So every message that carries
//! descriptors says how many, and [`Channel::receive`] gives the first ones, which came.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_send_buffer_size, socket_send_buffer_size, socket_type};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType, recvmsg, sendmsg, shutdown, socketpair,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

/// The longest message. The kernel's default send buffer (net.core.wmem_default, 212 992 bytes) holds it.
pub const MESSAGE_MAX: usize = 192 * 1024;

/// The most descriptors of a message. The kernel's own limit is 253 (SCM_MAX_FD).
pub const DESCRIPTORS_MAX: usize = 128;

/// One end of the connection.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// A message, and the descriptors that came with it.
#[derive(Debug, Default)]
pub struct Parcel {
    /// The message.
    pub bytes: Vec<u8>,
    /// The descriptors, in the order of the sender. The last ones may be missing.
    pub descriptors: Vec<OwnedFd>,
}

impl Channel {
    /// Two connected ends.
    pub fn pair() -> io::Result<(Channel, Channel)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Channel(one), Channel(other)))
    }

    /// The end that another process made. Fails if it is not such a socket.
    pub fn of(socket: OwnedFd) -> io::Result<Channel> {
        match socket_type(&socket) {
            Ok(SocketType::SEQPACKET) => {}
            Ok(_) | Err(_) => return Err(io::Error::other("it is not a SOCK_SEQPACKET socket")),
        }
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Channel(socket))
    }

    /// Gives the end away, for another process.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Sends a message with descriptors.
    ///
    /// # Errors
    ///
    /// `TimedOut` after `until`; `InvalidInput` above the bounds; BrokenPipe or ConnectionReset once the other end is closed;
    /// ETOOMANYREFS where too many descriptors are on their way (unix(7)).
    pub fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>], until: Instant) -> io::Result<()> {
        if bytes.is_empty() || bytes.len() > MESSAGE_MAX || descriptors.len() > DESCRIPTORS_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is empty or too large"));
        }
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
            }
            match sendmsg(&self.0, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, until)?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Makes room for a short message, however many wait. The kernel takes a message of any size below this limit, so one message
    /// may exceed it.
    pub fn make_room(&self) -> io::Result<()> {
        // The kernel grants twice of what is asked for, up to twice net.core.wmem_max (socket(7)).
        let limit = socket_send_buffer_size(&self.0)?;
        Ok(set_socket_send_buffer_size(&self.0, limit)?)
    }

    /// Lets the other end send nothing more. What it has sent can still be received.
    pub fn end_receiving(&self) -> io::Result<()> {
        Ok(shutdown(&self.0, Shutdown::Read)?)
    }

    /// Receives a message; `None` once the other end is closed.
    ///
    /// # Errors
    ///
    /// `TimedOut` after `until`; `InvalidData` if the message did not fit.
    pub fn receive(&self, until: Instant) -> io::Result<Option<Parcel>> {
        let mut bytes = vec![0; MESSAGE_MAX];
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            match recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags) {
                Ok(received) => {
                    let mut descriptors = Vec::new();
                    for message in ancillary.drain() {
                        if let RecvAncillaryMessage::ScmRights(came) = message {
                            descriptors.extend(came);
                        }
                    }
                    if received.bytes == 0 {
                        return Ok(None);
                    }
                    if received.flags.contains(ReturnFlags::TRUNC) {
                        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message did not fit"));
                    }
                    bytes.truncate(received.bytes);
                    return Ok(Some(Parcel { bytes, descriptors }));
                }
                Err(Errno::AGAIN) => self.wait(PollFlags::IN, until)?,
                // The other end was closed before it had read everything. What it has sent is still here.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until the socket is ready.
    fn wait(&self, what: PollFlags, until: Instant) -> io::Result<()> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut [PollFd::new(&self.0, what)], Some(&left)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn messages_keep_their_bounds_and_their_descriptors() {
        let (one, other) = Channel::pair().unwrap();
        let (mut reader, mut writer) = io::pipe().unwrap();
        one.send(b"first", &[], soon()).unwrap();
        one.send(b"second", &[writer.as_fd()], soon()).unwrap();
        let first = other.receive(soon()).unwrap().unwrap();
        assert_eq!((&first.bytes[..], first.descriptors.len()), (&b"first"[..], 0));
        let second = other.receive(soon()).unwrap().unwrap();
        assert_eq!((&second.bytes[..], second.descriptors.len()), (&b"second"[..], 1));
        let mut passed = File::from(second.descriptors.into_iter().next().unwrap());
        passed.write_all(b"x").unwrap();
        writer.write_all(b"y").unwrap();
        drop((passed, writer));
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "xy");
    }

    #[test]
    fn the_largest_message_passes_and_a_larger_one_is_an_error() {
        let (one, other) = Channel::pair().unwrap();
        let largest = vec![7; MESSAGE_MAX];
        let (reader, _writer) = io::pipe().unwrap();
        let descriptors = [reader.as_fd(); DESCRIPTORS_MAX];
        one.send(&largest, &descriptors, soon()).unwrap();
        let parcel = other.receive(soon()).unwrap().unwrap();
        assert_eq!((parcel.bytes.len(), parcel.descriptors.len()), (MESSAGE_MAX, DESCRIPTORS_MAX));
        let larger = vec![7; MESSAGE_MAX + 1];
        assert_eq!(one.send(&larger, &[], soon()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(one.send(b"", &[], soon()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_deadline_and_an_end_are_seen() {
        let (one, other) = Channel::pair().unwrap();
        let past = Instant::now();
        assert_eq!(other.receive(past).unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(one);
        assert!(other.receive(soon()).unwrap().is_none());
        assert!(other.send(b"late", &[], soon()).is_err());
    }

    #[test]
    fn what_was_sent_before_a_close_arrives() {
        let (one, other) = Channel::pair().unwrap();
        other.send(b"not read", &[], soon()).unwrap();
        one.send(b"refused", &[], soon()).unwrap();
        drop(one);
        assert_eq!(other.receive(soon()).unwrap().unwrap().bytes, b"refused");
        assert!(other.receive(soon()).unwrap().is_none());
    }

    #[test]
    fn another_kind_of_socket_is_refused() {
        let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(Channel::of(stream.into()).is_err());
        assert!(Channel::of(io::pipe().unwrap().0.into()).is_err());
    }
}
