//! The rules: what one side must see of the other, given what it has seen without a balancer.

use super::baseline::{Baseline, Baselines};
use super::route::{Pair, Route};
use crate::stage::Observation;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;
use testkit::Ending;

/// tcplb is late where it takes so much longer than a peer, which no busy machine explains.
const LATE: Duration = Duration::from_secs(8);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shortfall {
    /// A byte is not what was sent there.
    Garbled,
    /// Bytes that had left the sender do not arrive.
    Lost,
    /// A FIN passes off a part as the whole.
    CutShort,
    /// A FIN where the sender's end is always a reset.
    FinForReset,
    /// A reset where the sender's end is always a FIN.
    ResetForFin,
    /// Neither.
    NoEnd,
    /// The end comes much later than over another route.
    Late,
}

/// A shortfall of one side of one case.
#[derive(Clone, Copy, Debug)]
pub struct Finding {
    pub route: Route,
    pub case: usize,
    /// The side that sees it: 0 is the client.
    pub side: usize,
    pub what: Shortfall,
}

impl Finding {
    /// May it turn out to be none when the direct route is known better?
    pub fn is_doubtful(&self) -> bool {
        matches!(self.what, Shortfall::Lost | Shortfall::FinForReset | Shortfall::ResetForFin)
    }
}

/// What holds of every connection, with or without a balancer.
///
/// A side that cuts the connection itself may have lost what it did not wait for.
pub fn certain(hearer: &Observation, speaker: &Observation) -> Vec<Shortfall> {
    let mut found = Vec::new();
    if hearer.garbled.is_some() || hearer.heard > speaker.said {
        found.push(Shortfall::Garbled);
    }
    if hearer.end == Some(Ending::Fin) && hearer.heard < speaker.said {
        found.push(Shortfall::CutShort);
    } else if !hearer.cut && hearer.heard < speaker.sent {
        found.push(Shortfall::Lost);
    }
    if !hearer.cut && hearer.end.is_none() {
        found.push(Shortfall::NoEnd);
    }
    found
}

/// What else the direct route has taught.
pub fn learned(hearer: &Observation, speaker: &Observation, baseline: &Baseline) -> Vec<Shortfall> {
    let mut found = Vec::new();
    if hearer.cut {
        if hearer.heard < baseline.least.min(speaker.sent).min(hearer.awaited) {
            found.push(Shortfall::Lost);
        }
    } else if hearer.end.is_some() && !baseline.ends.contains(&hearer.end) {
        let reset = hearer.end == Some(Ending::Reset);
        found.push(if reset { Shortfall::ResetForFin } else { Shortfall::FinForReset });
    }
    found
}

pub fn findings(played: &BTreeMap<Route, Vec<Pair>>, baselines: &Baselines) -> Vec<Finding> {
    let mut found = Vec::new();
    for (route, pairs) in played {
        for (case, pair) in pairs.iter().enumerate() {
            for (side, hearer) in pair.iter().enumerate() {
                let speaker = &pair[1 - side];
                let mut all = certain(hearer, speaker);
                all.extend(learned(hearer, speaker, baselines.of(case, side)));
                let others = Route::PEERS.iter().filter_map(|peer| Some(&played.get(peer)?[case][side]));
                if Route::OURS.contains(route) && is_late(hearer, others) {
                    all.push(Shortfall::Late);
                }
                found.extend(all.into_iter().map(|what| Finding { route: *route, case, side, what }));
            }
        }
    }
    found
}

fn is_late<'a>(seen: &Observation, mut others: impl Iterator<Item = &'a Observation>) -> bool {
    seen.took.is_some_and(|took| others.any(|other| other.took.is_some_and(|other| took > other + LATE)))
}

impl fmt::Display for Shortfall {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Shortfall::Garbled => "garbled",
            Shortfall::Lost => "bytes lost",
            Shortfall::CutShort => "cut short by a FIN",
            Shortfall::FinForReset => "FIN for a reset",
            Shortfall::ResetForFin => "reset for a FIN",
            Shortfall::NoEnd => "no end",
            Shortfall::Late => "late",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(said: u64, heard: u64, end: Option<Ending>) -> Observation {
        Observation { said, sent: said, heard, garbled: None, end, took: None, cut: false, awaited: 0, starved: false }
    }

    #[test]
    fn each_shortfall_is_recognised() {
        let (fin, reset) = (Some(Ending::Fin), Some(Ending::Reset));
        let speaker = Observation { sent: 80, ..seen(100, 0, None) };
        assert_eq!(certain(&seen(0, 100, fin), &speaker), []);
        assert_eq!(certain(&seen(0, 80, reset), &speaker), []);
        assert_eq!(certain(&seen(0, 99, fin), &speaker), [Shortfall::CutShort]);
        assert_eq!(certain(&seen(0, 79, reset), &speaker), [Shortfall::Lost]);
        assert_eq!(certain(&seen(0, 101, reset), &speaker), [Shortfall::Garbled]);
        assert_eq!(certain(&seen(0, 100, None), &speaker), [Shortfall::NoEnd]);
        let garbled = Observation { garbled: Some("byte 7".to_owned()), ..seen(0, 100, fin) };
        assert_eq!(certain(&garbled, &speaker), [Shortfall::Garbled]);

        let always = |end| Baseline { ends: [end].into(), least: 10 };
        assert_eq!(learned(&seen(0, 100, fin), &speaker, &always(fin)), []);
        assert_eq!(learned(&seen(0, 100, reset), &speaker, &always(fin)), [Shortfall::ResetForFin]);
        assert_eq!(learned(&seen(0, 100, fin), &speaker, &always(reset)), [Shortfall::FinForReset]);
        let both = Baseline { ends: [fin, reset].into(), least: 10 };
        assert_eq!(learned(&seen(0, 100, fin), &speaker, &both), []);
        // A side that cuts hears what it waits for, where that always arrives; its end is its own.
        let cuts = |heard, awaited| Observation { cut: true, awaited, ..seen(0, heard, None) };
        assert_eq!(learned(&cuts(10, 20), &speaker, &both), []);
        assert_eq!(learned(&cuts(9, 20), &speaker, &both), [Shortfall::Lost]);
        assert_eq!(learned(&cuts(0, 0), &speaker, &both), []);

        let took = |seconds| Observation { took: Some(Duration::from_secs(seconds)), ..seen(0, 0, fin) };
        assert!(is_late(&took(12), [&took(30), &took(3)].into_iter()));
        assert!(!is_late(&took(12), [&took(30), &took(5)].into_iter()));
    }
}
