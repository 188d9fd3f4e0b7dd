//! Sources that find backends: name servers, registries, files (`[[pool.discover]]`).
//!
//! Each source has a thread of its own. It finds a set of backends and hands the set over: *the backends of this source in this
//! pool are now these*. It knows nothing of pools, snapshots and probes. Control takes the newest set of each source and
//! makes it part of the configuration in force.
//!
//! # The states of a source
//!
//! | state | what happens | then |
//! |---|---|---|
//! | looking | the source reads its whole answer, and hands over a set | following |
//! | following | the source waits for changes, in bounded time; each change is handed over | looking |
//! | looking, following | an error | waiting; the set stays |
//! | waiting | a pause of 1 s, doubled up to 10 s while errors follow each other | looking |
//! | any | the source is removed from the configuration | ended |
//!
//! So a change that was missed is repaired by the next look, and an outage of any length ends with one.
//!
//! # What never removes a backend
//!
//! - an error of the source, a time-out, an answer that is not understood;
//! - an item of an answer that is not understood: its own key keeps what it had, the others are not concerned;
//! - an answer with an item that names no backend: the item may be any of them;
//! - an answer without any item that is understood;
//! - an empty answer, unless the source has `on_empty = "clear"`;
//! - the end of the source's server, its restart, another leader.
//!
//! | file | what |
//! |---|---|
//! | `kind` | what a kind of source is: its name, its keys, its function |
//! | `feed` | what a source hands over, and what it leaves out |
//! | `http` | HTTP, for sources that ask by it |
//! | `sources` | the threads: start, pause, end |
//! | `entry` | a backend that an object describes, in a file or as the value of a key |
//! | `renewal` | the names of backends, looked up again |
//! | `known` | which addresses of a name are in use, where answers may have a part of them |
//! | `pace` | how closely the calls of a source may follow each other |
//! | `consul`, `dns`, `etcd`, `file`, `kubernetes` | the kinds, a file each |
//!
//! # Another kind of source
//!
//! It is a file with a [`Kind`], and its line in [`KINDS`]. The settings, their checks, the pages, the status and the metrics
//! follow from that.

pub mod consul;
pub mod dns;
pub mod entry;
pub mod etcd;
mod feed;
pub mod file;
pub mod http;
mod kind;
mod known;
pub mod kubernetes;
mod pace;
mod renewal;
mod sources;

pub use feed::{Feed, Found, HandOver, Item, Set, Standing};
pub use kind::{Key, Kind, Settings, Takes, Value, Wrong};
pub use renewal::{AddressSet, NameStanding, NameTable, Renewals, Wanted as WantedNames};
pub use sources::{Report, SourceId, Sources, Wanted};

/// The most backends of one source. An answer with more is an error.
pub const BACKENDS_MAX: usize = 50_000;

/// Every kind of source.
pub static KINDS: &[&Kind] = &[&consul::CONSUL, &dns::DNS, &etcd::ETCD, &file::FILE, &kubernetes::KUBERNETES];
