//! End to end: the built tcplb between real sockets, a file per behaviour.
//!
//! Every test starts its own tcplb on free ports and depends on no other. `TCPLB_TEST_RELAY` hands `--relay` to all of
//! them. Tests with other people's software are in `real` and skip what is not installed, except in CI.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails; helpers are tests too")]

mod accepting;
mod access_log;
mod addresses;
mod algorithms;
mod check;
mod closing;
mod costs;
mod crowds;
mod exhaustion;
mod failing_fast;
mod failover;
mod first_bytes;
mod harness;
mod health;
mod log;
mod log_events;
mod privileges;
mod probes;
mod ranges;
mod real;
mod resets;
mod routes;
mod settings;
mod several_addresses;
mod shutdown;
mod spread;
mod streams;
mod taken;
mod timeouts;
mod warm;
