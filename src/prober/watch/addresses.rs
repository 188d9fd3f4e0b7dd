//! What a watch keeps when its backend's name has other addresses.

use super::{HealthPolicy, Watch};
use crate::base::Tick;
use crate::config::model::InitialHealth;
use crate::policy::health::{AgentState, HealthState};
use crate::pool::BackendAddress;

impl Watch {
    /// Addresses have joined: nothing is known of them, and the agents of the others speak for theirs. With `initial = "up"`
    /// they bring up a backend whose other addresses are down.
    pub(super) fn join_addresses(&mut self, now: Tick) {
        let (count, agent) = (self.round(), AgentState::of_all(&self.agents));
        if count == self.agents.len() {
            return;
        }
        let was_up = self.policy.is_up();
        if let HealthPolicy::Probed(states) = &mut self.policy {
            states.resize_with(count, || HealthState::unknown(self.pool.settings.health.initial == InitialHealth::Up));
        }
        self.reached.resize(count, 0);
        self.agents.resize(count, agent);
        self.show_addresses();
        if self.policy.is_up() != was_up {
            self.changed("its name has further addresses".to_owned(), now);
        }
    }

    /// Takes the place of `old`, the same backend before its name had other addresses.
    ///
    /// | what | goes over | since |
    /// |---|---|---|
    /// | health | of each address that stays | probes found it there |
    /// | failures of clients, and an ejection | if an address stays | clients failed there; other addresses are other servers |
    /// | the report of an agent | of each address that stays; a new address gets that of all | the agent speaks for the named server: a move must not end a drain before the agent at the new address is asked |
    pub fn take_over(&mut self, old: &Watch, now: Tick) {
        let place =
            |address: &BackendAddress| old.backend.addresses.iter().position(|old| old.endpoint == address.endpoint);
        let places: Vec<Option<usize>> = self.backend.addresses.iter().map(place).collect();
        if let (HealthPolicy::Probed(states), HealthPolicy::Probed(olds)) = (&mut self.policy, &old.policy) {
            for (state, place) in states.iter_mut().zip(&places) {
                place.and_then(|place| olds.get(place)).into_iter().for_each(|old| state.clone_from(old));
            }
        }
        self.inherit_agents(old, &places);
        if places.iter().any(Option::is_some) {
            self.admitted |= old.admitted;
            self.outlier.clone_from(&old.outlier);
        }
        (self.began_up, self.recorded_up) = (self.policy.is_up(), old.recorded_up);
        self.show_addresses();
        let why = "its name has other addresses".to_owned();
        if self.backend.continues(&old.backend) && self.policy.is_up() != old.policy.is_up() {
            self.changed(why, now);
        } else {
            self.record(why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Membership;
    use super::*;
    use crate::base::{Address, Endpoint};
    use crate::config::model::{self, Global, Health, HealthKind, Model, OnDown};
    use crate::events::Events;
    use crate::policy::health::{ConnectFailure, Outcome};
    use crate::pool::{Resolved, Snapshot, SnapshotPlan, build, next};
    use std::sync::Arc;

    const REFUSED: Outcome = Outcome::NoConnection(ConnectFailure::Os(111));

    fn model() -> Model {
        let backend =
            model::Backend { name: "named".into(), ..model::Backend::at(Address::Name("named.test".into(), 80)) };
        let health = Health { kind: HealthKind::Tcp, fall: 1, initial: InitialHealth::Up, ..Health::default() };
        let pool = model::Pool { name: "pool".into(), health, backends: vec![backend], ..model::Pool::default() };
        Model { global: Global::default(), listeners: Vec::new(), pools: vec![pool] }
    }

    fn resolved(last: &[u8]) -> Resolved {
        let endpoints = last.iter().map(|last| Endpoint::Inet(([10, 0, 0, *last], 80).into())).collect();
        Resolved::from_iter([(("pool".to_owned(), "named".to_owned()), endpoints)])
    }

    fn membership(snapshot: &Snapshot) -> Membership<'_> {
        let pool = &snapshot.pools[0];
        Membership { pool, index: 0, member: &pool.members[0], among_several: false, header: None }
    }

    /// The events of the backend.
    fn changes(events: &Events) -> Vec<String> {
        events.since(0, 100).0.iter().map(|it| format!("{it:?}")).collect()
    }

    #[test]
    fn a_backend_that_loses_an_address_is_in_use_all_the_time() {
        let (mut model, events) = (model(), Arc::new(Events::default()));
        model.pools[0].health.initial = InitialHealth::Down;
        let one = build(&model, &resolved(&[1, 2]));
        let mut before = Watch::new(membership(&one), events.clone(), Arc::default(), Tick(1));
        before.probe_ended(1, Outcome::Connected, Tick(2));
        let plan = SnapshotPlan { model: &model, resolved: &resolved(&[2]), addresses: &[], states: &[], now: Tick(3) };
        let two = next(Some(&one), &plan);
        let is_in_use = || two.pools[0].up.get(0) && two.pools[0].last_resort_mask.get(0);
        assert!(is_in_use());
        let mut now = Watch::new(membership(&two), events, Arc::default(), Tick(3));
        assert!(is_in_use(), "before it knows what is known");
        now.take_over(&before, Tick(3));
        assert!(is_in_use());
        now.show(Tick(3));
        assert!(is_in_use());
        now.probe_ended(0, REFUSED, Tick(4));
        assert!(!is_in_use());
    }

    #[test]
    fn a_backend_that_loses_its_last_address_that_is_up_goes_down_like_any() {
        let (mut model, events) = (model(), Arc::new(Events::default()));
        model.pools[0].on_down = OnDown::Reset;
        let one = build(&model, &resolved(&[1, 2]));
        let mut before = Watch::new(membership(&one), events.clone(), Arc::default(), Tick(1));
        before.probe_ended(0, Outcome::Connected, Tick(2));
        before.probe_ended(1, REFUSED, Tick(2));
        let plan = SnapshotPlan { model: &model, resolved: &resolved(&[2]), addresses: &[], states: &[], now: Tick(3) };
        let two = next(Some(&one), &plan);
        let mut now = Watch::new(membership(&two), events.clone(), Arc::default(), Tick(3));
        now.take_over(&before, Tick(3));
        assert_eq!(now.take_changed().as_deref(), Some("named is down: its name has other addresses"));
        assert_eq!(now.backend().health.lock().last_change, Some(Tick(3)));
        assert!(now.take_fallen() && !two.pools[0].up.get(0));
        assert_eq!(changes(&events).len(), 1);
    }

    #[test]
    fn an_address_that_joins_a_backend_that_is_down_brings_it_up_like_any_rise() {
        let (model, events) = (model(), Arc::new(Events::default()));
        let one = build(&model, &resolved(&[1]));
        let mut watch = Watch::new(membership(&one), events.clone(), Arc::default(), Tick(1));
        watch.probe_ended(0, REFUSED, Tick(2));
        assert!(!watch.backend().is_healthy());
        assert!(watch.take_changed().is_some_and(|why| why.starts_with("named is down: ")));

        let plan =
            SnapshotPlan { model: &model, resolved: &resolved(&[1, 2]), addresses: &[], states: &[], now: Tick(3) };
        let two = next(Some(&one), &plan);
        watch.adopt(membership(&two), Tick(3));
        assert!(watch.backend().is_healthy());
        assert_eq!(watch.take_changed().as_deref(), Some("named is up: its name has further addresses"));
        assert_eq!(watch.backend().came_up(), Some(Tick(3)), "slow start begins");
        assert_eq!(watch.backend().health.lock().last_change, Some(Tick(3)));

        watch.probe_ended(1, REFUSED, Tick(4));
        assert!(!watch.backend().is_healthy());
        assert!(watch.take_changed().is_some_and(|why| why.starts_with("named is down: ")));
        let changes = changes(&events);
        assert_eq!(changes.len(), 3, "down, up, down: {changes:?}");
    }
}
