//! The kernel's `jhash` as nftables computes it, so that the choice that the kernel makes for a client is known here.
//!
//! It is Jenkins's lookup3 with the kernel's start value (`linux/jhash.h`). nftables hashes what its registers hold: each part
//! of a concatenation fills whole registers of four bytes, in network order, with zeros behind. `mod` scales the hash
//! down, as `reciprocal_scale` does.

use std::net::{IpAddr, SocketAddr};

/// The entry of `jhash ip saddr mod SIZE seed SEED`.
pub fn of_source(client: IpAddr, size: u32, seed: u32) -> u32 {
    scale(jhash(&octets(client), seed), size)
}

/// The entry of `jhash ip saddr . tcp sport mod SIZE seed SEED`.
pub fn of_connection(client: SocketAddr, size: u32, seed: u32) -> u32 {
    let mut key = octets(client.ip());
    key.extend(client.port().to_be_bytes());
    key.extend([0, 0]);
    scale(jhash(&key, seed), size)
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn scale(hash: u32, size: u32) -> u32 {
    ((u64::from(hash) * u64::from(size)) >> 32) as u32
}

fn jhash(key: &[u8], seed: u32) -> u32 {
    const START: u32 = 0xdead_beef;
    let start = START.wrapping_add(key.len() as u32).wrapping_add(seed);
    let mut state = [start; 3];
    // The last block is mixed in another way, also if it is whole.
    let whole = key.len().saturating_sub(1) / 12 * 12;
    let (blocks, rest) = key.split_at(whole);
    for block in blocks.chunks_exact(12) {
        // The kernel reads whole blocks in its own byte order, and the rest byte by byte.
        add(&mut state, block, u32::from_ne_bytes);
        mix(&mut state);
    }
    if !rest.is_empty() {
        let mut padded = [0; 12];
        padded.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        add(&mut state, &padded, u32::from_le_bytes);
        finish(&mut state);
    }
    state[2]
}

fn add(state: &mut [u32; 3], block: &[u8], read: fn([u8; 4]) -> u32) {
    let (words, _) = block.as_chunks();
    state.iter_mut().zip(words).for_each(|(part, word)| *part = part.wrapping_add(read(*word)));
}

fn mix([a, b, c]: &mut [u32; 3]) {
    let step = |x: &mut u32, y: &mut u32, z: &mut u32, turn| {
        *x = x.wrapping_sub(*z) ^ z.rotate_left(turn);
        *z = z.wrapping_add(*y);
    };
    step(a, b, c, 4);
    step(b, c, a, 6);
    step(c, a, b, 8);
    step(a, b, c, 16);
    step(b, c, a, 19);
    step(c, a, b, 4);
}

fn finish([a, b, c]: &mut [u32; 3]) {
    let step = |x: &mut u32, y: u32, turn| *x = (*x ^ y).wrapping_sub(y.rotate_left(turn));
    step(c, *b, 14);
    step(a, *c, 11);
    step(b, *a, 25);
    step(c, *b, 16);
    step(a, *c, 4);
    step(b, *a, 14);
    step(c, *b, 24);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// tests/machine/kernel_table.rs compares with a kernel.
    #[test]
    fn it_is_lookup3() {
        // Published with lookup3.c, which starts its state likewise.
        let text = b"Four score and seven years ago";
        assert_eq!((jhash(text, 0), jhash(text, 1)), (0x1777_0551, 0xcd62_8161));
        assert_eq!((jhash(b"", 0), jhash(b"", 0xdead_beef)), (0xdead_beef, 0xbd5b_7dde));
    }

    #[test]
    fn entries_are_even_and_in_range() {
        let mut counts = [0; 7];
        for host in 0..7_000u32 {
            let client = IpAddr::from((0x0a00_0000 + host).to_be_bytes());
            counts[of_source(client, 7, 1) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
        let ports: std::collections::BTreeSet<u32> =
            (1..200).map(|port| of_connection(([192, 0, 2, 1], port).into(), 65_537, 1)).collect();
        assert!(ports.len() > 190);
    }
}
