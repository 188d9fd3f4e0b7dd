//! The addresses of a backend's name: which of them serve, and which is next.
//!
//! Addresses are used in turn. One that fails a client is left out for [`SHORTEST`], twice as long each time, up to
//! [`LONGEST`]. After that one client tries it; the others use it again once that attempt has succeeded. An address whose
//! probes fail is left out until they pass. A client that could connect to no other address tries one that is left out.
//!
//! Workers write back-offs, the prober the results of probes. All of it is relaxed atomics in the `Arc<Backend>`, so that the
//! other workers learn of a failure at once. A backend with one address has nothing to choose and pays nothing for this.
//!
//! Addresses may join while the backend serves, behind the others, so the number of an address never changes. None leaves: the
//! backend with fewer addresses is another one.

use crate::base::{Endpoint, Tick};
use std::iter;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// How long an address is left out after its first failure, and at most.
pub const SHORTEST: Duration = Duration::from_secs(1);
/// See [`SHORTEST`].
pub const LONGEST: Duration = Duration::from_secs(60);

/// The addresses of one backend.
#[derive(Debug)]
pub struct Addresses {
    first: Group,
    /// Choices so far.
    turn: AtomicU32,
}

/// Addresses that came at the same time.
#[derive(Debug)]
struct Group {
    list: Box<[BackendAddress]>,
    next: OnceLock<Box<Group>>,
}

/// One of them.
#[derive(Debug)]
pub struct BackendAddress {
    /// Where it is.
    pub endpoint: Endpoint,
    /// Connections that reached it.
    connections: AtomicU64,
    /// Probes pass, or nothing is known of it.
    up: AtomicBool,
    /// A [`Backoff`], packed.
    backoff: AtomicU64,
}

/// Does an address serve?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressState {
    /// In its turn.
    Up,
    /// Clients failed there: left out for a while.
    BackOff,
    /// Probes fail there.
    Down,
}

/// Until when an address is left out. The upper 55 bits hold microseconds, the lower 8 the failures in a row, and the
/// one between whether a client is trying it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Backoff {
    until: Tick,
    trial: bool,
    failures: u8,
}

impl Addresses {
    /// All of them serve until something else is known.
    pub fn new(endpoints: Vec<Endpoint>) -> Addresses {
        Addresses { first: Group::new(endpoints, true), turn: AtomicU32::new(0) }
    }

    /// Further ones, which serve at once if they are `up`. Only control calls it. `connections`: how many the backend had so far.
    pub fn join(&self, endpoints: Vec<Endpoint>, up: bool, connections: u64) {
        if let (Some(only), 1) = (self.get(0), self.len()) {
            // From now on they are counted by address.
            only.connections.store(connections, Ordering::Relaxed);
        }
        if let Some(last) = self.groups().last() {
            let _ = last.next.set(Box::new(Group::new(endpoints, up)));
        }
    }

    /// All of them, in the order of the name's answers.
    pub fn iter(&self) -> impl Iterator<Item = &BackendAddress> {
        self.groups().flat_map(|group| &group.list)
    }

    /// How many there are; none while the name is not resolved.
    pub fn len(&self) -> usize {
        self.groups().map(|group| group.list.len()).sum()
    }

    /// None at all?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// By its number.
    pub fn get(&self, number: usize) -> Option<&BackendAddress> {
        self.iter().nth(number)
    }

    /// The number of this one.
    pub fn number_of(&self, endpoint: &Endpoint) -> Option<usize> {
        self.iter().position(|address| address.endpoint == *endpoint)
    }

    fn groups(&self) -> impl Iterator<Item = &Group> {
        iter::successors(Some(&self.first), |group| group.next.get().map(|next| &**next))
    }

    /// The number of the next address for a client whose attempts at those in `tried` failed; `None`: there is no other. The
    /// trial of one whose back-off has ended keeps other clients away for `trial`.
    pub fn choose(&self, tried: &[usize], now: Tick, trial: Duration) -> Option<usize> {
        let len = self.len();
        if len <= 1 {
            return (len == 1 && tried.is_empty()).then_some(0);
        }
        let start = match tried.last() {
            Some(last) => last + 1,
            None => self.turn.fetch_add(1, Ordering::Relaxed) as usize % len,
        };
        let numbers = (0..len).map(|step| (start + step) % len).filter(|number| !tried.contains(number));
        let round = || numbers.clone().filter_map(|number| Some((number, self.get(number)?)));
        let serves = round().find(|(_, address)| address.begins(now, trial));
        // The one that may serve again soonest; one whose probes fail only if there is no other.
        let last_resort =
            || round().min_by_key(|(_, address)| (!address.up.load(Ordering::Relaxed), address.backoff().until));
        serves.or_else(last_resort).map(|(number, _)| number)
    }

    /// A client could not connect there.
    pub fn failed(&self, number: usize, now: Tick) {
        let Some(address) = self.get(number).filter(|_| self.len() > 1) else { return };
        address.update(|backoff| {
            // Further failures at the same time add nothing.
            if backoff.until > now && !backoff.trial {
                return None;
            }
            let time = SHORTEST.saturating_mul(1 << u32::from(backoff.failures).min(16)).min(LONGEST);
            Some(Backoff { until: now + time, trial: false, failures: backoff.failures.saturating_add(1) })
        });
    }

    /// Those that `old` has too are left out for as long as there.
    pub(super) fn keep_back_offs(&self, old: &Addresses) {
        for address in self.iter() {
            if let Some(old) = old.iter().find(|old| old.endpoint == address.endpoint) {
                address.backoff.store(old.backoff.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
    }

    /// A client has a connection there that was established earlier. So it shows nothing about the address now.
    pub fn used(&self, number: usize) {
        if let Some(address) = self.get(number).filter(|_| self.len() > 1) {
            address.connections.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A client is connected there.
    pub fn reached(&self, number: usize) {
        let Some(address) = self.get(number).filter(|_| self.len() > 1) else { return };
        address.connections.fetch_add(1, Ordering::Relaxed);
        if address.backoff.load(Ordering::Relaxed) != 0 {
            address.backoff.store(0, Ordering::Relaxed);
        }
    }
}

impl Group {
    fn new(endpoints: Vec<Endpoint>, up: bool) -> Group {
        let address = |endpoint| BackendAddress {
            endpoint,
            connections: AtomicU64::new(0),
            up: AtomicBool::new(up),
            backoff: AtomicU64::new(0),
        };
        Group { list: endpoints.into_iter().map(address).collect(), next: OnceLock::new() }
    }
}

impl BackendAddress {
    /// Does it serve?
    pub fn state(&self, now: Tick) -> AddressState {
        let backoff = self.backoff();
        match self.up.load(Ordering::Relaxed) {
            false => AddressState::Down,
            true if backoff.until > now || backoff.trial => AddressState::BackOff,
            true => AddressState::Up,
        }
    }

    /// Its probes pass, or nothing is known of it, and a client was connected since the last failure there. Only then may it have
    /// warm connections: a trial needs a dial, and a silent connection would hide that the server is gone.
    pub fn takes_warm(&self) -> bool {
        self.up.load(Ordering::Relaxed) && self.backoff.load(Ordering::Relaxed) == 0
    }

    /// Connections that reached it; counted only where the backend has others.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Called by the prober: the result of its probes. An address that comes up serves at once, whatever clients found before.
    pub fn set_up(&self, up: bool) {
        if !self.up.swap(up, Ordering::Relaxed) && up {
            self.backoff.store(0, Ordering::Relaxed);
        }
    }

    /// May a client try it now? If its back-off has ended, this client's attempt is the trial.
    fn begins(&self, now: Tick, trial: Duration) -> bool {
        if !self.up.load(Ordering::Relaxed) {
            return false;
        }
        self.backoff.load(Ordering::Relaxed) == 0
            || self.update(|backoff| {
                (backoff.until <= now).then_some(Backoff { until: now + trial, trial: true, ..backoff })
            })
    }

    fn backoff(&self) -> Backoff {
        Backoff::unpack(self.backoff.load(Ordering::Relaxed))
    }

    /// False if there was nothing to change.
    fn update(&self, change: impl Fn(Backoff) -> Option<Backoff>) -> bool {
        let change = |packed| Some(change(Backoff::unpack(packed))?.pack());
        self.backoff.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change).is_ok()
    }
}

impl AddressState {
    /// Its word in API and command line.
    pub fn word(self) -> &'static str {
        match self {
            AddressState::Up => "up",
            AddressState::BackOff => "backoff",
            AddressState::Down => "down",
        }
    }
}

impl Backoff {
    fn pack(self) -> u64 {
        (self.until.0 << 9) | (u64::from(self.trial) << 8) | u64::from(self.failures)
    }

    fn unpack(packed: u64) -> Backoff {
        Backoff { until: Tick(packed >> 9), trial: packed & 0x100 != 0, failures: packed as u8 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TRIAL: Duration = Duration::from_secs(6);

    fn addresses(count: u8) -> Addresses {
        Addresses::new((0..count).map(|host| Endpoint::Inet(([10, 0, 0, host], 80).into())).collect())
    }

    fn at(millis: u64) -> Tick {
        Tick::after_start(Duration::from_millis(millis))
    }

    fn states(addresses: &Addresses, now: Tick) -> Vec<&'static str> {
        addresses.iter().map(|address| address.state(now).word()).collect()
    }

    #[test]
    fn addresses_are_used_in_turn_and_a_client_tries_each_once() {
        let three = addresses(3);
        let firsts: Vec<_> = (0..6).map(|_| three.choose(&[], at(0), TRIAL).unwrap()).collect();
        assert_eq!(firsts, [0, 1, 2, 0, 1, 2]);
        assert_eq!(three.choose(&[1], at(0), TRIAL), Some(2));
        assert_eq!(three.choose(&[1, 2], at(0), TRIAL), Some(0));
        assert_eq!(three.choose(&[1, 2, 0], at(0), TRIAL), None);
        let one = addresses(1);
        one.failed(0, at(0));
        assert_eq!((one.choose(&[], at(0), TRIAL), one.choose(&[0], at(0), TRIAL)), (Some(0), None));
        assert_eq!(addresses(0).choose(&[], at(0), TRIAL), None);
    }

    #[test]
    fn one_that_fails_is_left_out_then_tried_by_one_client_and_then_by_all() {
        let two = addresses(2);
        let firsts = |now| -> Vec<usize> { (0..4).map(|_| two.choose(&[], now, TRIAL).unwrap()).collect() };
        two.failed(0, at(1_000));
        // Others had begun before.
        two.failed(0, at(1_001));
        assert_eq!(firsts(at(1_999)), [1; 4]);
        assert_eq!(states(&two, at(1_999)), ["backoff", "up"]);
        assert_eq!(two.choose(&[1], at(1_999), TRIAL), Some(0), "if there is no other");
        let trial = firsts(at(2_000));
        assert_eq!(trial.iter().filter(|&&number| number == 0).count(), 1, "{trial:?}");
        assert_eq!(states(&two, at(2_000)), ["backoff", "up"]);
        two.failed(0, at(7_000));
        assert_eq!((firsts(at(8_999)), firsts(at(9_000)).contains(&0)), (vec![1; 4], true), "twice as long");
        two.reached(0);
        assert_eq!((states(&two, at(9_001)), two.get(0).unwrap().connections()), (vec!["up", "up"], 1));
        assert_eq!(firsts(at(9_001)).iter().filter(|&&number| number == 0).count(), 2);
        two.failed(0, at(10_000));
        assert_eq!(states(&two, at(11_000)), ["up", "up"], "from a second again");
    }

    #[test]
    fn a_connection_that_was_there_already_ends_no_back_off() {
        let two = addresses(2);
        two.failed(0, at(1_000));
        two.used(0);
        assert_eq!((states(&two, at(1_500)), two.get(0).unwrap().connections()), (vec!["backoff", "up"], 1));
        let takes = || two.iter().map(BackendAddress::takes_warm).collect::<Vec<_>>();
        assert_eq!(
            (states(&two, at(2_000)), takes()),
            (vec!["up", "up"], vec![false, true]),
            "the next client tries it"
        );
        two.reached(0);
        two.get(1).unwrap().set_up(false);
        assert_eq!(takes(), [true, false]);
    }

    #[test]
    fn the_longest_back_off_is_a_minute_and_a_trial_that_is_never_heard_of_ends() {
        let two = addresses(2);
        let (mut now, mut lengths) = (at(1_000), Vec::new());
        for _ in 0..300 {
            two.failed(0, now);
            let until = two.get(0).unwrap().backoff().until;
            lengths.push((until - now).as_secs());
            now = until;
        }
        assert_eq!((&lengths[..8], lengths[299]), (&[1, 2, 4, 8, 16, 32, 60, 60][..], 60));
        let tries = |now| (0..2).any(|_| two.choose(&[], now, TRIAL) == Some(0));
        assert!(tries(now) && !tries(now));
        assert!(tries(now + TRIAL));
    }

    #[test]
    fn one_whose_probes_fail_is_the_last_resort_and_serves_at_once_when_they_pass() {
        let three = addresses(3);
        three.get(0).unwrap().set_up(false);
        three.failed(1, at(1_000));
        assert_eq!(states(&three, at(1_000)), ["down", "backoff", "up"]);
        assert_eq!(three.choose(&[2], at(1_000), TRIAL), Some(1));
        assert_eq!(three.choose(&[2, 1], at(1_000), TRIAL), Some(0));
        three.failed(0, at(1_000));
        three.get(0).unwrap().set_up(true);
        assert_eq!(states(&three, at(1_000)), ["up", "backoff", "up"]);
        three.get(1).unwrap().set_up(true);
        assert_eq!(states(&three, at(1_000)), ["up", "backoff", "up"], "a probe that passes as before is no news");
    }

    #[test]
    fn addresses_join_behind_the_others_and_serve_in_turn() {
        let all = addresses(1);
        let more = |host| vec![Endpoint::Inet(([10, 0, 0, host], 80).into())];
        all.reached(0);
        all.join(more(7), true, 5);
        all.failed(0, at(1_000));
        all.join(more(8), false, 9);
        let shown: Vec<String> = all.iter().map(|address| address.endpoint.to_string()).collect();
        assert_eq!(shown, ["10.0.0.0:80", "10.0.0.7:80", "10.0.0.8:80"]);
        assert_eq!(states(&all, at(1_500)), ["backoff", "up", "down"]);
        assert_eq!((all.len(), all.get(0).unwrap().connections(), all.get(3).is_none()), (3, 5, true));
        all.get(2).unwrap().set_up(true);
        let firsts: Vec<_> = (0..6).map(|_| all.choose(&[], at(1_500), TRIAL).unwrap()).collect();
        assert!(!firsts.contains(&0) && firsts.contains(&1) && firsts.contains(&2), "{firsts:?}");
        assert_eq!(all.choose(&[1, 2], at(1_500), TRIAL), Some(0));
    }

    proptest! {
        /// Whatever happens, a client gets every address exactly once.
        #[test]
        fn every_address_is_tried_once(
            count in 0u8..6, events in prop::collection::vec((0usize..6, 0u8..4, 0u64..5_000), 0..40),
        ) {
            let (all, mut now, mut count) = (addresses(count), 1_000, usize::from(count));
            for (number, what, pause) in events {
                now += pause;
                match what {
                    0 => all.failed(number, at(now)),
                    1 => all.reached(number),
                    2 if number == 0 => {
                        all.join(vec![Endpoint::Inet(([10, 0, 1, count as u8], 80).into())], pause % 2 == 0, 0);
                        count += 1;
                    }
                    what => all.iter().skip(number).take(1).for_each(|address| address.set_up(what == 2)),
                }
                let mut tried = Vec::new();
                while let Some(next) = all.choose(&tried, at(now), TRIAL) {
                    prop_assert!(!tried.contains(&next));
                    tried.push(next);
                }
                prop_assert_eq!(tried.len(), count);
            }
        }
    }
}
