//! A suite per feature: the admin API, the command line, changes under way, limits, health checks, the PROXY protocol. Each uses
//! the built program, or a balancer in this process where a test needs to look inside.
//!
//! `tests/e2e` observes the built program alone, and runs once for each way to move the bytes.
#![forbid(unsafe_code)]

mod admin;
mod cli;
mod control;
#[path = "../common/foreign.rs"]
mod foreign;
mod limits;
#[path = "../common/need.rs"]
mod need;
mod prober;
#[path = "../common/process.rs"]
mod process;
mod proxy;
#[path = "../common/eventually.rs"]
mod waiting;

use need::need;
