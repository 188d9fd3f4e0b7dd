//! The machine fails the balancer, or its peers do at the level of the machine. Descriptors, ports or memory run out,
//! processes stop, clocks jump, nonsense floods in, peers vanish. The built tcplb, real sockets, real kernel.
//!
//! The promise each time: established connections go on, nothing spins, and what can't be served is refused with a
//! reason. When the cause is gone, all is as before without help.
//!
//! Peers that misbehave within the protocol are elsewhere. Where a test needs a tool or root, it says so and skips; in CI
//! that is a failure.
#![forbid(unsafe_code)]

mod backlog;
mod buffers;
mod clocks;
mod confine;
mod descriptors;
mod first_bytes;
mod fleet;
mod garbage;
mod kernel;
mod kernel_helper;
mod kernel_table;
mod lab;
mod memory;
mod names;
mod package;
mod ports;
mod renewal;
mod rotation;
mod scopes;
mod slow;
mod source;
mod stale;
mod stopped;
mod stuck;
mod systemd;
mod timeouts;
mod vanished;
