//! Choosing a backend: a small trait, a file per algorithm, and the registry of their names.
//!
//! # What every algorithm guarantees
//!
//! * It picks only usable backends: up, enabled, below their `max_connections`, not tried before by this connection.
//!   The [`View`] decides that, never the algorithm.
//! * The share of an unusable backend goes to all others in proportion to their weights.
//! * Weight 0 is never chosen.
//! * It takes no lock (the sticky table is sharded), and its cost does not depend on the number of open connections.
//! * It returns `None` only if no backend with weight is usable.
//!
//! # Callers
//!
//! The control thread builds a [`Balance`] for one membership and one set of weights, and it lives in an immutable
//! snapshot. Every worker calls [`Balance::pick`] on the same object. So state that must be exact across workers (the
//! turn in a round) is an atomic in it. Indexes are positions in its `members`.
//!
//! # Adding an algorithm
//!
//! Write a file beside these with a type that implements [`Balance`] and a `build` function; add a line to
//! [`REGISTRY`]. A complete example with its row:
//!
//! ```
//! use tcplb::policy::balance::{Algorithm, Balance, Candidates, Client, Member, Preview, Shares, View};
//!
//! /// The last usable one in the order of the configuration.
//! struct Last(Candidates);
//!
//! fn build(members: &[Member], _start: u64) -> Box<dyn Balance> {
//!     Box::new(Last(Candidates::new(members)))
//! }
//!
//! impl Last {
//!     fn choose(&self, view: &View<'_>) -> Option<usize> {
//!         (0..self.0.len()).rev().find(|&index| self.0.weight(index) > 0 && view.usable(index))
//!     }
//! }
//!
//! impl Balance for Last {
//!     fn pick(&self, _: Client, view: &View<'_>, _: &mut fastrand::Rng) -> Option<usize> {
//!         self.choose(view)
//!     }
//!
//!     fn preview(&self, _: Client, view: &View<'_>) -> Preview {
//!         Preview::Certain(self.choose(view))
//!     }
//! }
//!
//! const ROW: Algorithm = Algorithm {
//!     name: "last",
//!     short: &[],
//!     picks: "the last in the order of the configuration that has room",
//!     shares: Shares::InOrder,
//!     build,
//! };
//! ```
//!
//! The tests of all rows (`tests/every.rs`) then check these guarantees.
//!
//! # The files
//!
//! In turn: `round_robin`, `weighted_round_robin`, `sticky_round_robin`, over `cursor` and `smooth`. In order:
//! `first`. At random: `random`, `power_of_two`, over `alias`. By load (see `load`): `least_connections`, `least_time`, over `lightest`. By
//! the client's address: `source_hash`, `maglev`, over `hash` and `rendezvous`. Scans of many backends go through
//! `candidates`. What a choice would be, without making it: `preview`. For the kernel, which chooses by a table of
//! ours: `entries`, and its hash, `jhash`. Weights that follow load there: `approximation`.

use crate::base::bits::WORD;
use crate::base::{AtomicBits, Tick};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The facts about a backend that hold for a whole membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The backend's address as written, which identifies it to every tcplb instance. Hashing algorithms use it, so
    /// that two instances with the same backends agree whatever their order and names.
    pub key: String,
    /// Its share relative to the others; 0 takes no new connections.
    pub weight: u16,
}

/// The client that a backend is chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The client's IP address; `None` for a unix socket, whose peers all count as one source.
    pub ip: Option<IpAddr>,
}

/// The state of a pool at the time of a choice.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The backends that health and operators allow.
    pub up: &'a AtomicBits,
    /// The backends that slow start allows for this choice; `None`: all.
    pub group: Option<&'a AtomicBits>,
    /// Loads, 64 backends a block: backend `i` is lane `i % 64` of block `i / 64`.
    pub loads: &'a [Arc<LoadBlock>],
    /// The most connections of each backend; `u32::MAX` for no limit.
    pub limits: &'a [u32],
    /// Backends that this connection has tried; a few at most.
    pub tried: &'a [u32],
    /// The time of the choice, on the clock of the measurements.
    pub now: Tick,
}

impl View<'_> {
    /// Whether backend `index` may get this connection.
    pub fn usable(&self, index: usize) -> bool {
        self.up_word(index / WORD) & (1 << (index % WORD)) != 0 && self.has_room(index)
    }

    /// The `index`-th word of 64 backends: those that are up and take part in this choice.
    pub fn up_word(&self, index: usize) -> u64 {
        self.up.word(index) & self.group.map_or(u64::MAX, |members| members.word(index))
    }

    /// Whether the backend is below its limit and not tried by this connection, whatever its health.
    pub fn has_room(&self, index: usize) -> bool {
        let Some(&limit) = self.limits.get(index) else { return false };
        (limit == u32::MAX || self.active(index) < limit) && !self.tried.contains(&(index as u32))
    }

    /// The open connections of backend `index`.
    pub fn active(&self, index: usize) -> u32 {
        self.loads.get(index / WORD).map_or(0, |block| block.active(index).load(Ordering::Relaxed))
    }

    /// The load for a choice: open connections of backend `index`, plus recent early failures ([`load`]).
    pub fn load(&self, index: usize) -> u32 {
        self.loads.get(index / WORD).map_or(0, |block| block.load(index, self.now))
    }
}

/// An algorithm, built for one membership.
pub trait Balance: Send + Sync {
    /// The index of a backend for `client`, or `None` if none is usable.
    fn pick(&self, client: Client, view: &View<'_>, random: &mut fastrand::Rng) -> Option<usize>;

    /// What [`Balance::pick`] would give now, for this client and this view. Nothing changes: no turn is taken, no client
    /// is remembered. It runs the code of `pick`, or knows the exact chances of its draw.
    fn preview(&self, client: Client, view: &View<'_>) -> Preview;

    /// The slow-start group of all choices for this client, below [`super::slow_start::GROUPS`]. An algorithm that ties
    /// clients to backends by address has one for each address. `None`: each choice draws a group.
    fn group(&self, _client: Client) -> Option<usize> {
        None
    }

    /// The same algorithm for a changed membership, with its table of clients. `None` if it keeps nothing: then a new
    /// one is built.
    fn successor(&self, _members: &[Member], _start: u64) -> Option<Box<dyn Balance>> {
        None
    }

    /// Its table of clients, for the next process: each client's address and the identity of its backend.
    fn clients(&self) -> Vec<(u128, u64)> {
        Vec::new()
    }

    /// Takes the table of the process before.
    fn remember(&self, _clients: &[(u128, u64)]) {}
}

/// A row of the registry.
pub struct Algorithm {
    /// The name in the configuration, logs and API.
    pub name: &'static str,
    /// Accepted short forms.
    pub short: &'static [&'static str],
    /// What it picks: a line of `--help` and of docs/algorithms.md.
    pub picks: &'static str,
    /// How the clients of a pool spread over its backends.
    pub shares: Shares,
    /// Builds it for a membership. `start` may be any number: the turn that a round begins with, so that a rebuild does
    /// not favour the first backend.
    pub build: fn(members: &[Member], start: u64) -> Box<dyn Balance>,
}

/// How the clients of a pool spread over the usable backends with weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shares {
    /// In proportion to the weights.
    ByWeight,
    /// Equally, whatever the weights.
    Equal,
    /// To the first one with room.
    InOrder,
}

impl Algorithm {
    /// Builds it for a changed membership. `old` was built by the same algorithm, and passes on what clients rely on.
    pub fn rebuild(&self, old: &dyn Balance, members: &[Member], start: u64) -> Box<dyn Balance> {
        old.successor(members, start).unwrap_or_else(|| (self.build)(members, start))
    }
}

/// Names are unique in the registry.
impl PartialEq for Algorithm {
    fn eq(&self, other: &Algorithm) -> bool {
        self.name == other.name
    }
}

impl Eq for Algorithm {}

impl fmt::Debug for Algorithm {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name)
    }
}

/// Finds an algorithm by its long or short name, in any case.
pub fn find(name: &str) -> Option<&'static Algorithm> {
    REGISTRY.iter().find(|row| {
        row.name.eq_ignore_ascii_case(name) || row.short.iter().any(|short| short.eq_ignore_ascii_case(name))
    })
}

/// The algorithm of a pool that names none.
pub const DEFAULT: Algorithm = Algorithm {
    name: "weighted-round-robin",
    short: &["wrr"],
    picks: "each in turn by weight, smoothly: weights 5,1,1 give a a b a c a a",
    shares: Shares::ByWeight,
    build: weighted_round_robin::build,
};

/// All algorithms: a new one is its file and its row here.
pub const REGISTRY: &[Algorithm] = &[
    Algorithm {
        name: "round-robin",
        short: &["rr"],
        picks: "each healthy backend in turn, exactly, whichever worker accepted",
        shares: Shares::Equal,
        build: round_robin::build,
    },
    DEFAULT,
    Algorithm {
        name: "sticky-round-robin",
        short: &["srr"],
        picks: "for each client address the backend of its first connection",
        shares: Shares::Equal,
        build: sticky_round_robin::build,
    },
    Algorithm {
        name: "least-connections",
        short: &["lc"],
        picks: "the fewest active connections per unit of weight",
        shares: Shares::ByWeight,
        build: least_connections::build,
    },
    Algorithm {
        name: "power-of-two",
        short: &["ptc", "p2c"],
        picks: "of two drawn at random by weight the less loaded one",
        shares: Shares::ByWeight,
        build: power_of_two::build,
    },
    Algorithm {
        name: "source-hash",
        short: &["sih", "ip-hash"],
        picks: "by the client's IP; losing one of N backends moves only its 1/N of the clients",
        shares: Shares::ByWeight,
        build: source_hash::build,
    },
    Algorithm {
        name: "maglev",
        short: &[],
        picks: "by the client's IP, from a table: every tcplb with the same backends picks the same",
        shares: Shares::ByWeight,
        build: maglev::build,
    },
    Algorithm {
        name: "least-time",
        short: &["lt"],
        picks: "the lowest (smoothed connect + first-byte time) × (active + 1) ÷ weight",
        shares: Shares::ByWeight,
        build: least_time::build,
    },
    Algorithm {
        name: "random",
        short: &[],
        picks: "any, at random by weight",
        shares: Shares::ByWeight,
        build: random::build,
    },
    Algorithm {
        name: "first",
        short: &[],
        picks: "the first in the order of the configuration that has room, by `max_connections`",
        shares: Shares::InOrder,
        build: first::build,
    },
];

mod alias;
pub mod approximation;
mod candidates;
mod cursor;
mod entries;
mod first;
mod hash;
pub mod jhash;
mod least_connections;
mod least_time;
mod lightest;
pub mod load;
mod maglev;
mod power_of_two;
mod preview;
mod random;
mod rendezvous;
mod round_robin;
mod smooth;
mod source_hash;
mod sticky_round_robin;
mod weighted_round_robin;

pub use alias::Alias;
pub use candidates::{Candidates, Lane};
pub use entries::{Entries, Order};
pub use load::LoadBlock;
pub use preview::Preview;

#[cfg(test)]
mod tests;
