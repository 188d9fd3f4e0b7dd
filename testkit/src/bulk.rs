//! Large, checkable streams: what arrives is compared by SHA-256, so that nothing large is kept.

use crate::Conn;
use sha2::Digest as _;
use std::io::{self, Read, Write};

/// Bytes in a MiB.
pub const MIB: usize = 1 << 20;

/// A SHA-256.
type Digest = [u8; 32];

const BLOCK: usize = 256 * 1024;

/// Sends `length` bytes that depend on `seed` and never repeat, and returns their digest. Does not finish the stream.
pub fn send(mut conn: &Conn, seed: u64, length: usize) -> io::Result<Digest> {
    let mut block = vec![0; BLOCK];
    fastrand::Rng::with_seed(seed).fill(&mut block);
    let mut hash = sha2::Sha256::new();
    let mut sent = 0;
    while sent < length {
        // A lost, repeated or moved block shows, as each carries its own offset.
        block[..8].copy_from_slice(&sent.to_le_bytes());
        let part = &block[..BLOCK.min(length - sent)];
        hash.update(part);
        conn.write_all(part)?;
        sent += part.len();
    }
    Ok(hash.finalize().into())
}

/// Reads up to the peer's FIN; the length and digest of all that came.
pub fn receive(mut conn: &Conn) -> io::Result<(usize, Digest)> {
    let mut block = vec![0; BLOCK];
    let mut hash = sha2::Sha256::new();
    let mut length = 0;
    loop {
        match conn.read(&mut block)? {
            0 => return Ok((length, hash.finalize().into())),
            got => {
                hash.update(&block[..got]);
                length += got;
            }
        }
    }
}
