//! Two short questions to nftables, each one netlink message, where a run of nft would cost tens of milliseconds of CPU.
//!
//! They need CAP_NET_ADMIN in the network's user namespace.

use super::conntrack::{open, receive};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// The kernel answers at once; this bounds a fault.
const PATIENCE: Duration = Duration::from_secs(5);

/// Both answers are short; the kernel sends an error with a copy of the question.
const DATAGRAM: usize = 8 * 1024;

/// The headers of netlink and of netfilter.
const HEADERS: usize = 20;

/// `NFNL_SUBSYS_NFTABLES << 8`, and the kinds of messages.
const NEW_SET: u16 = 0x0a09;
const GET_SET: u16 = 0x0a0a;
const NEW_GENERATION: u16 = 0x0a0f;
const GET_GENERATION: u16 = 0x0a10;

const NLMSG_ERROR: u16 = 2;
const REQUEST: u16 = 1;
const INET: u8 = 1;

/// A socket for questions.
#[derive(Debug)]
pub struct Nftables {
    socket: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Nftables {
    /// Opens one.
    pub fn open() -> io::Result<Nftables> {
        Ok(Nftables { socket: open(0)?, buffer: vec![0; DATAGRAM], sequence: 0 })
    }

    /// The number of the rules' generation. Each transaction of any program gives the next one.
    pub fn generation(&mut self) -> io::Result<u32> {
        let answer = self.ask(GET_GENERATION, 0, &[], NEW_GENERATION)?;
        // The first attribute is NFTA_GEN_ID.
        let number = answer.get(HEADERS + 4..HEADERS + 8).and_then(|bytes| bytes.try_into().ok());
        number.map(u32::from_be_bytes).ok_or_else(malformed)
    }

    /// Whether this table of family `inet` exists and has this set or map.
    pub fn has_set(&mut self, table: &str, set: &str) -> io::Result<bool> {
        let attributes: Vec<u8> =
            [(1, table), (2, set)].into_iter().flat_map(|(kind, name)| text(kind, name)).collect();
        match self.ask(GET_SET, INET, &attributes, NEW_SET) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn ask(&mut self, kind: u16, family: u8, attributes: &[u8], answer: u16) -> io::Result<&[u8]> {
        let until = Instant::now() + PATIENCE;
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = Vec::new();
        request.extend(u32::try_from(HEADERS + attributes.len()).map_err(|_| malformed())?.to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend(REQUEST.to_ne_bytes());
        request.extend(self.sequence.to_ne_bytes());
        request.extend([0; 4]);
        request.extend([family, 0, 0, 0]);
        request.extend(attributes);
        send(&self.socket, &request, SendFlags::empty())?;
        loop {
            let length = receive(&self.socket, &mut self.buffer, Some(until))?.ok_or(io::ErrorKind::TimedOut)?.len();
            let (of, sequence) = (word(&self.buffer, 4), number(&self.buffer, 8));
            // What an earlier call left unread.
            if length < HEADERS || sequence != Some(self.sequence) {
                continue;
            }
            return match of {
                Some(of) if of == answer => Ok(&self.buffer[..length]),
                Some(NLMSG_ERROR) => {
                    let error = number(&self.buffer, 16).map_or(0, |error| error.cast_signed());
                    Err(io::Error::from_raw_os_error(error.saturating_neg()))
                }
                _ => Err(malformed()),
            };
        }
    }
}

/// An attribute that holds text, with its padding.
fn text(kind: u16, name: &str) -> Vec<u8> {
    let length = 4 + name.len() + 1;
    let mut bytes = Vec::new();
    // Names are short constants.
    bytes.extend(u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(name.as_bytes());
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a message of nftables that is not understood")
}
