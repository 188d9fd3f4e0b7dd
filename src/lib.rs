//! tcplb: a Layer-4 TCP connection balancer. This is the map; ARCHITECTURE.md tells the story.
//!
//! # Layers
//!
//! Imports point down this list only (`tests/model/layers.rs` sees to it); the threads never import each other.
//!
//! | module      | part                                                                              |
//! |-------------|-----------------------------------------------------------------------------------|
//! | [`cli`]     | what the user types: flags and subcommands                                        |
//! | [`app`]     | composition root: spawn, carry letters between threads, wait                      |
//! | [`admin`]   | threads: the HTTP API, metrics, status page                                        |
//! | [`control`] | thread: every change is a command to it                                           |
//! | [`prober`]  | thread: health probes; the only writer of the health bits                        |
//! | [`worker`]  | threads: event loop, accept, and the driver that applies what sessions decide     |
//! | [`access_log`] | thread: a line per connection, handed over by the buffer                         |
//! | [`relay`]   | moves the bytes of one way: copy, splice                                          |
//! | [`session`] | one connection as a machine without I/O: (input, now) → effect; every ending      |
//! | [`preflight`] | what only a start finds out, asked beforehand                                     |
//! | [`confine`] | what the process gives up once everything is bound: user, capabilities, Landlock    |
//! | [`net`]     | sockets and pipes; the one place that is Linux-only                               |
//! | [`systemd`] | what the service manager is told, and the sockets it handed over                    |
//! | [`logger`]  | the log on stderr: formatter, bounded queue, thread                                   |
//! | [`watchdog`] | thread: whether every other thread still comes around                       |
//! | [`mailbox`] | a channel and the waker of its reader, tied together                              |
//! | [`clock`]   | the one clock of all threads                                                      |
//! | [`pool`]    | what threads share: backends, leases, the immutable snapshot, health bits         |
//! | [`admission`] | which clients come in, and where each one is counted                             |
//! | [`telemetry`] | what is counted: totals, counters, histograms                                    |
//! | [`probe`]   | one health probe: where it goes, what it says, what answer passes                 |
//! | [`config`]  | what the operator asked for, proven                                               |
//! | [`policy`]  | every decision, pure: balancing, health                                           |
//! | [`proto`]   | bytes ↔ values, incremental and pure: PROXY protocol                              |
//! | [`base`]    | vocabulary: addresses, durations, ticks, timer wheel, slots                       |
//!
//! # Life of a connection
//!
//! accept → (PROXY header in) → admitted → pick (policy over the snapshot) → dial, the next backend on failure → (PROXY
//! header out) → relay: two halves, the same code twice → each half ends by FIN or reset, passed on in kind → one close
//! reason → record, counters, lease returned by Drop.
#![forbid(unsafe_code)]

pub mod access_log;
pub mod admin;
pub mod admission;
pub mod app;
pub mod base;
pub mod cli;
pub mod clock;
pub mod config;
pub mod confine;
pub mod control;
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
pub mod systemd;
pub mod telemetry;
pub mod watchdog;
pub mod worker;
