//! All decisions of the balancer, as pure code: choosing a backend, health, when to probe, which clients are accepted, which
//! route a client takes.
//!
//! Nothing here opens a socket, reads a clock or starts a thread; time and randomness are arguments. State that threads
//! share without a lock (a cursor, a load) is atomic.

pub mod balance;
pub mod health;
pub mod limit;
pub mod liveness;
pub mod routes;
pub mod slow_start;
pub mod warm;
