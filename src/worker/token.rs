//! What a poll event carries back: whose it is, and which tenant of the slot was meant.
//!
//! ```text
//!  63      56 55             32 31              0
//! ┌──────────┬─────────────────┬─────────────────┐
//! │   kind   │   generation    │      slot       │
//! └──────────┴─────────────────┴─────────────────┘
//! ```

use crate::base::slots::Key;
use crate::session::Side;

/// Whose event it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The worker's mailbox.
    Mail,
    /// A listening socket, by its address.
    Listener(u32),
    /// One side's socket of a connection.
    Connection(Side, Key),
}

const MAIL: u64 = 0;
const LISTENER: u64 = 1;
const CLIENT: u64 = 2;
const BACKEND: u64 = 3;

impl Token {
    /// As mio wants it. 64-bit only, as the whole of tcplb is.
    pub fn encode(self) -> mio::Token {
        let (kind, generation, slot) = match self {
            Token::Mail => (MAIL, 0, 0),
            Token::Listener(number) => (LISTENER, 0, number),
            Token::Connection(Side::Client, key) => (CLIENT, key.generation, key.slot),
            Token::Connection(Side::Backend, key) => (BACKEND, key.generation, key.slot),
        };
        mio::Token(((kind << 56) | (u64::from(generation) << 32) | u64::from(slot)) as usize)
    }

    /// `None` for a number that `encode` never gives.
    pub fn decode(token: mio::Token) -> Option<Token> {
        let bits = token.0 as u64;
        let key = Key { slot: bits as u32, generation: (bits >> 32) as u32 & crate::base::slots::GENERATION_MASK };
        match bits >> 56 {
            MAIL => Some(Token::Mail),
            LISTENER => Some(Token::Listener(key.slot)),
            CLIENT => Some(Token::Connection(Side::Client, key)),
            BACKEND => Some(Token::Connection(Side::Backend, key)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::slots::GENERATION_MASK;

    #[test]
    fn every_token_survives_the_round_trip() {
        let numbers = [0, 1, 63, 1 << 23, GENERATION_MASK];
        let mut tokens = vec![Token::Mail];
        for slot in [0, 1, 77, u32::MAX] {
            tokens.push(Token::Listener(slot));
            for generation in numbers {
                for side in [Side::Client, Side::Backend] {
                    tokens.push(Token::Connection(side, Key { slot, generation }));
                }
            }
        }
        for token in tokens {
            assert_eq!(Token::decode(token.encode()), Some(token));
        }
        assert_eq!(Token::decode(mio::Token(usize::MAX)), None);
    }
}
