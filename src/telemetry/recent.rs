//! The last minute and the last three minutes of counters that only grow.
//!
//! Control samples the counters every [`EVERY`], where the admin API is on. A difference to an older sample is what was counted
//! since. Memory is bounded: at most [`BASES`] samples and [`HISTORY`] rates for each backend, pool and listener. No worker
//! takes the lock.

use crate::base::Tick;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::time::Duration;

/// How often control samples.
pub const EVERY: Duration = Duration::from_secs(5);

/// How many rates there are: three minutes.
pub const HISTORY: usize = 36;

/// The last minute is at least so long, once there are samples.
const WINDOW: Duration = Duration::from_secs(60);

/// The time between two samples that are kept for differences.
const APART: Duration = Duration::from_secs(15);

/// The most samples that are kept for differences.
const BASES: usize = 6;

/// Samples of the counters `S`.
#[derive(Debug)]
pub struct Series<S>(Mutex<Option<Box<Rows<S>>>>);

#[derive(Debug)]
struct Rows<S> {
    /// The oldest first.
    bases: VecDeque<(Tick, S)>,
    /// Per second, the oldest first.
    rates: VecDeque<f32>,
    /// The last sample of the count that `rates` are about.
    last: (Tick, u64),
}

/// What was counted in a span of time that ends now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recent<S> {
    /// The span; zero where nothing samples.
    pub span: Duration,
    /// What was counted in it.
    pub figures: S,
}

impl<S> Recent<S> {
    /// A count of the span, as one per second.
    pub fn per_second(&self, count: u64) -> f64 {
        if self.span.is_zero() { 0.0 } else { count as f64 / self.span.as_secs_f64() }
    }
}

impl<S> Default for Series<S> {
    fn default() -> Self {
        Series(Mutex::new(None))
    }
}

impl<S: Copy + Default> Series<S> {
    /// Begins with counters of zero; does nothing where it has begun.
    pub fn begin(&self, now: Tick) {
        self.0.lock().get_or_insert_with(|| Box::new(Rows::begin(now)));
    }

    /// Notes all counters, and the one that the history is about.
    pub fn sample(&self, sample: S, count: u64, now: Tick) {
        let mut rows = self.0.lock();
        let rows = rows.get_or_insert_with(|| Box::new(Rows::begin(now)));
        let (before, counted) = rows.last;
        let span = (now - before).as_secs_f64();
        if span > 0.0 {
            push(&mut rows.rates, (count.saturating_sub(counted) as f64 / span) as f32, HISTORY);
            rows.last = (now, count);
        }
        // Control may come a little early or late.
        if rows.bases.back().is_none_or(|(at, _)| now - *at > APART - EVERY / 2) {
            push(&mut rows.bases, (now, sample), BASES);
        }
    }

    /// The difference to the youngest sample that is at least a minute old, or else to the oldest one.
    pub fn recent(&self, now: Tick, since: impl FnOnce(&S) -> S) -> Recent<S> {
        let rows = self.0.lock();
        let mut bases = rows.iter().flat_map(|rows| &rows.bases);
        let oldest = bases.clone().next();
        match bases.rfind(|(at, _)| now - *at >= WINDOW).or(oldest) {
            Some((at, sample)) => Recent { span: now - *at, figures: since(sample) },
            None => Recent::default(),
        }
    }

    /// The first answer to a sample of the last minute, the oldest first.
    pub fn find<A>(&self, now: Tick, ask: impl FnMut(&S) -> Option<A>) -> Option<A> {
        let rows = self.0.lock();
        let bases = rows.iter().flat_map(|rows| &rows.bases);
        bases.filter(|(at, _)| now - *at <= WINDOW + APART).map(|(_, sample)| sample).find_map(ask)
    }

    /// The rates of the last three minutes, the oldest first.
    pub fn history(&self) -> Vec<f64> {
        let rows = self.0.lock();
        let rates = rows.iter().flat_map(|rows| &rows.rates);
        rates.map(|rate| (f64::from(*rate) * 10.0).round() / 10.0).collect()
    }
}

impl<S: Default> Rows<S> {
    fn begin(now: Tick) -> Rows<S> {
        Rows { bases: VecDeque::from([(now, S::default())]), rates: VecDeque::new(), last: (now, 0) }
    }
}

fn push<T>(values: &mut VecDeque<T>, value: T, most: usize) {
    if values.len() >= most {
        values.pop_front();
    }
    values.push_back(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Tick {
        Tick(1) + Duration::from_secs(seconds)
    }

    #[test]
    fn a_series_that_has_not_begun_shows_nothing() {
        let series = Series::<u64>::default();
        assert_eq!(series.recent(at(9), |before| 7 - before).span, Duration::ZERO);
        assert_eq!((series.history(), series.find(at(9), |_| Some(()))), (Vec::new(), None));
    }

    #[test]
    fn the_window_is_a_minute_and_the_history_three_however_long_it_runs() {
        let series = Series::default();
        series.begin(at(0));
        for second in (5..=1_000).step_by(5) {
            series.sample(2 * second, 2 * second, at(second));
            let now = second + 3;
            let recent = series.recent(at(now), |before| 2 * now - before);
            let span = recent.span.as_secs();
            assert_eq!(recent.figures, 2 * span, "at {second} s");
            assert!(span == now || (60..=75).contains(&span), "at {second} s: {span} s");
            let history = series.history();
            assert_eq!(history.len() as u64, (second / 5).min(36));
            assert!(history.iter().all(|rate| (*rate - 2.0).abs() < 0.01), "{history:?}");
        }
        let rows = series.0.lock();
        let rows = rows.as_ref().unwrap();
        assert!(rows.bases.len() <= BASES && rows.bases.capacity() <= 2 * BASES, "{rows:?}");
    }

    #[test]
    fn a_late_sample_is_a_rate_of_its_own_span() {
        let series = Series::default();
        series.begin(at(0));
        series.sample(100_u64, 100, at(20));
        assert_eq!(series.history(), [5.0]);
        series.sample(100, 100, at(20));
        assert_eq!(series.history(), [5.0], "no time has passed");
    }
}
