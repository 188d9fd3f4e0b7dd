//! Which clients are admitted, and where each one is counted while it is connected.
//!
//! # The order of checks
//!
//! | when | checked | a client without room |
//! |---|---|---|
//! | before accept | `max_connections` of the process, then of the listener ([`ListenerAdmission::reserve`]) | waits in the kernel's backlog |
//! | once its address is known | access lists, then limits of its source ([`AdmissionGuard::admit`]; [`crate::policy::limit`] decides) | is reset; the reason is counted |
//!
//! The address is known at once, or, where the listener takes PROXY headers, when the header has been read.
//!
//! # One guard
//!
//! An [`AdmissionGuard`] counts its client in four places: the process, the listener, the source, and the gauge of active
//! connections. Dropping the guard undoes all of them, on every path. A worker that drops guards calls
//! [`ConnectionLimit::should_wake`] afterwards. It calls [`ListenerAdmission::should_wake`] too, for each listener, once
//! [`ConnectionLimit::should_look_at_listeners`] is true.
//!
//! All workers share these counts. Nothing here runs per byte; a source's count takes the lock of one shard.

mod connection_limit;
mod guard;
mod limit_report;
mod listener;

pub use connection_limit::ConnectionLimit;
pub use guard::{AdmissionGuard, NoRoom};
pub use limit_report::{LimitChange, LimitReport};
pub use listener::{AdmissionPreview, ListenerAdmission};
