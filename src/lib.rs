//! tcplb: a Layer-4 TCP connection balancer. ARCHITECTURE.md lists the modules in the order of their layers and describes how
//! they work together.
#![forbid(unsafe_code)]
// Control selects among more channels than the default has room for.
#![recursion_limit = "256"]

pub mod access_log;
pub mod admin;
pub mod admission;
pub mod app;
pub mod background;
pub mod base;
pub mod cli;
pub mod clock;
pub mod config;
pub mod confine;
pub mod control;
pub mod discovery;
pub mod events;
pub mod handover;
pub mod import;
pub mod inspect;
pub mod kernel;
pub mod launcher;
pub mod logger;
pub mod mailbox;
pub mod net;
pub mod policy;
pub mod pool;
pub mod preflight;
pub mod probe;
pub mod prober;
pub mod proto;
pub mod relay;
pub mod session;
pub mod small_file;
pub mod state_file;
pub mod systemd;
pub mod telemetry;
pub mod warm;
pub mod watchdog;
pub mod worker;
