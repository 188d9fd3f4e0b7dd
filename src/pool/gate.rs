//! A listener's gate: who may come in there, how many at once, and what is counted of it.
//!
//! # In which order
//!
//! | when | asked | the answer "no" |
//! |---|---|---|
//! | before accept | [`Gate::room`]: `max_connections` of the listener | the client waits in the kernel's backlog |
//! | after accept | – ([`Guest::new`] counts it) | |
//! | once its address is known | [`Gate::admit`]: lists and source limits ([`crate::policy::limit`]) | reset, counted |
//!
//! "Known" is at once, or, where the listener takes PROXY headers, when the header has been read. All workers share a gate;
//! nothing in it is asked per byte.

use super::{Admission, ListenerTotals, Permit, Refusal, Visit};
use crate::base::Tick;
use crate::config::model;
use crate::policy::limit::{Access, Limits, Reason, Rules, SourceGuard, Sources};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The gate of one listener.
#[derive(Debug)]
pub struct Gate {
    /// What has happened here.
    pub totals: Arc<ListenerTotals>,
    /// Also where there is no limit: should one be set, those who are in already count.
    room: Arc<Admission>,
    limits: Limits,
    would_refuse: Arc<[AtomicU64; Refusal::ALL.len()]>,
}

/// A place at a listener, held for a client that is about to be accepted.
#[derive(Debug)]
pub struct Place {
    _permit: Permit,
}

/// An accepted client as its listener counts it, until this is dropped.
#[derive(Debug)]
pub struct Guest {
    gate: Arc<Gate>,
    _visit: Visit,
    _place: Place,
}

impl Gate {
    /// A gate with these settings, which nobody has passed yet.
    pub fn new(settings: &model::Listener) -> Arc<Gate> {
        Gate::next(None, settings, &ListenerTotals::new(settings.name.clone()))
    }

    /// The gate of a listener that had the gate and the settings of `before` so far. It goes on with what was counted there:
    /// connections, the places they hold, and the sources they come from. Lists that are the same are not built again: a
    /// million prefixes take a fifth of a second.
    pub fn next(
        before: Option<(&Arc<Gate>, &model::Listener)>,
        settings: &model::Listener,
        totals: &Arc<ListenerTotals>,
    ) -> Arc<Gate> {
        let old = before.map(|(gate, _)| gate);
        let rules = Rules {
            connections: settings.max_connections_per_source,
            per_second: settings.connection_rate_per_source.map(|rate| rate.per_second),
        };
        let known = old.and_then(|old| old.limits.sources.as_ref());
        let sources = || known.map_or_else(|| Sources::new(rules), |known| known.successor(rules));
        let same = before.filter(|(_, old)| old.has_lists_of(settings));
        let access = same.map(|(gate, _)| gate.limits.access.clone()).unwrap_or_else(|| {
            let (allow, deny) = settings.lists();
            Arc::new(Access::new(allow, deny))
        });
        let limits =
            Limits { access, sources: (rules != Rules::default()).then(sources), dry_run: settings.limits_dry_run };
        let most = settings.max_connections.map_or(usize::MAX, |most| most as usize);
        let room = old.map_or_else(|| Admission::new(most), |old| old.room.successor(most));
        let would_refuse = old.map(|old| old.would_refuse.clone()).unwrap_or_default();
        Arc::new(Gate { totals: totals.clone(), room, limits, would_refuse })
    }

    /// A place for one more client, or `None` after noting that somebody waits for one.
    pub fn room(&self) -> Option<Place> {
        self.room.enter().map(|permit| Place { _permit: permit })
    }

    /// Does somebody wait although there is room again? True once per wait.
    pub fn should_wake(&self) -> bool {
        self.room.should_wake()
    }

    /// May this client be served? `now` is of [`super::clock`]. What is given has to be kept for as long as it is served.
    /// The caller tells [`ListenerTotals`] of a refusal, as of any other.
    pub fn admit(&self, client: Option<IpAddr>, now: Tick) -> Result<Option<SourceGuard>, Reason> {
        let admitted = self.limits.admit(client, now)?;
        if let Some(reason) = admitted.would_refuse {
            self.would_refuse[Refusal::from(reason) as usize].fetch_add(1, Ordering::Relaxed);
        }
        Ok(admitted.held)
    }

    /// Clients that would have been refused for this reason if limits were enforced.
    pub fn would_refuse(&self, why: Refusal) -> u64 {
        self.would_refuse[why as usize].load(Ordering::Relaxed)
    }

    /// Clients that no limit per source was asked for, because the table of sources was full.
    pub fn untracked(&self) -> u64 {
        self.limits.sources.as_ref().map_or(0, |sources| sources.untracked())
    }
}

impl Guest {
    /// Counts an accepted client.
    pub fn new(gate: &Arc<Gate>, place: Place) -> Guest {
        Guest { gate: gate.clone(), _visit: gate.totals.enter(), _place: place }
    }

    /// Where it came in.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Refusal {
        match reason {
            Reason::Denied => Refusal::Denied,
            Reason::SourceLimit => Refusal::SourceLimit,
            Reason::SourceRate => Refusal::SourceRate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_that_stay_the_same_are_shared() {
        let prefixes = |text: &str| vec![text.parse().unwrap()];
        let file = |text| model::PrefixFile { path: "list".into(), prefixes: prefixes(text).into() };
        let settings = |deny, max_connections| model::Listener {
            deny: prefixes(deny),
            allow_file: Some(file("192.0.2.0/24")),
            max_connections,
            ..model::Listener::default()
        };
        let (before, other_limit) = (settings("192.0.2.1/32", None), settings("192.0.2.1/32", Some(7)));
        let old = Gate::new(&before);
        let next = |settings: &model::Listener| Gate::next(Some((&old, &before)), settings, &old.totals);
        assert!(Arc::ptr_eq(&old.limits.access, &next(&other_limit).limits.access));
        let read_again = model::Listener { allow_file: Some(file("192.0.2.0/24")), ..before.clone() };
        assert!(Arc::ptr_eq(&old.limits.access, &next(&read_again).limits.access));
        let other_file = model::Listener { allow_file: Some(file("192.0.2.0/25")), ..before.clone() };
        for other in [settings("192.0.2.2/32", None), other_file] {
            assert_ne!(old.limits.access, next(&other).limits.access);
        }
    }

    #[test]
    fn a_listener_has_its_own_room_and_the_one_who_waits_is_told() {
        let gate = Gate::new(&model::Listener { max_connections: Some(1), ..model::Listener::default() });
        let guest = Guest::new(&gate, gate.room().unwrap());
        assert!(gate.room().is_none() && !gate.should_wake());
        assert_eq!((gate.totals.active(), gate.totals.accepted()), (1, 1));
        drop(guest);
        assert!(gate.should_wake() && !gate.should_wake());
        assert!(gate.room().is_some());
        assert_eq!((gate.totals.active(), gate.totals.accepted()), (0, 1));
    }

    #[test]
    fn other_limits_go_on_with_what_was_counted() {
        let client: Option<IpAddr> = "192.0.2.1".parse().ok();
        let settings = model::Listener { max_connections_per_source: Some(2), ..model::Listener::default() };
        let old = Gate::new(&settings);
        let guest = Guest::new(&old, old.room().unwrap());
        let held = old.admit(client, Tick(1)).unwrap();
        let settings =
            model::Listener { max_connections_per_source: Some(1), max_connections: Some(1), ..settings.clone() };
        let new = Gate::next(Some((&old, &settings)), &settings, &old.totals);
        assert!(new.room().is_none(), "the guest of the old gate has the place");
        assert_eq!(new.admit(client, Tick(1)).unwrap_err(), Reason::SourceLimit);
        assert_eq!(new.totals.active(), 1);
        drop((guest, held));
        assert!(new.should_wake() && new.room().is_some());
        assert!(new.admit(client, Tick(1)).is_ok());
    }

    #[test]
    fn a_dry_run_counts_what_it_would_have_refused() {
        let deny = vec!["192.0.2.0/24".parse().unwrap()];
        let gate = Gate::new(&model::Listener { deny, limits_dry_run: true, ..model::Listener::default() });
        assert!(gate.admit("192.0.2.1".parse().ok(), Tick(1)).is_ok());
        assert_eq!((gate.would_refuse(Refusal::Denied), gate.totals.refused_total()), (1, 0));
    }
}
