//! What the threads share: backends with their counters, leases, and the immutable snapshot that names them.
//!
//! The control thread builds a [`Snapshot`] and gives it to the prober and the workers. It never changes, except for
//! what is atomic in it: the health bits (written by the prober only), loads and counters (written by the workers).
//! The bits live inside the snapshot, so that an index can't be read against another membership.

pub mod admission;
mod backend;
pub mod clock;
mod gate;
mod lease;
mod note;
mod snapshot;
mod totals;

pub use admission::{Admission, Permit};
pub use backend::{Backend, BackendId, Counters, HealthReport};
pub use gate::{Gate, Guest, Place};
pub use lease::Lease;
pub use note::Note;
pub use snapshot::{Listener, Member, NoBackend, Pool, Snapshot, build};
pub use totals::{ListenerTotals, Refusal, Visit};
