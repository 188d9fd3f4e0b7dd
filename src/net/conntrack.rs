//! Asks the kernel for its table of tracked connections: dumps, deletions, ends. The messages are [`crate::proto::conntrack`]'s.
//!
//! All calls need CAP_NET_ADMIN in the network's user namespace. The helper process makes them.
//!
//! A dump is not a snapshot: entries come and go while it is read. An entry that lives through it is in it.

use crate::proto::conntrack::{self, Entry, Message};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The kernel fills at most this much per call (NLMSG_GOODSIZE and its limit of 32 KiB).
const DATAGRAM: usize = 64 * 1024;

/// The kernel answers at once; this bounds a fault.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many deletions go into one call. Their answers fit the default receive buffer.
const BATCH: usize = 64;

/// The group of ends: `1 << (NFNLGRP_CONNTRACK_DESTROY - 1)`.
const ENDS: u32 = 1 << 2;

/// How many ends are read at once.
const ENDS_MAX: usize = 256 * 1024;

/// How much the kernel may hold of ends that were not read yet: about ten thousand.
const ENDS_BUFFER: usize = 8 * 1024 * 1024;

/// A socket for questions. After an error it is another one, which has no late answers.
#[derive(Debug)]
pub struct Conntrack {
    socket: OwnedFd,
    /// The last call has failed.
    is_stale: bool,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Conntrack {
    /// Opens one.
    pub fn open() -> io::Result<Conntrack> {
        Ok(Conntrack { socket: open(0)?, is_stale: false, buffer: vec![0; DATAGRAM], sequence: 0 })
    }

    /// Shows the TCP entries whose mark, under the mask, is this one. `show` may see an entry twice, if the table grows meanwhile.
    pub fn dump(&mut self, mark: u32, mask: u32, show: impl FnMut(&Entry)) -> io::Result<()> {
        self.renew()?;
        let dumped = self.dump_all(mark, mask, show);
        self.is_stale = dumped.is_err();
        dumped
    }

    /// Deletes entries, and says how many were still there.
    pub fn delete(&mut self, entries: &[Entry]) -> io::Result<u64> {
        self.renew()?;
        let deleted = self.delete_all(entries);
        self.is_stale = deleted.is_err();
        deleted
    }

    fn renew(&mut self) -> io::Result<()> {
        if self.is_stale {
            self.socket = open(0)?;
        }
        Ok(())
    }

    fn dump_all(&mut self, mark: u32, mask: u32, mut show: impl FnMut(&Entry)) -> io::Result<()> {
        let until = Instant::now() + PATIENCE;
        let sequence = self.next();
        send(&self.socket, &conntrack::dump(sequence, mark, mask), SendFlags::empty())?;
        loop {
            let datagram = receive(&self.socket, &mut self.buffer, Some(until))?.ok_or(io::ErrorKind::TimedOut)?;
            for message in conntrack::messages(datagram) {
                match message.map_err(|_| malformed())? {
                    // A kernel that does not know the filter sends all.
                    Message::Entry(entry) if entry.mark & mask == mark => show(&entry),
                    Message::Done { error: 0 } => return Ok(()),
                    Message::Done { error } => return Err(io::Error::from_raw_os_error(error)),
                    Message::Answer { sequence: of, error } if of == sequence && error != 0 => {
                        return Err(io::Error::from_raw_os_error(error));
                    }
                    Message::Entry(_) | Message::Destroyed(_) | Message::Answer { .. } | Message::Other => {}
                }
            }
        }
    }

    fn delete_all(&mut self, entries: &[Entry]) -> io::Result<u64> {
        let mut deleted = 0;
        for batch in entries.chunks(BATCH) {
            let until = Instant::now() + PATIENCE;
            let first = self.sequence.wrapping_add(1);
            let requests: Vec<u8> = batch.iter().flat_map(|entry| conntrack::delete(self.next(), entry)).collect();
            send(&self.socket, &requests, SendFlags::empty())?;
            let mut answers = 0;
            while answers < batch.len() {
                let datagram = receive(&self.socket, &mut self.buffer, Some(until))?.ok_or(io::ErrorKind::TimedOut)?;
                for message in conntrack::messages(datagram) {
                    let Message::Answer { sequence, error } = message.map_err(|_| malformed())? else { continue };
                    // What an earlier call left unread.
                    if usize::try_from(sequence.wrapping_sub(first)).is_ok_and(|number| number >= batch.len()) {
                        continue;
                    }
                    answers += 1;
                    match error {
                        0 => deleted += 1,
                        // It has ended meanwhile, or another one has its addresses.
                        error if error == Errno::NOENT.raw_os_error() => {}
                        error => return Err(io::Error::from_raw_os_error(error)),
                    }
                }
            }
        }
        Ok(deleted)
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }
}

/// What a read of ends came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// How often the kernel had no room for ends, which are lost.
    pub lost: u64,
    /// Whether none is left.
    pub all: bool,
}

/// A socket that receives the ends of all entries, also of those that are not ours: the kernel has no filter for marks here.
#[derive(Debug)]
pub struct Ends {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Ends {
    /// Opens one: ends from now on.
    pub fn open() -> io::Result<Ends> {
        let socket = open(ENDS)?;
        // Beyond net.core.rmem_max, if the network's owner may.
        if set_socket_recv_buffer_size_force(&socket, ENDS_BUFFER).is_err() {
            set_socket_recv_buffer_size(&socket, ENDS_BUFFER)?;
        }
        Ok(Ends { socket, buffer: vec![0; DATAGRAM] })
    }

    /// Shows those that have come.
    pub fn read(&mut self, mut show: impl FnMut(&Entry)) -> io::Result<Drained> {
        let mut lost = 0;
        for _ in 0..ENDS_MAX {
            match receive(&self.socket, &mut self.buffer, None) {
                Ok(Some(datagram)) => {
                    for message in conntrack::messages(datagram) {
                        if let Message::Destroyed(entry) = message.map_err(|_| malformed())? {
                            show(&entry);
                        }
                    }
                }
                Ok(None) => return Ok(Drained { lost, all: true }),
                Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => lost += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(Drained { lost, all: false })
    }
}

impl AsFd for Ends {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a message of conntrack that is not understood")
}

pub(super) fn open(groups: u32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::NETFILTER))?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// The next datagram; `None`: there is none by `until`, or now.
pub(super) fn receive<'a>(
    socket: &OwnedFd,
    buffer: &'a mut [u8],
    until: Option<Instant>,
) -> io::Result<Option<&'a [u8]>> {
    loop {
        // Of a longer datagram, TRUNC would give its length.
        match recv(socket, &mut *buffer, RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
            Ok((read, length)) if read == length => return Ok(Some(&buffer[..read])),
            Ok(_) => return Err(malformed()),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let Some(until) = until else { return Ok(None) };
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Ok(None);
                }
                let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
                match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&left)) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}
