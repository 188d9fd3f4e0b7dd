//! tcplb: a Layer-4 TCP connection balancer. This page lists the modules; ARCHITECTURE.md describes how they work
//! together.
//!
//! # Layers
//!
//! Imports point down this list only; `control`, `prober` and `worker` never import each other. `tests/model/layers.rs` checks it.
//!
//! | module         | part                                                                             |
//! |----------------|----------------------------------------------------------------------------------|
//! | [`cli`]        | the command line: flags and subcommands                                          |
//! | [`app`]        | composition root: spawn, connect threads, wait                                   |
//! | [`admin`]      | threads: the HTTP API, metrics, status page                                      |
//! | [`control`]    | thread: every change is a command to it                                          |
//! | [`prober`]     | thread: health probes; writes the health bits                                    |
//! | [`worker`]     | threads: event loop, accept, and the driver that applies what sessions decide    |
//! | [`access_log`] | thread: writes a line per connection                                             |
//! | [`relay`]      | moves the bytes of one direction: copy, splice                                   |
//! | [`session`]    | one connection as a state machine without I/O: (input, now) → effects            |
//! | [`preflight`]  | checks what otherwise only a start finds out                                     |
//! | [`confine`]    | what the process gives up once everything is bound: user, capabilities, Landlock |
//! | [`net`]        | sockets and pipes; the one place that is Linux-only                              |
//! | [`systemd`]    | messages to the service manager, and its sockets                                 |
//! | [`logger`]     | the log on stderr: formatter, bounded queue, thread                              |
//! | [`watchdog`]   | thread: checks that every other thread still runs its loop                       |
//! | [`mailbox`]    | a channel and the waker of its reader, tied together                             |
//! | [`clock`]      | the one clock of all threads                                                     |
//! | [`pool`]       | what threads share: backends, leases, the snapshot, health bits                  |
//! | [`admission`]  | decides which clients are accepted, and where each is counted                    |
//! | [`telemetry`]  | counters, totals, histograms                                                     |
//! | [`probe`]      | one health probe: target, bytes sent, expected answer                            |
//! | [`config`]     | the validated configuration                                                      |
//! | [`policy`]     | all decisions, pure: balancing, health, limits                                   |
//! | [`proto`]      | bytes ↔ values, incremental and pure: PROXY protocol                             |
//! | [`base`]       | vocabulary: addresses, durations, ticks, timer wheel, slots                      |
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
