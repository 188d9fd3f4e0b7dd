//! A suite per feature: the admin API, the command line, changes under way, sources of backends, limits, health checks, the PROXY
//! protocol, roles that move. Upgrades are here, too. Each uses the built program, or a balancer in this process where a test needs to look inside.
//!
//! `tests/e2e` observes the built program alone, and runs once for each way to move the bytes.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails; helpers are tests too")]

mod admin;
mod balancer;
mod cli;
mod control;
mod discovery;
mod imported;
mod limits;
mod page;
mod prober;
mod proxy;
mod roles;
mod ssh;
mod upgrade;
