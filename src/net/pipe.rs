//! Kernel pipes, and splice(2) between pipes and sockets: bytes move by reference to their pages, not through user
//! space. Linux only.

use super::Socket;
use super::socket::retry;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The requested size of a pipe, in bytes: the most that an unprivileged process gets (pipe(7), pipe-max-size).
/// Compared with 256 KiB it saves a quarter of the CPU per byte, since each fill wakes both peers once. It is a hint:
/// the kernel counts pages, and a page with one byte takes a whole slot.
pub const PIPE_SIZE: usize = 1024 * 1024;

/// A pipe with both ends.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    /// Opens a pipe; fails if it can't have a useful size. Once a user's pipes exceed pipe-user-pages-soft (pipe(7): 64
    /// MiB, not for root), the kernel makes new ones two pages small and refuses to enlarge them. Through such a pipe a
    /// byte costs three times the CPU of a large one, and a fifth more than a copy.
    pub fn new() -> io::Result<Pipe> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        fcntl_setpipe_size(&write, PIPE_SIZE).or_else(|_| fcntl_setpipe_size(&write, PIPE_SIZE / 4))?;
        Ok(Pipe { read, write })
    }

    /// A pipe of another process, by its two ends.
    pub fn from_ends(read: OwnedFd, write: OwnedFd) -> Pipe {
        Pipe { read, write }
    }

    /// Its ends: the one to read from, and the one to write to.
    pub fn ends(&self) -> [BorrowedFd<'_>; 2] {
        [self.read.as_fd(), self.write.as_fd()]
    }

    /// Moves up to `most` bytes from the socket into the pipe. 0: the peer's FIN. `WouldBlock`: the socket has no
    /// bytes, or the pipe has no free slot. With an empty pipe it is always the socket.
    pub fn fill(&self, from: &Socket, most: usize) -> io::Result<usize> {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        Ok(retry(|| splice(from.as_fd(), None, &self.write, None, most, flags))?)
    }

    /// Moves up to `most` bytes from the pipe to the socket. `WouldBlock`: the socket has no room.
    pub fn empty(&self, to: &Socket, most: usize) -> io::Result<usize> {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        Ok(retry(|| splice(&self.read, None, to.as_fd(), None, most, flags))?)
    }
}
