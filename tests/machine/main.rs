//! The machine fails the balancer, or its peers do at the level of the machine: no descriptors, no ports, little memory,
//! stopped processes, clocks that jump, floods of nonsense, peers that vanish. The built tcplb, real sockets, real kernel.
//!
//! What is promised each time: connections that are established go on, nothing spins, what can't be served is refused
//! with a reason, and when the cause is gone all is as before without anybody's help.
//!
//! Peers that misbehave within the protocol are elsewhere. Where a test needs a tool or root, it says so and skips; in CI
//! that is a failure.
#![forbid(unsafe_code)]

mod backlog;
mod buffers;
mod clocks;
mod confine;
mod descriptors;
mod garbage;
mod lab;
mod memory;
mod names;
mod ports;
mod scopes;
mod slow;
mod stale;
mod stopped;
mod stuck;
mod timeouts;
mod vanished;
