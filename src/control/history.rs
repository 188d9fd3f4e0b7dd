//! What control records as events: changes of the configuration, reloads that were refused, and the drain of the process.

use super::change::{InFlight, Reply};
use super::command::Edit;
use super::remote::ReloadError;
use super::{ControlLoop, DataPlane};
use crate::base::Endpoint;
use crate::config::diff::{Change, Changes, Difference, Subject, Tally, What};
use crate::config::model::{OnRemove, Origin};
use crate::events::{By, Event, Kind};
use crate::pool::{BackendState, Member, Pool, Snapshot};
use crate::telemetry::EndCounts;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The most backends of a reload that have an event each.
const LISTED_MAX: usize = 1000;

/// A backend whose state an operator changes, and its state before, as the status shows it.
pub struct StateBefore {
    pool: String,
    backend: String,
    state: BackendState,
}

impl<C: DataPlane> ControlLoop<C> {
    pub(super) fn record_event(&self, event: Event) {
        self.parts.published.events().record(event);
    }

    /// Records the changes of a reload.
    pub(super) fn record_changes(&self, changes: &Changes) {
        of_changes(changes, |_| By::File).into_iter().for_each(|event| self.record_event(event));
    }

    /// Records what sources changed.
    pub(super) fn record_found(&self, changes: &Changes) {
        let by = |origin: &Origin| match origin {
            Origin::Source(label) => By::Discovery(label.clone()),
            Origin::File => By::File,
            Origin::Api => By::Api,
        };
        of_changes(changes, by).into_iter().for_each(|event| self.record_event(event));
    }

    /// Records a change of one backend, before it is in force.
    pub(super) fn record_edit(&self, edit: &Edit) {
        let snapshot = self.parts.config_state.snapshot();
        let changed = |pool: &str, name: &str, what| {
            let connections = find(snapshot, pool, name).map_or(0, |(_, member)| member.backend.active().into());
            let subject = Subject::Backend { pool: pool.to_owned(), name: name.to_owned() };
            of_change(&Change { subject, what, connections, origin: Origin::Api }, By::Api)
        };
        self.record_event(match edit {
            Edit::Add { pool, backend } => Event::new(Kind::Config, By::Api)
                .of_backend(pool, &backend.name)
                .because(format_args!("added: {}, weight {}", backend.address, backend.weight)),
            Edit::Change { pool, name, weight, state } => {
                let before = find(snapshot, pool, name).map(|(_, member)| (member.weight, member.state));
                let (old_weight, old_state) = before.unwrap_or_default();
                let difference = |key: &str, from: String, to: String| Difference { key: key.to_owned(), from, to };
                let weight = weight.map(|new| difference("weight", old_weight.to_string(), new.to_string()));
                let state = state.map(|new| difference("state", old_state.word().to_owned(), new.word().to_owned()));
                changed(pool, name, What::Changed(weight.into_iter().chain(state).collect()))
            }
            Edit::Remove { pool, name, force } => {
                let on_remove = snapshot.pool(pool).map(|pool| pool.settings.on_remove);
                let fate = if *force { Some(OnRemove::Reset) } else { on_remove };
                changed(pool, name, What::Removed(fate))
            }
        });
    }

    /// The states of the backends whose states edits change.
    pub(super) fn states_before(&self, edits: &[Edit]) -> Vec<StateBefore> {
        let named = edits.iter().filter_map(|edit| match edit {
            Edit::Change { pool, name, state: Some(_), .. } => Some((pool, name)),
            _ => None,
        });
        let named: BTreeSet<_> = named.collect();
        let before = named.into_iter().filter_map(|(pool, name)| {
            let (found, member) = find(self.parts.config_state.snapshot(), pool, name)?;
            Some(StateBefore { pool: pool.clone(), backend: name.clone(), state: BackendState::of(found, member) })
        });
        before.collect()
    }

    /// Records a backend's new address.
    pub(super) fn record_resolved(&self, pool: &str, backend: &str, endpoints: &[Endpoint]) {
        let shown: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
        let event = Event::new(Kind::Config, By::Names).of_backend(pool, backend);
        self.record_event(event.because(format_args!("resolved: {}", shown.join(", "))));
    }

    /// Records that names lead to other addresses.
    pub(super) fn record_moved(&self, changes: &Changes) {
        of_changes(changes, |_| By::Names).into_iter().for_each(|event| self.record_event(event));
    }

    /// Records a reload that was refused.
    pub(super) fn record_refused(&self, error: &ReloadError) {
        self.record_event(Event::new(Kind::ReloadFailed, By::File).because(error));
    }

    /// Records what a change that is now in force did to the states of backends and pools.
    pub(super) fn record_effects(&self, change: &InFlight) {
        let by = match &change.reply {
            Reply::Edit(..) => By::Api,
            Reply::Reload(..) => By::File,
            Reply::None(by) => by.clone(),
        };
        let changed: &[StateBefore] = if let Reply::Edit(_, before) = &change.reply { before } else { &[] };
        for StateBefore { pool, backend, state } in changed {
            let now = find(&change.snapshot, pool, backend).map(|(pool, member)| BackendState::of(pool, member));
            if let Some(now) = now.filter(|now| now != state) {
                let event = Event::new(Kind::BackendState, by.clone()).of_backend(pool, backend);
                self.record_event(event.changed(state.word(), now.word()));
            }
        }
        let events = self.parts.published.events();
        change
            .snapshot
            .pools
            .iter()
            .for_each(|pool| pool.report_serving(events, by.clone(), "the configuration changed"));
    }

    /// Records that the process begins to drain.
    pub(super) fn record_drain(&self) {
        self.record_event(Event::new(Kind::Drain, By::Signal).changed("running", "draining"));
    }

    /// Records that the drain of the process is over.
    pub(super) fn record_end(&self, counts: EndCounts) {
        let EndCounts { finished, reset } = counts;
        let event = Event::new(Kind::Drain, By::Tcplb).changed("draining", "stopped");
        self.record_event(event.because(format_args!("connections finished: {finished}, reset: {reset}")));
    }
}

/// One event per change. Of backends and routes, only the first [`LISTED_MAX`] have one each: a change must not displace all older
/// events. One event per pool or listener, and originator, counts the others.
fn of_changes(changes: &Changes, by: impl Fn(&Origin) -> By) -> Vec<Event> {
    let mut counted: BTreeMap<(Many<'_>, String), (By, Tally)> = BTreeMap::new();
    let (mut events, mut listed) = (Vec::new(), 0);
    for change in &changes.0 {
        let many = match &change.subject {
            Subject::Backend { pool, .. } => Some(Many::BackendsOf(pool)),
            Subject::Route { listener, .. } => Some(Many::RoutesOf(listener)),
            _ => None,
        };
        listed += usize::from(many.is_some());
        if let Some(many) = many.filter(|_| listed > LISTED_MAX) {
            let by = by(&change.origin);
            let (_, tally) = counted.entry((many, by.word().into_owned())).or_insert((by, Tally::default()));
            tally.count(&change.what);
        } else {
            events.push(of_change(change, by(&change.origin)));
        }
    }
    events.extend(counted.into_iter().map(|((many, _), (by, Tally { added, removed, changed }))| {
        let counts = format!("{added} added, {removed} removed, {changed} changed");
        let event = Event::new(Kind::Config, by);
        match many {
            Many::BackendsOf(pool) => event.of_pool(pool).because(format_args!("more backends: {counts}")),
            Many::RoutesOf(listener) => event.because(format_args!("listener {listener}: more routes: {counts}")),
        }
    }));
    events
}

/// What a change may list thousands of.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Many<'a> {
    BackendsOf(&'a str),
    RoutesOf(&'a str),
}

fn of_change(change: &Change, by: By) -> Event {
    let event = Event::new(Kind::Config, by);
    let event = match &change.subject {
        Subject::Global | Subject::Listener(_) | Subject::Route { .. } => event.because(change),
        Subject::Source { pool, .. } => event.of_pool(pool).because(change),
        Subject::Pool(name) => event.of_pool(name).because(change.fate()),
        Subject::Backend { pool, name } => event.of_backend(pool, name).because(change.fate()),
    };
    match &change.what {
        What::Changed(settings) | What::NeedsRestart(settings) => match &settings[..] {
            [Difference { from, to, .. }] => event.changed(from, to),
            _ => event,
        },
        What::Added | What::Removed(_) => event,
    }
}

fn find<'a>(snapshot: &'a Snapshot, pool: &str, backend: &str) -> Option<(&'a Arc<Pool>, &'a Member)> {
    let pool = snapshot.pool(pool)?;
    let mut both = pool.settings.backends.iter().zip(&pool.members);
    both.find(|(settings, _)| settings.name == backend).map(|(_, member)| (pool, member))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_of_many_backends_and_routes_has_one_event_for_each_of_the_first_and_counts_the_others() {
        let backend = |pool: &str, number: usize, what| Change {
            subject: Subject::Backend { pool: pool.to_owned(), name: format!("web{number}") },
            what,
            connections: 0,
            origin: Origin::File,
        };
        let mut changes = Changes::default();
        changes.0.extend((0..LISTED_MAX).map(|number| backend("a", number, What::Added)));
        assert_eq!(of_changes(&changes, |_| By::File).len(), LISTED_MAX);
        changes.0.extend((0..9_000).map(|number| backend("b", number, What::Added)));
        changes.0.push(backend("b", 1, What::Removed(None)));
        changes.0.push(backend("a", 1, What::Changed(Vec::new())));
        changes.0.extend((0..2_000).map(|number| Change {
            subject: Subject::Route { listener: "in".to_owned(), label: number.to_string() },
            what: What::Added,
            connections: 0,
            origin: Origin::File,
        }));
        changes.0.push(Change {
            subject: Subject::Global,
            what: What::Changed(Vec::new()),
            connections: 0,
            origin: Origin::File,
        });
        let events = of_changes(&changes, |_| By::File);
        let last: Vec<_> = events[LISTED_MAX..].iter().map(|it| (it.pool.as_deref(), it.reason.as_deref())).collect();
        assert_eq!(last[0].0, None, "all changes but those of backends and routes have an event");
        let want = [
            (Some("a"), Some("more backends: 0 added, 0 removed, 1 changed")),
            (Some("b"), Some("more backends: 9000 added, 1 removed, 0 changed")),
            (None, Some("listener in: more routes: 2000 added, 0 removed, 0 changed")),
        ];
        assert_eq!(last[1..], want);
    }
}
