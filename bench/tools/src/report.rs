//! What became of the requests, as JSON. Times are in microseconds.

use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::fmt;

/// Longer times count as this one.
const LONGEST_NS: u64 = 100_000_000_000;
/// Of a time: 0.1 %.
const DIGITS: u8 = 3;
/// Points of the curve from one power of ten to the next.
const POINTS: i32 = 10;

/// Requests of the measured time. Each one is either answered or failed.
pub(crate) struct Report {
    /// From the time at which a request is due to its answer. A request without an answer counts with the time that it waited.
    pub(crate) latencies: Histogram<u64>,
    /// How late the generator itself sent, nanoseconds.
    pub(crate) own_delays: Histogram<u64>,
    /// With those of the warm-up.
    pub(crate) made: u64,
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    /// Sent late, since the answer before had not arrived.
    pub(crate) held_up: u64,
    /// Kept connections that were closed by the other side while they were idle.
    pub(crate) closed: u64,
    pub(crate) failures: BTreeMap<String, u64>,
}

impl Report {
    pub(crate) fn new() -> Result<Report, String> {
        let histogram = || Histogram::new_with_max(LONGEST_NS, DIGITS).map_err(|error| error.to_string());
        let (latencies, own_delays) = (histogram()?, histogram()?);
        Ok(Report {
            latencies,
            own_delays,
            made: 0,
            sent: 0,
            answered: 0,
            held_up: 0,
            closed: 0,
            failures: BTreeMap::new(),
        })
    }

    pub(crate) fn fail(&mut self, why: &str) {
        *self.failures.entry(why.to_owned()).or_default() += 1;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed: u64 = self.failures.values().sum();
        let Report { made, sent, answered, held_up, closed, .. } = self;
        write!(out, r#"{{"made": {made}, "sent": {sent}, "answered": {answered}, "failed": {failed}, "#)?;
        write!(out, r#""held_up": {held_up}, "closed": {closed}, "#)?;
        for (name, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)] {
            let (latency, own) = (micros(&self.latencies, quantile), micros(&self.own_delays, quantile));
            write!(out, r#""{name}": {latency}, "own_{name}": {own}, "#)?;
        }
        let failures: Vec<String> = self.failures.iter().map(|(why, count)| format!("{why:?}: {count}")).collect();
        write!(out, r#""failures": {{{}}}, "curve": ["#, failures.join(", "))?;
        for (index, (one_of, latency)) in curve(&self.latencies).into_iter().enumerate() {
            write!(out, "{}[{one_of:.3}, {latency}]", if index > 0 { ", " } else { "" })?;
        }
        write!(out, "]}}")
    }
}

/// One of how many requests takes longer, and how long: from half of them to the longest one.
fn curve(latencies: &Histogram<u64>) -> Vec<(f64, f64)> {
    let count = latencies.len() as f64;
    let steps = (1..).map(|step| 10_f64.powf(f64::from(step) / f64::from(POINTS)));
    let points = steps.take_while(|one_of| *one_of < count);
    points.chain([count.max(1.0)]).map(|one_of| (one_of, micros(latencies, 1.0 - 1.0 / one_of))).collect()
}

fn micros(times: &Histogram<u64>, quantile: f64) -> f64 {
    times.value_at_quantile(quantile) as f64 / 1e3
}
