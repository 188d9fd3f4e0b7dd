//! The echo server: sends every byte back, then the FIN.

use super::ServerState;
use socket2::Socket;
use std::io::{self, Read, Write};
use std::net::Shutdown;

const CHUNK: usize = 64 * 1024;

/// Echoes until the client has finished. There is no time-out, since silent clients test the balancer's idle time-outs.
pub fn talk(mut socket: &Socket, shared: &ServerState) -> io::Result<()> {
    shared.count();
    let mut chunk = vec![0; CHUNK];
    loop {
        match socket.read(&mut chunk) {
            Ok(0) => return socket.shutdown(Shutdown::Write),
            Ok(length) => socket.write_all(&chunk[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
