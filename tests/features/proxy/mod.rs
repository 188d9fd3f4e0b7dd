//! PROXY protocol end to end: real sockets, tcplb behind and before itself, HAProxy and nginx as independent peers.
//!
//! `chains` has tcplb and fake ends only; `haproxy` and `nginx` need those programs, and say so when they are missing (in
//! CI that is a failure); `corpus` replays headers from files.

mod chains;
mod corpus;
mod endings;
mod haproxy;
mod nginx;
mod probes;
mod support;
