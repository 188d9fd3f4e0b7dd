//! The families about listeners whose connections the kernel carries. Without such a listener all of them are 0.

use super::{Family, family};
use crate::telemetry::{KernelTotals, Tracked};
use std::sync::Arc;

/// About the kernel's engine.
pub const KERNEL: &[Family<Arc<KernelTotals>>] = &[
    family(
        "gauge",
        "tcplb_kernel_entries",
        "",
        "Entries of tcplb's connections in the kernel's table of connections.",
        "tcplb_kernel_entries",
        |totals, samples| samples.one(tracked(totals).entries),
    ),
    family(
        "gauge",
        "tcplb_kernel_table_entries",
        "",
        "All entries of the kernel's table of connections (nf_conntrack_count).",
        "tcplb_kernel_table_entries / tcplb_kernel_table_max > 0.8",
        |totals, samples| samples.one(tracked(totals).table_entries),
    ),
    family(
        "gauge",
        "tcplb_kernel_table_max",
        "",
        "The most entries that this table holds (nf_conntrack_max). The kernel drops the first packet of a connection beyond it.",
        "",
        |totals, samples| samples.one(tracked(totals).table_max),
    ),
    family(
        "counter",
        "tcplb_kernel_changes_total",
        "",
        "Changes of elements, chains and maps of the table `inet tcplb`.",
        "rate(tcplb_kernel_changes_total[5m])",
        |totals, samples| samples.one(totals.changes().0),
    ),
    family(
        "counter",
        "tcplb_kernel_failures_total",
        "",
        "Transactions of such changes that failed. The rules of before stay, and tcplb tries again.",
        "increase(tcplb_kernel_failures_total[10m]) > 0",
        |totals, samples| samples.one(totals.changes().1),
    ),
    family(
        "histogram",
        "tcplb_kernel_change_seconds",
        "",
        "How long a transaction took.",
        "histogram_quantile(0.99, sum by (le) (rate(tcplb_kernel_change_seconds_bucket[5m])))",
        |totals, samples| samples.histogram(&totals.change_times.read()),
    ),
];

fn tracked(totals: &KernelTotals) -> Tracked {
    totals.tracked().unwrap_or_default()
}
