//! Totals, counters and histograms of listeners, pools and backends.
//!
//! They outlive snapshots: a reload that keeps the name keeps the counts. Workers and the prober add, every thread reads; all
//! relaxed. `admin` turns the figures into metrics and the status.
//!
//! | file | what |
//! |---|---|
//! | `listener` | clients accepted, refused, active |
//! | `counters` | totals of backends and pools |
//! | `histogram` | how long something took |
//! | `access_log` | lines of the access log that were lost |

mod access_log;
mod counters;
pub mod histogram;
mod listener;

pub use access_log::AccessLogTotals;
pub use counters::{CLOSE_REASONS, Counters, PoolTotals};
pub use listener::{EndCounts, ListenerTotals, Refusal};
