//! The token of a poll event: it identifies the socket.
//!
//! ```text
//!  63    60 59                 32 31              0
//! ┌────────┬─────────────────────┬─────────────────┐
//! │  kind  │       serial        │      slot       │
//! └────────┴─────────────────────┴─────────────────┘
//! ```
//!
//! The slot finds the connection, and the serial identifies one of the sockets that the slot has had. Each socket gets
//! a serial when it is registered. So an event of a replaced socket matches nothing, whether the connection was
//! redialled or the slot has a new one.
//!
//! The kernel forgets a socket when it is closed. Only events of the batch that was fetched before may still name it. A
//! serial of 28 bits repeats after 268 million sockets; the work of one batch registers at most a few for each
//! connection of the worker, and those are bounded by the process's descriptors.

use crate::session::Side;

/// The receiver of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The worker's mailbox.
    Mail,
    /// A listening socket, by its address.
    Listener(u32),
    /// A connection's socket.
    Socket(SocketId),
}

/// Names one socket of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketId {
    /// Which of the connection's two sockets it is.
    pub side: Side,
    /// The connection's slot.
    pub slot: u32,
    /// Which socket of that slot.
    pub serial: Serial,
}

/// The number of a socket among all that a worker has registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serial(u32);

/// Gives each socket of a worker its serial.
#[derive(Debug, Default)]
pub struct Serials(u32);

const SERIAL_BITS: u32 = 28;
const SERIAL_MASK: u32 = (1 << SERIAL_BITS) - 1;

const MAIL: u64 = 0;
const LISTENER: u64 = 1;
const CLIENT: u64 = 2;
const BACKEND: u64 = 3;

impl Serials {
    /// The next one.
    pub fn give(&mut self) -> Serial {
        self.0 = (self.0 + 1) & SERIAL_MASK;
        Serial(self.0)
    }
}

impl Token {
    /// As mio wants it. 64-bit only, as the whole of tcplb is.
    pub fn encode(self) -> mio::Token {
        let (kind, serial, slot) = match self {
            Token::Mail => (MAIL, 0, 0),
            Token::Listener(number) => (LISTENER, 0, number),
            Token::Socket(SocketId { side: Side::Client, slot, serial }) => (CLIENT, serial.0, slot),
            Token::Socket(SocketId { side: Side::Backend, slot, serial }) => (BACKEND, serial.0, slot),
        };
        mio::Token(((kind << (32 + SERIAL_BITS)) | (u64::from(serial) << 32) | u64::from(slot)) as usize)
    }

    /// `None` for a number that `encode` never gives.
    pub fn decode(token: mio::Token) -> Option<Token> {
        let bits = token.0 as u64;
        let (slot, serial) = (bits as u32, Serial((bits >> 32) as u32 & SERIAL_MASK));
        match bits >> (32 + SERIAL_BITS) {
            MAIL => Some(Token::Mail),
            LISTENER => Some(Token::Listener(slot)),
            CLIENT => Some(Token::Socket(SocketId { side: Side::Client, slot, serial })),
            BACKEND => Some(Token::Socket(SocketId { side: Side::Backend, slot, serial })),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_survives_the_round_trip() {
        let mut tokens = vec![Token::Mail];
        for slot in [0, 1, 77, u32::MAX] {
            tokens.push(Token::Listener(slot));
            for serial in [0, 1, 63, 1 << 27, SERIAL_MASK].map(Serial) {
                for side in [Side::Client, Side::Backend] {
                    tokens.push(Token::Socket(SocketId { side, slot, serial }));
                }
            }
        }
        for token in tokens {
            assert_eq!(Token::decode(token.encode()), Some(token));
        }
        assert_eq!(Token::decode(mio::Token(usize::MAX)), None);
    }

    #[test]
    fn serials_differ_and_stay_within_their_bits() {
        let mut serials = Serials(SERIAL_MASK - 1);
        let given = [serials.give(), serials.give(), serials.give()];
        assert_eq!(given, [SERIAL_MASK, 0, 1].map(Serial));
    }
}
