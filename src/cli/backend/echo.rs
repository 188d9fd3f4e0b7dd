//! The raw echo server: every byte goes back, then the FIN.

use super::ServerState;
use socket2::Socket;
use std::io::{self, Read, Write};
use std::net::Shutdown;

const CHUNK: usize = 64 * 1024;

/// Echoes until the client has finished. No time-out: a silent client is what idle time-outs are tested with.
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
