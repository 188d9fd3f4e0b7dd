//! tcplb: a Layer-4 TCP connection balancer.
#![forbid(unsafe_code)]

pub mod app;
pub mod base;
pub mod cli;
pub mod config;
pub mod control;
pub mod mailbox;
pub mod net;
pub mod policy;
pub mod pool;
pub mod relay;
pub mod session;
pub mod worker;
