//! Admission at one listener: its settings, and what is counted there.

use super::{AdmissionGuard, ConnectionLimit, LimitChange, NoRoom};
use crate::base::Tick;
use crate::config::model;
use crate::policy::limit::{Access, Admitted, Enforcement, Limits, Reason, Rules, SourceId, Sources};
use crate::telemetry::{ListenerTotals, Refusal};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Admission at one listener.
#[derive(Debug)]
pub struct ListenerAdmission {
    /// The listener's totals.
    pub totals: Arc<ListenerTotals>,
    /// Counts without a limit too: once one is set, connected clients are included.
    pub(super) room: Arc<ConnectionLimit>,
    limits: Limits,
    would_refuse: Arc<[AtomicU64; Refusal::ALL.len()]>,
}

impl ListenerAdmission {
    /// With these settings, and no client yet.
    pub fn new(settings: &model::Listener) -> Arc<ListenerAdmission> {
        ListenerAdmission::next(None, settings, &ListenerTotals::new(settings.name.clone()))
    }

    /// The successor of a listener's admission `before`. It keeps the counts of connections and of their sources. Unchanged
    /// lists are not built again: a million prefixes take a fifth of a second.
    pub fn next(
        before: Option<(&Arc<ListenerAdmission>, &model::Listener)>,
        settings: &model::Listener,
        totals: &Arc<ListenerTotals>,
    ) -> Arc<ListenerAdmission> {
        let old = before.map(|(admission, _)| admission);
        let rules = Rules {
            connections: settings.max_connections_per_source,
            per_second: settings.connection_rate_per_source.map(|rate| rate.per_second),
        };
        let known = old.and_then(|old| old.limits.sources.as_ref());
        let sources = || known.map_or_else(|| Sources::new(rules), |known| known.successor(rules));
        let same = before.filter(|(_, old)| old.has_lists_of(settings));
        let access = same.map(|(admission, _)| admission.limits.access.clone()).unwrap_or_else(|| {
            let (allow, deny) = settings.lists();
            Arc::new(Access::new(allow, deny))
        });
        let sources = (rules != Rules::default()).then(sources);
        let limits = Limits { access, sources, enforcement: settings.limits };
        let most = settings.max_connections.map_or(usize::MAX, |most| most as usize);
        let room = old.map_or_else(|| ConnectionLimit::new(most), |old| old.room.successor(most));
        let would_refuse = old.map(|old| old.would_refuse.clone()).unwrap_or_default();
        Arc::new(ListenerAdmission { totals: totals.clone(), room, limits, would_refuse })
    }

    /// Reserves room for one more client in the process and at this listener. Fails with the one that has none. Call
    /// [`AdmissionGuard::accepted`] on the guard after the accept; a guard dropped before that leaves no trace.
    pub fn reserve(self: &Arc<Self>, process: &ConnectionLimit) -> Result<AdmissionGuard, NoRoom> {
        if !process.enter() {
            return Err(NoRoom::Process);
        }
        if !self.room.enter() {
            process.count().leave();
            return Err(NoRoom::Listener);
        }
        let (listener, process) = (self.clone(), process.count().clone());
        Ok(AdmissionGuard { listener, process, accepted: false, source: None })
    }

    /// Counts a client whose connection comes from another process, which has accepted it: no limit is asked. `admitted` is the
    /// address of a client that was admitted there. [`AdmissionGuard::admit`] decides on any other one later.
    pub fn take_over(
        self: &Arc<Self>,
        process: &ConnectionLimit,
        admitted: Option<IpAddr>,
        now: Tick,
    ) -> AdmissionGuard {
        process.enter_anyway();
        self.room.enter_anyway();
        let source = admitted.and_then(|ip| self.limits.sources.as_ref()?.enter_anyway(ip, now));
        let mut guard =
            AdmissionGuard { listener: self.clone(), process: process.count().clone(), accepted: false, source };
        guard.accepted();
        guard
    }

    /// Its access lists.
    pub fn access(&self) -> &Arc<Access> {
        &self.limits.access
    }

    /// What an admission of this client would give now, without it. `process` is the limit of the process.
    pub fn preview(&self, client: Option<IpAddr>, process: &ConnectionLimit, now: Tick) -> AdmissionPreview {
        let no_room = match (process.has_room(), self.room.has_room()) {
            (false, _) => Some(NoRoom::Process),
            (true, false) => Some(NoRoom::Listener),
            (true, true) => None,
        };
        let refusal = self.limits.preview(client, now);
        AdmissionPreview { no_room, refusal, enforced: self.limits.enforcement == Enforcement::Enforced }
    }

    /// Control's regular look: whether the limit was reached or left.
    pub fn look(&self) -> Option<LimitChange> {
        self.room.look()
    }

    /// Does a worker wait although there is room again? True once per wait.
    pub fn should_wake(&self) -> bool {
        self.room.should_wake()
    }

    pub(super) fn admit(&self, client: Option<IpAddr>, now: Tick) -> Result<Option<SourceId>, Reason> {
        let Admitted { source, would_refuse } = self.limits.admit(client, now)?;
        if let Some(reason) = would_refuse {
            self.would_refuse[Refusal::from(reason) as usize].fetch_add(1, Ordering::Relaxed);
        }
        Ok(source)
    }

    pub(super) fn leave(&self, source: SourceId) {
        if let Some(sources) = &self.limits.sources {
            sources.leave(source);
        }
    }

    /// Clients that would have been refused for this reason if limits were enforced.
    pub fn would_refuse(&self, why: Refusal) -> u64 {
        self.would_refuse[why as usize].load(Ordering::Relaxed)
    }

    /// Clients admitted without a limit per source, because the table of sources was full.
    pub fn untracked(&self) -> u64 {
        self.limits.sources.as_ref().map_or(0, |sources| sources.untracked())
    }
}

/// What an admission would give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionPreview {
    /// The limit that has no room for one more client: it would wait in the kernel's backlog.
    pub no_room: Option<NoRoom>,
    /// The reason to refuse it.
    pub refusal: Option<Reason>,
    /// Whether refusals are enforced; in a dry run the client is admitted.
    pub enforced: bool,
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

    fn reserve(admission: &Arc<ListenerAdmission>) -> Result<AdmissionGuard, NoRoom> {
        admission.reserve(&ConnectionLimit::new(usize::MAX))
    }

    fn accept(admission: &Arc<ListenerAdmission>) -> AdmissionGuard {
        let mut guard = reserve(admission).unwrap();
        guard.accepted();
        guard
    }

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
        let old = ListenerAdmission::new(&before);
        let next = |settings: &model::Listener| ListenerAdmission::next(Some((&old, &before)), settings, &old.totals);
        assert!(Arc::ptr_eq(&old.limits.access, &next(&other_limit).limits.access));
        let read_again = model::Listener { allow_file: Some(file("192.0.2.0/24")), ..before.clone() };
        assert!(Arc::ptr_eq(&old.limits.access, &next(&read_again).limits.access));
        let other_file = model::Listener { allow_file: Some(file("192.0.2.0/25")), ..before.clone() };
        for other in [settings("192.0.2.2/32", None), other_file] {
            assert_ne!(old.limits.access, next(&other).limits.access);
        }
    }

    #[test]
    fn the_process_is_asked_first_and_a_listener_without_room_takes_none_of_the_process() {
        let process = ConnectionLimit::new(2);
        let settings = model::Listener { max_connections: Some(1), ..model::Listener::default() };
        let [one, other] = [(); 2].map(|()| ListenerAdmission::new(&settings));
        let first = one.reserve(&process).unwrap();
        assert_eq!((one.reserve(&process).unwrap_err(), process.active()), (NoRoom::Listener, 1));
        let second = other.reserve(&process).unwrap();
        assert_eq!(one.reserve(&process).unwrap_err(), NoRoom::Process);
        drop((first, second));
        assert!(process.should_wake() && one.should_wake() && !other.should_wake());
        assert_eq!((process.active(), one.totals.active()), (0, 0));
    }

    #[test]
    fn a_listener_has_its_own_room_and_a_waiting_worker_is_woken_once() {
        let admission =
            ListenerAdmission::new(&model::Listener { max_connections: Some(1), ..model::Listener::default() });
        let guard = accept(&admission);
        assert!(reserve(&admission).is_err() && !admission.should_wake());
        assert_eq!(admission.totals.active(), 1);
        drop(guard);
        assert!(admission.should_wake() && !admission.should_wake());
        let _reserved = reserve(&admission).unwrap();
        assert_eq!(admission.totals.active(), 0, "a reservation is no client");
    }

    #[test]
    fn a_look_at_the_listeners_is_due_once_a_client_has_left_where_a_worker_waits() {
        let process = ConnectionLimit::new(usize::MAX);
        let settings = model::Listener { max_connections: Some(1), ..model::Listener::default() };
        let admission = ListenerAdmission::new(&settings);
        let first = admission.reserve(&process).unwrap();
        drop(first);
        assert!(!process.should_look_at_listeners(), "no worker waits");
        let second = admission.reserve(&process).unwrap();
        assert!(admission.reserve(&process).is_err() && !process.should_look_at_listeners());
        drop(second);
        assert!(process.should_look_at_listeners() && admission.should_wake());
        assert!(!process.should_look_at_listeners());
    }

    #[test]
    fn a_client_of_another_process_has_its_place_beyond_all_limits_and_gives_it_back() {
        let client: Option<IpAddr> = "192.0.2.1".parse().ok();
        let admission = ListenerAdmission::new(&model::Listener {
            max_connections: Some(1),
            max_connections_per_source: Some(1),
            ..model::Listener::default()
        });
        let process = ConnectionLimit::new(1);
        let mut guards: Vec<AdmissionGuard> =
            [client, client, None].map(|admitted| admission.take_over(&process, admitted, Tick(1))).into();
        assert_eq!((process.active(), admission.totals.active()), (3, 3));
        assert_eq!(admission.preview(client, &process, Tick(1)).refusal, Some(Reason::SourceLimit));
        assert!(guards[2].admit("192.0.2.2".parse().ok(), Tick(1)).is_ok(), "it was not admitted before");
        guards.clear();
        assert_eq!((process.active(), admission.totals.active()), (0, 0));
        assert_eq!(admission.preview(client, &process, Tick(1)).refusal, None);
    }

    #[test]
    fn other_limits_go_on_with_what_was_counted() {
        let client: Option<IpAddr> = "192.0.2.1".parse().ok();
        let settings = model::Listener { max_connections_per_source: Some(2), ..model::Listener::default() };
        let old = ListenerAdmission::new(&settings);
        let mut first = accept(&old);
        first.admit(client, Tick(1)).unwrap();
        let settings =
            model::Listener { max_connections_per_source: Some(1), max_connections: Some(1), ..settings.clone() };
        let new = ListenerAdmission::next(Some((&old, &settings)), &settings, &old.totals);
        assert!(reserve(&new).is_err(), "the client of the old listener has the place");
        assert_eq!(new.admit(client, Tick(1)).unwrap_err(), Reason::SourceLimit);
        assert_eq!(new.totals.active(), 1);
        drop(first);
        assert!(new.should_wake());
        assert!(accept(&new).admit(client, Tick(1)).is_ok());
        assert!(accept(&new).admit(client, Tick(1)).is_ok(), "the guard has given the source's place back");
    }

    #[test]
    fn a_dry_run_counts_what_it_would_have_refused() {
        let deny = vec!["192.0.2.0/24".parse().unwrap()];
        let admission = ListenerAdmission::new(&model::Listener {
            deny,
            limits: Enforcement::DryRun,
            ..model::Listener::default()
        });
        assert!(accept(&admission).admit("192.0.2.1".parse().ok(), Tick(1)).is_ok());
        assert_eq!((admission.would_refuse(Refusal::Denied), admission.totals.refused_total()), (1, 0));
    }
}
