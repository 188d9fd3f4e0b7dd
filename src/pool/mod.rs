//! What the threads share: backends, leases, and the immutable snapshot that names them.
//!
//! The control thread builds a [`Snapshot`] and gives it to the prober and the workers. It never changes, except for
//! what is atomic in it: health bits, loads and counters. The prober writes the health bits, and control those of a backend
//! that it adds or takes out. The workers write loads and counters.
//! The bits are indexed by a backend's slot, which it keeps for its lifetime. All generations of a pool share them.
//!
//! | file | what |
//! |---|---|
//! | `snapshot` | the picture of one generation |
//! | `routing` | the routes of a listener, and the pools that they lead to |
//! | `pick` | the choice of a backend for a client |
//! | `explain` | which backend a client would get, and why |
//! | `next` | builds the next generation from the last one and a model: which backends stay, and their slots |
//! | `backend` | a backend, with its counters; outlives snapshots |
//! | `backend_state` | the one state of a backend that operators see |
//! | [`mod@addresses`] | the addresses of a backend, and which of them serve |
//! | `occupancy` | a slot in use, by a backend and those that take its place |
//! | [`mod@reset_order`] | which connections an order resets |
//! | `lease` | the right to use a backend, counted while it lives |
//! | `forwarded` | connections that the kernel carries to a backend |
//! | `standing` | which backends may be used |
//! | [`mod@queue_order`] | which worker's queue has the client that waits longest |
//! | `serving` | whether a pool has a usable backend, as it was last reported |
//! | `source_addresses` | the local addresses that connections to backends come from |
//! | `warm` | the warm connections of a backend |
//! | `note` | messages to the prober |
//! | `published` | the newest generation, for readers |

pub mod addresses;
mod backend;
mod backend_state;
mod explain;
mod forwarded;
mod lease;
mod next;
mod note;
mod occupancy;
mod pick;
mod published;
pub mod queue_order;
pub mod reset_order;
mod routing;
mod serving;
mod snapshot;
mod source_addresses;
mod standing;
mod warm;

pub use crate::base::AdminState;
pub use addresses::{AddressState, Addresses, BackendAddress};
pub use backend::{Backend, BackendId, HealthReport, Transition};
pub use backend_state::BackendState;
pub use explain::{Candidate, Explanation};
pub use forwarded::Forwarded;
pub use lease::{Lease, Tried};
pub use next::{Resolved, SnapshotPlan, build, next, same_endpoints, without_backends};
pub use note::Note;
pub use pick::PickError;
pub use published::{LastReload, Published, Standings};
pub use reset_order::{ResetOrder, ResetScope};
pub use routing::{RouteLabel, Routing, Target};
pub use snapshot::{BoundAddress, BoundAddressId, Listener, Member, Pool, Snapshot};
pub use source_addresses::{DialSource, SourceAddress, SourceAddresses, SourcePort};
pub use standing::Standing;
pub use warm::{WarmConnection, WarmConnections, WarmPhase};
