//! Totals, counters and histograms of listeners, pools and backends.
//!
//! They outlive snapshots: a reload that keeps the name keeps the counts. Workers and the prober add, every thread reads; all
//! relaxed. `admin` turns the figures into metrics and the status.
//!
//! | file | what |
//! |---|---|
//! | `listener` | clients accepted, refused, active, and the routes that they took |
//! | `counters` | totals of backends and pools |
//! | `histogram` | how long something took |
//! | `kernel` | the table of listeners whose connections the kernel carries |
//! | `worker` | how long the turns of an event loop take |
//! | [`recent`] | what all of these were in the last minutes |
//! | [`tally`] | all counters, for the next process |
//! | `upgrade` | upgrades, and how long they stopped connections |
//! | `access_log` | lines of the access log that were lost |

mod access_log;
mod counters;
pub mod histogram;
mod kernel;
mod listener;
pub mod recent;
pub mod tally;
mod upgrade;
mod worker;

pub use access_log::{AccessLogTotals, LostLines};
pub use counters::{CLOSE_REASONS, Closed, Counters, PathInfo, PoolTotals, Resets, Sample};
pub use kernel::{KernelTotals, Tracked};
pub use listener::{Clients, EndCounts, ListenerTotals, Refusal, RouteTotals};
pub use upgrade::UpgradeTotals;
pub use worker::WorkerTotals;
