//! The rules: what one side must see of the other, given what it has seen without a balancer.

use super::baseline::{Baseline, Baselines};
use super::route::{Pair, Route};
use crate::scenario::Observation;
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
pub fn certain(receiver: &Observation, sender: &Observation) -> Vec<Shortfall> {
    let mut found = Vec::new();
    if receiver.garbled.is_some() || receiver.received > sender.written {
        found.push(Shortfall::Garbled);
    }
    if receiver.end == Some(Ending::Fin) && receiver.received < sender.written {
        found.push(Shortfall::CutShort);
    } else if !receiver.cut && receiver.received < sender.sent {
        found.push(Shortfall::Lost);
    }
    if !receiver.cut && receiver.end.is_none() {
        found.push(Shortfall::NoEnd);
    }
    found
}

/// What else the direct route has shown.
pub fn learned(receiver: &Observation, sender: &Observation, baseline: &Baseline) -> Vec<Shortfall> {
    let mut found = Vec::new();
    if receiver.cut {
        if receiver.received < baseline.least.min(sender.sent).min(receiver.awaited) {
            found.push(Shortfall::Lost);
        }
    } else if receiver.end.is_some() && !baseline.ends.contains(&receiver.end) {
        let reset = receiver.end == Some(Ending::Reset);
        found.push(if reset { Shortfall::ResetForFin } else { Shortfall::FinForReset });
    }
    found
}

pub fn findings(played: &BTreeMap<Route, Vec<Pair>>, baselines: &Baselines) -> Vec<Finding> {
    let mut found = Vec::new();
    for (route, pairs) in played {
        for (case, pair) in pairs.iter().enumerate() {
            for (side, receiver) in pair.iter().enumerate() {
                let sender = &pair[1 - side];
                let mut all = certain(receiver, sender);
                all.extend(learned(receiver, sender, baselines.of(case, side)));
                let others = Route::PEERS.iter().filter_map(|peer| Some(&played.get(peer)?[case][side]));
                if Route::OURS.contains(route) && is_late(receiver, others) {
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

    fn seen(written: u64, received: u64, end: Option<Ending>) -> Observation {
        Observation {
            written,
            sent: written,
            received,
            garbled: None,
            end,
            took: None,
            cut: false,
            awaited: 0,
            starved: false,
        }
    }

    #[test]
    fn each_shortfall_is_recognised() {
        let (fin, reset) = (Some(Ending::Fin), Some(Ending::Reset));
        let sender = Observation { sent: 80, ..seen(100, 0, None) };
        assert_eq!(certain(&seen(0, 100, fin), &sender), []);
        assert_eq!(certain(&seen(0, 80, reset), &sender), []);
        assert_eq!(certain(&seen(0, 99, fin), &sender), [Shortfall::CutShort]);
        assert_eq!(certain(&seen(0, 79, reset), &sender), [Shortfall::Lost]);
        assert_eq!(certain(&seen(0, 101, reset), &sender), [Shortfall::Garbled]);
        assert_eq!(certain(&seen(0, 100, None), &sender), [Shortfall::NoEnd]);
        let garbled = Observation { garbled: Some("byte 7".to_owned()), ..seen(0, 100, fin) };
        assert_eq!(certain(&garbled, &sender), [Shortfall::Garbled]);

        let always = |end| Baseline { ends: [end].into(), least: 10 };
        assert_eq!(learned(&seen(0, 100, fin), &sender, &always(fin)), []);
        assert_eq!(learned(&seen(0, 100, reset), &sender, &always(fin)), [Shortfall::ResetForFin]);
        assert_eq!(learned(&seen(0, 100, fin), &sender, &always(reset)), [Shortfall::FinForReset]);
        let both = Baseline { ends: [fin, reset].into(), least: 10 };
        assert_eq!(learned(&seen(0, 100, fin), &sender, &both), []);
        // A side that cuts receives what it waits for, where that always arrives; its end is its own.
        let cuts = |received, awaited| Observation { cut: true, awaited, ..seen(0, received, None) };
        assert_eq!(learned(&cuts(10, 20), &sender, &both), []);
        assert_eq!(learned(&cuts(9, 20), &sender, &both), [Shortfall::Lost]);
        assert_eq!(learned(&cuts(0, 0), &sender, &both), []);

        let took = |seconds| Observation { took: Some(Duration::from_secs(seconds)), ..seen(0, 0, fin) };
        assert!(is_late(&took(12), [&took(30), &took(3)].into_iter()));
        assert!(!is_late(&took(12), [&took(30), &took(5)].into_iter()));
    }
}
