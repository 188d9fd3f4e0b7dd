//! What is set on the TCP sockets of clients and backends: keepalive, and a cap on their buffers.
//!
//! Left alone, Linux grows a socket's buffers with what is under way, up to net.ipv4.tcp_rmem and tcp_wmem: fast on long
//! paths, and megabytes for each connection whose receiver stalls. A cap fixes both buffers instead. It is set before a socket
//! connects or listens; accepted sockets inherit it. Unix sockets are not tuned by the kernel and stay as they are.

use super::Keepalive;
use super::socket::keep_alive;
use crate::base::Size;
use crate::config::model::Global;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// What all sockets of clients and backends get.
#[derive(Clone, Copy, Debug)]
pub struct TcpTuning {
    /// How vanished peers are found.
    pub keepalive: Keepalive,
    /// The most that each buffer holds; `None`: the kernel decides.
    pub buffer: Option<Size>,
}

/// The buffers that the kernel grants where a cap was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// For what has arrived and was not read yet.
    pub receive: Size,
    /// For what was written and not acknowledged yet.
    pub send: Size,
}

impl TcpTuning {
    /// As the configuration says.
    pub fn of(global: &Global) -> TcpTuning {
        TcpTuning { keepalive: Keepalive::within(global.dead_peer_timeout), buffer: global.socket_buffer }
    }

    /// For a listener, whose clients inherit it.
    pub(super) fn apply(&self, listener: BorrowedFd<'_>) -> io::Result<()> {
        keep_alive(listener, &self.keepalive)?;
        Ok(cap(listener, self.buffer)?)
    }
}

impl From<Keepalive> for TcpTuning {
    /// With buffers as the kernel likes.
    fn from(keepalive: Keepalive) -> TcpTuning {
        TcpTuning { keepalive, buffer: None }
    }
}

/// Caps the buffers of a TCP socket.
pub(super) fn cap(socket: impl AsFd, buffer: Option<Size>) -> Result<(), Errno> {
    let Some(size) = buffer else { return Ok(()) };
    sockopt::set_socket_recv_buffer_size(&socket, size.bytes())?;
    sockopt::set_socket_send_buffer_size(&socket, size.bytes())
}

/// What the kernel makes of a cap: it grants at most net.core.rmem_max and net.core.wmem_max, and says nothing.
pub fn granted(asked: Size) -> io::Result<Granted> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    cap(&socket, Some(asked))?;
    // The kernel doubles what is asked for, as room for its bookkeeping, and answers with the double (socket(7)).
    let half = |doubled: usize| Size::of_bytes(doubled / 2);
    Ok(Granted {
        receive: half(sockopt::socket_recv_buffer_size(&socket)?),
        send: half(sockopt::socket_send_buffer_size(&socket)?),
    })
}
