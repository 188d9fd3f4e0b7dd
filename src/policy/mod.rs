//! Every decision the balancer takes, as pure code: which backend, is it up, when to probe, who may
//! come in.
//!
//! Nothing here opens a socket, reads a clock or starts a thread; time and randomness come in as arguments. What threads
//! must agree on without a lock (a cursor, a load) is an atomic.

pub mod balance;
pub mod health;
pub mod limit;
pub mod liveness;
pub mod slow_start;
