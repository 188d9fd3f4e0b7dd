//! Real listening sockets, as the acceptor sees them.

use super::Listen;
use crate::base::Endpoint;
use crate::net::Socket;
use crate::net::listen::Listening;
use crate::worker::token::Token;
use mio::unix::SourceFd;
use mio::{Interest, Registry};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

impl Listen for Listening {
    type Socket = Socket;

    fn accept(&self) -> io::Result<(Socket, Option<Endpoint>)> {
        Listening::accept(self)
    }

    fn is_unix(&self) -> bool {
        Listening::is_unix(self)
    }

    fn is_inherited(&self) -> bool {
        Listening::is_inherited(self)
    }

    fn queue_limit(&self) -> u32 {
        Listening::queue_limit(self)
    }

    fn stop_queueing(&self) {
        Listening::stop_queueing(self);
    }

    fn reset(socket: Socket) {
        socket.reset();
    }

    fn watch(&self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.as_fd().as_raw_fd()), token.encode(), Interest::READABLE)
    }

    fn copy(&self) -> io::Result<OwnedFd> {
        self.as_fd().try_clone_to_owned()
    }

    fn unwatch(&self, registry: &Registry) {
        if let Err(error) = registry.deregister(&mut SourceFd(&self.as_fd().as_raw_fd())) {
            log::debug!("can't stop watching a listening socket: {error}");
        }
    }
}
