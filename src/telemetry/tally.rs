//! Counters of one process, for the next one: an upgrade loses no count, and no metric goes back.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};

/// Something that counts.
pub trait Counted {
    /// Gives each of its counters a name. Counters of one kind have one name, in a fixed order.
    fn counters(&self) -> Vec<(&'static str, &[AtomicU64])>;
}

/// The counters of something, by their names. Those that are zero are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally(BTreeMap<Cow<'static, str>, Vec<u64>>);

impl Tally {
    /// The counters of this moment.
    pub fn of(counted: &impl Counted) -> Tally {
        let read = |counters: &[AtomicU64]| counters.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let all = counted.counters().into_iter().map(|(name, counters)| (name.into(), read(counters)));
        Tally(all.filter(|(_, counts): &(_, Vec<u64>)| counts.iter().any(|count| *count > 0)).collect())
    }

    /// What was counted after `before`.
    #[must_use]
    pub fn since(&self, before: &Tally) -> Tally {
        let since = |(name, counts): (&Cow<'static, str>, &Vec<u64>)| {
            let earlier = before.0.get(name).map_or(&[][..], Vec::as_slice);
            let earlier = earlier.iter().chain(std::iter::repeat(&0));
            let more = counts.iter().zip(earlier).map(|(count, earlier)| count.saturating_sub(*earlier));
            (name.clone(), more.collect())
        };
        Tally(self.0.iter().map(since).collect())
    }

    /// Adds them to the counters of the same names. A counter that this version does not have is lost.
    pub fn add_to(&self, counted: &impl Counted) {
        for (name, counters) in counted.counters() {
            let counts = self.0.get(name).map_or(&[][..], Vec::as_slice);
            for (counter, count) in counters.iter().zip(counts).filter(|(_, count)| **count > 0) {
                counter.fetch_add(*count, Ordering::Relaxed);
            }
        }
    }

    /// Nothing was counted?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A single counter.
pub(super) fn one(counter: &AtomicU64) -> &[AtomicU64] {
    slice::from_ref(counter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{ListenerTotals, PoolTotals, Refusal, WorkerTotals};
    use std::time::Duration;

    #[test]
    fn counters_pass_through_a_message_and_add_up() {
        let (old, new) = (PoolTotals::default(), PoolTotals::default());
        old.counters.connected(Duration::from_millis(3));
        old.closed_without_backend(2);
        old.durations.add(Duration::from_secs(1));
        let first = Tally::of(&*old.counters);
        first.add_to(&*new.counters);
        new.counters.relayed(5, 6);
        old.counters.relayed(10, 20);
        let text = serde_json::to_string(&Tally::of(&*old.counters)).unwrap();
        let last: Tally = serde_json::from_str(&text).unwrap();
        last.since(&first).add_to(&*new.counters);
        Tally::of(&old).add_to(&new);
        let both = Tally::of(&*new.counters);
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        assert_eq!((load(&new.counters.connections), load(&new.counters.bytes_to_client)), (1, 26));
        assert_eq!((new.counters.connect_times.read().count(), new.durations.read().count()), (1, 1));
        assert_eq!(load(&new.closed[2]), 1);
        assert_eq!(
            both.since(&both),
            Tally(both.0.iter().map(|(name, of)| (name.clone(), vec![0; of.len()])).collect())
        );
    }

    #[test]
    fn unknown_counters_are_lost_and_others_are_not() {
        let text = r#"{"accepted":[7],"refused":[0,0,1,0,0],"moods":[9,9]}"#;
        let totals = ListenerTotals::new("web".to_owned());
        serde_json::from_str::<Tally>(text).unwrap().add_to(&*totals);
        assert_eq!((totals.accepted(), totals.refused(Refusal::SourceRate)), (7, 1));
        assert!(Tally::of(&WorkerTotals::default()).is_empty());
    }
}
