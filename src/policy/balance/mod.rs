//! Choosing a backend: one small trait, a file per algorithm, and the registry that names them.
//!
//! # What every algorithm keeps
//!
//! * Only usable backends: up, enabled, below their `max_connections`, not tried before by this connection. The [`View`]
//!   knows; an algorithm asks it and never decides this for itself.
//! * The share that an unusable backend leaves goes to all the others in proportion to their weights.
//! * Weight 0 is never chosen.
//! * No lock is taken (the sticky table is sharded), and the cost does not depend on the number of open connections.
//! * `None` only if no backend with weight is usable.
//!
//! # Who calls
//!
//! A [`Balance`] is built by the control thread for one membership and one set of weights, and lives inside an immutable
//! snapshot; every worker calls [`Balance::pick`] on the same object, so whatever must be exact across workers (the
//! turn in a round) is an atomic inside it. Indexes are positions in the `members` it was built from.
//!
//! # Adding one
//!
//! Write a file beside these with a type that implements [`Balance`] and a `build` function; add a line to [`REGISTRY`].
//! Whole, with its row:
//!
//! ```
//! use tcplb::policy::balance::{Algorithm, Alias, Balance, Client, Member, View};
//!
//! /// Of three drawn at random by weight the one with the fewest connections per unit of weight.
//! struct PowerOfThree(Alias);
//!
//! fn build(members: &[Member], _start: u64) -> Box<dyn Balance> {
//!     Box::new(PowerOfThree(Alias::new(members)))
//! }
//!
//! impl Balance for PowerOfThree {
//!     fn pick(&self, _: Client, view: &View<'_>, random: &mut fastrand::Rng) -> Option<usize> {
//!         let load = |&index: &usize| (u64::from(view.load(index)) << 16) / u64::from(self.0.weight(index));
//!         (0..3).filter_map(|_| self.0.draw(view, random, None)).min_by_key(load)
//!     }
//! }
//!
//! const ROW: Algorithm =
//!     Algorithm { name: "power-of-three", short: &["p3c"], picks: "the least loaded of three at random", build };
//! ```
//!
//! The tests of all rows (`tests/every.rs`) then hold it to the promises above.
//!
//! # The files
//!
//! In turn: `round_robin`, `weighted_round_robin`, `sticky_round_robin`, over `cursor` and `smooth`. By chance: `random`,
//! `power_of_two`, over `alias`. By load, which `load` keeps: `least_connections`, `least_time`, over `lightest`. By the client's address:
//! `source_hash`, `maglev`, over `hash` and `rendezvous`. Whatever looks at many backends does so through `candidates`.

use super::slow_start::GROUPS;
use crate::base::bits::WORD;
use crate::base::{AtomicBits, Tick};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What an algorithm knows about a backend for as long as a membership lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What identifies the backend to every tcplb instance: its address as written. Hashing algorithms use it, so that
    /// two instances with the same backends agree whatever the order or the names.
    pub key: String,
    /// Its share relative to the others; 0 takes no new connections.
    pub weight: u16,
}

/// Who is asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The client's IP address; `None` for a unix socket, whose peers all count as one source.
    pub ip: Option<IpAddr>,
}

/// The state of a pool at the moment of a choice.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// Which backends may be used as far as health and operators are concerned.
    pub up: &'a AtomicBits,
    /// Which of them take part in this choice as far as slow start is concerned; `None`: all.
    pub warm: Option<&'a AtomicBits>,
    /// Loads, 64 backends a block: backend `i` is lane `i % 64` of block `i / 64`.
    pub loads: &'a [Arc<LoadBlock>],
    /// Most connections each backend may have, `u32::MAX` for no limit.
    pub limits: &'a [u32],
    /// Backends that this connection tried in vain. A handful at most.
    pub tried: &'a [u32],
    /// When the choice is made, by the clock that measurements go by.
    pub now: Tick,
}

impl View<'_> {
    /// May backend `index` get this connection?
    pub fn usable(&self, index: usize) -> bool {
        self.up_word(index / WORD) & (1 << (index % WORD)) != 0 && self.has_room(index)
    }

    /// The `index`-th word of 64 backends that are up and take part.
    pub fn up_word(&self, index: usize) -> u64 {
        self.up.word(index) & self.warm.map_or(u64::MAX, |warm| warm.word(index))
    }

    /// Usable apart from health: below its limit and not tried by this connection.
    pub fn has_room(&self, index: usize) -> bool {
        let Some(&limit) = self.limits.get(index) else { return false };
        (limit == u32::MAX || self.active(index) < limit) && !self.tried.contains(&(index as u32))
    }

    /// Open connections of backend `index`.
    pub fn active(&self, index: usize) -> u32 {
        self.loads.get(index / WORD).map_or(0, |block| block.active(index).load(Ordering::Relaxed))
    }

    /// What a choice by load goes by: open connections of backend `index`, and early failures of late ([`load`]).
    pub fn load(&self, index: usize) -> u32 {
        self.loads.get(index / WORD).map_or(0, |block| block.load(index, self.now))
    }
}

/// An algorithm, built for one membership.
pub trait Balance: Send + Sync {
    /// The index of a backend for `client`, or `None` if none is usable.
    fn pick(&self, client: Client, view: &View<'_>, random: &mut fastrand::Rng) -> Option<usize>;

    /// The group that a choice for this client belongs to: see [`super::slow_start`]. One that ties clients to backends by
    /// address has the same group for an address each time.
    fn group(&self, _client: Client, random: &mut fastrand::Rng) -> usize {
        random.usize(..GROUPS)
    }

    /// The same algorithm for a changed membership, keeping what it has learnt about clients. `None` if it learns nothing
    /// that outlives a membership: then a new one does as well.
    fn successor(&self, _members: &[Member], _start: u64) -> Option<Box<dyn Balance>> {
        None
    }
}

/// A row of the registry.
pub struct Algorithm {
    /// The name in config, logs and API.
    pub name: &'static str,
    /// Short forms that are accepted too.
    pub short: &'static [&'static str],
    /// What it picks, in a line for `--help`.
    pub picks: &'static str,
    /// Builds it for a membership. `start` is any number: where a round begins, so that rebuilding does not favour the
    /// first backend.
    pub build: fn(members: &[Member], start: u64) -> Box<dyn Balance>,
}

impl Algorithm {
    /// Whether every backend gets the same share, whatever the weights.
    pub fn ignores_weights(&self) -> bool {
        matches!(self.name, "round-robin" | "sticky-round-robin")
    }

    /// Builds it for a changed membership, taking over from `old` (built by this same algorithm) what clients rely on.
    pub fn rebuild(&self, old: &dyn Balance, members: &[Member], start: u64) -> Box<dyn Balance> {
        old.successor(members, start).unwrap_or_else(|| (self.build)(members, start))
    }
}

/// The registry has each name once.
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
    picks: "each in turn, as often as its weight says, smoothly",
    build: weighted_round_robin::build,
};

/// Every algorithm there is: a new one is its file and its row here.
pub const REGISTRY: &[Algorithm] = &[
    Algorithm { name: "round-robin", short: &["rr"], picks: "each healthy backend in turn", build: round_robin::build },
    DEFAULT,
    Algorithm {
        name: "sticky-round-robin",
        short: &["srr"],
        picks: "for each client address the backend of its first connection",
        build: sticky_round_robin::build,
    },
    Algorithm {
        name: "least-connections",
        short: &["lc"],
        picks: "the fewest active connections per unit of weight",
        build: least_connections::build,
    },
    Algorithm {
        name: "power-of-two",
        short: &["ptc", "p2c"],
        picks: "two at random by weight, the less loaded of them",
        build: power_of_two::build,
    },
    Algorithm {
        name: "source-hash",
        short: &["sih", "ip-hash"],
        picks: "by the client's IP (weighted rendezvous)",
        build: source_hash::build,
    },
    Algorithm { name: "maglev", short: &[], picks: "by the client's IP (consistent-hash table)", build: maglev::build },
    Algorithm {
        name: "least-time",
        short: &["lt"],
        picks: "the lowest latency × (active + 1) ÷ weight",
        build: least_time::build,
    },
    Algorithm { name: "random", short: &[], picks: "any, at random by weight", build: random::build },
];

mod alias;
mod candidates;
mod cursor;
mod hash;
mod least_connections;
mod least_time;
mod lightest;
pub mod load;
mod maglev;
mod power_of_two;
mod random;
mod rendezvous;
mod round_robin;
mod smooth;
mod source_hash;
mod sticky_round_robin;
mod weighted_round_robin;

pub use alias::Alias;
pub use candidates::{Candidates, Lane};
pub use load::LoadBlock;

#[cfg(test)]
mod tests;
