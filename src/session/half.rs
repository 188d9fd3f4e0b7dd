//! Sides, directions, and how far a direction has come.

use serde::{Deserialize, Serialize};

/// One of the two peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// The peer that connected to a listener.
    Client,
    /// The peer that tcplb connected to.
    Backend,
}

/// A direction of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From client to backend.
    Up,
    /// From backend to client.
    Down,
}

/// How far one direction has come. It only goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HalfState {
    /// Its source may still send.
    Open,
    /// Its source has ended, with a FIN or by failing; held bytes are still to be delivered.
    Draining,
    /// All bytes of its source have been delivered, and the FIN if there was one.
    Shut,
    /// Its sink has failed: the rest of its bytes is dropped.
    Dropped,
}

impl Direction {
    /// Both.
    pub const BOTH: [Direction; 2] = [Direction::Up, Direction::Down];

    /// Where its bytes come from.
    pub fn source(self) -> Side {
        match self {
            Direction::Up => Side::Client,
            Direction::Down => Side::Backend,
        }
    }

    /// The direction whose bytes come from that side.
    pub fn from(source: Side) -> Direction {
        match source {
            Side::Client => Direction::Up,
            Side::Backend => Direction::Down,
        }
    }

    /// The direction whose bytes go to that side.
    pub fn to(sink: Side) -> Direction {
        Direction::from(sink.other())
    }

    /// Where they go.
    pub fn sink(self) -> Side {
        self.source().other()
    }
}

impl Side {
    /// The peer of this peer.
    pub fn other(self) -> Side {
        match self {
            Side::Client => Side::Backend,
            Side::Backend => Side::Client,
        }
    }
}
