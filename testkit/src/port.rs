//! A port that nothing else gets, whether something listens on it or not.

use socket2::{Domain, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// A reserved port of 127.0.0.1: the bound socket keeps others away, its option lets a listener of ours join.
pub struct Port {
    /// Where it is.
    pub at: SocketAddr,
    _reserved: Socket,
}

impl Port {
    /// Reserves a free one.
    pub fn reserve() -> Port {
        let reserved = reusable();
        reserved.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("bind a free port");
        let at = reserved.local_addr().ok().and_then(|at| at.as_socket()).expect("its address");
        Port { at, _reserved: reserved }
    }

    /// Listens there, with room for 128 connections that wait.
    pub fn listen(&self) -> TcpListener {
        let socket = reusable();
        socket.bind(&self.at.into()).expect("join the reserved port");
        socket.listen(128).expect("listen");
        socket.into()
    }
}

fn reusable() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("set SO_REUSEADDR");
    socket
}
