//! The options of clients' and backends' TCP sockets: keepalive, and a cap on buffers.
//!
//! By default Linux grows a socket's buffers with the bytes in flight, up to net.ipv4.tcp_rmem and tcp_wmem. That is
//! fast on long paths, but costs megabytes for each connection whose receiver stalls. A cap fixes both buffers. It is
//! set before a socket connects or listens; accepted sockets inherit it. Unix sockets keep their defaults.

use super::Keepalive;
use super::socket::keep_alive;
use crate::base::Size;
use crate::config::model::Global;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// The options of all sockets of clients and backends.
#[derive(Clone, Copy, Debug)]
pub struct TcpTuning {
    /// How vanished peers are found.
    pub keepalive: Keepalive,
    /// The cap on each buffer; `None`: the kernel decides.
    pub buffer: Option<Size>,
}

/// The buffers that the kernel grants for a cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The buffer for bytes that arrived and are not read yet.
    pub receive: Size,
    /// The buffer for bytes that were written and are not acknowledged yet.
    pub send: Size,
}

impl TcpTuning {
    /// The options that the configuration sets.
    pub fn of(global: &Global) -> TcpTuning {
        TcpTuning { keepalive: Keepalive::within(global.dead_peer_timeout), buffer: global.socket_buffer }
    }

    /// Sets the options on a listener; accepted sockets inherit them.
    pub(super) fn apply(&self, listener: BorrowedFd<'_>) -> io::Result<()> {
        keep_alive(listener, &self.keepalive)?;
        Ok(cap(listener, self.buffer)?)
    }
}

impl From<Keepalive> for TcpTuning {
    /// Keepalive alone; the kernel decides on buffers.
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

/// The buffers for a cap: the kernel silently grants at most net.core.rmem_max and net.core.wmem_max.
pub fn granted(asked: Size) -> io::Result<Granted> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    cap(&socket, Some(asked))?;
    // The kernel doubles the value for its bookkeeping, and returns the double (socket(7)).
    let half = |doubled: usize| Size::of_bytes(doubled / 2);
    Ok(Granted {
        receive: half(sockopt::socket_recv_buffer_size(&socket)?),
        send: half(sockopt::socket_send_buffer_size(&socket)?),
    })
}
