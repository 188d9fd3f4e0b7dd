//! Sides, ways, and one direction of a connection.

use serde::{Deserialize, Serialize};

/// One of the two peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// Who connected to us.
    Client,
    /// Whom we connected to.
    Backend,
}

/// A direction of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From client to backend.
    Up,
    /// From backend to client.
    Down,
}

/// How far one way has come. It only goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Half {
    /// Its source may still send.
    Open,
    /// Its source has ended, with a FIN or by failing; held bytes are still to be delivered.
    Draining,
    /// All bytes of its source have been delivered, and the FIN if there was one.
    Shut,
    /// Its sink has failed: what is left of its bytes is dropped.
    Dropped,
}

impl Way {
    /// Both, for those who do the same with each.
    pub const BOTH: [Way; 2] = [Way::Up, Way::Down];

    /// Where its bytes come from.
    pub fn source(self) -> Side {
        match self {
            Way::Up => Side::Client,
            Way::Down => Side::Backend,
        }
    }

    /// The way whose bytes come from that side.
    pub fn from(source: Side) -> Way {
        match source {
            Side::Client => Way::Up,
            Side::Backend => Way::Down,
        }
    }

    /// The way whose bytes go to that side.
    pub fn to(sink: Side) -> Way {
        Way::from(sink.other())
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
