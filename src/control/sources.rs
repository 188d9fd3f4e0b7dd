//! Sources of backends: control takes their newest sets and makes each a change like any other.
//!
//! The first set is applied at once. Further ones wait for a pause, so that changes that follow each other closely become one;
//! reloads and calls of the API go between. Once a drain has begun, sets are ignored.

use super::change::Reply;
use super::lookup::Found;
use super::resolve::{self, Endpoints};
use super::{ControlLoop, DataPlane};
use crate::base::text::counted;
use crate::config::check::OwnListeners;
use crate::config::diff::{Changes, Subject, Tally};
use crate::config::model::Origin;
use crate::discovery::{Report, SourceId};
use crate::events::{By, Event, Kind};
use crate::pool::Published;
use crossbeam_channel::{Receiver, at, never};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The pause before sets that could not be applied are tried again.
const RETRY: Duration = Duration::from_secs(1);

impl<C: DataPlane> ControlLoop<C> {
    /// Starts and ends sources, so that those of the running configuration run.
    pub(super) fn run_sources(&mut self) {
        let config_state = &self.parts.config_state;
        self.sources.run(config_state.discovered().wanted(config_state.running()));
        self.parts.published.set_sources(self.sources.standings());
        self.note_refused();
    }

    /// Notes the backends of sources that their pools can't have.
    pub(super) fn note_refused(&mut self) {
        let refused = self.parts.config_state.refused();
        self.sources.refuse(|id| refused.get(id).map(|it| (it.count, &it.reasons[..])));
    }

    /// Fires when sets may be applied.
    pub(super) fn sets_are_due(&self) -> Receiver<Instant> {
        let waits = self.new_sets && self.change.is_none() && self.held.is_none() && !self.draining;
        if waits { at(self.sets_pace.due()) } else { never() }
    }

    /// Applies the newest sets, if it is time.
    pub(super) fn apply_sets(&mut self) {
        if !self.new_sets || self.draining || Instant::now() < self.sets_pace.due() {
            return;
        }
        let begun = Instant::now();
        self.new_sets = false;
        let mut sets = std::mem::take(&mut self.untaken);
        sets.extend(self.sources.take());
        if sets.is_empty() {
            return;
        }
        let (next, changes) = self.parts.config_state.found(sets.clone());
        let before = self.parts.config_state.snapshot();
        let own = OwnListeners::new([]);
        let Endpoints { resolved, unresolved, .. } = resolve::model(&next.model, &Found::new(), &own, Some(before));
        match self.parts.config_state.prepare(next, &resolved, &Found::new()) {
            Ok(transition) => {
                log_changes(&changes);
                self.record_found(&changes);
                let by = sets.into_keys().next().map_or(By::Tcplb, |id| By::Discovery(id.label.into()));
                self.begin(transition, false, Reply::None(by));
                self.sets_pace.changed(begun);
                unresolved.iter().for_each(|it| self.parts.lookups.retry(&it.name, Instant::now()));
            }
            Err(why) => {
                log::error!("can't apply what sources have found: {why}");
                (self.untaken, self.new_sets) = (sets, true);
                self.sets_pace.rest(RETRY);
            }
        }
    }
}

/// Records the outages of sources as events.
pub(super) fn record_outages(published: &Arc<Published>) -> Report {
    let published = published.clone();
    Arc::new(move |id: &SourceId, error: Option<&str>| {
        let event = |kind| Event::new(kind, By::Discovery(id.label.as_str().into())).of_pool(&id.pool);
        published.events().record(match error {
            Some(why) => event(Kind::SourceFailed).because(why),
            None => event(Kind::SourceBack),
        });
    })
}

/// One line for each source.
fn log_changes(changes: &Changes) {
    let mut counted_by: BTreeMap<(&str, &str), Tally> = BTreeMap::new();
    for change in &changes.0 {
        if let (Subject::Backend { pool, .. }, Origin::Source(label)) = (&change.subject, &change.origin) {
            counted_by.entry((pool, label)).or_default().count(&change.what);
        }
    }
    for ((pool, label), Tally { added, removed, changed }) in counted_by {
        let added = counted(added, "backend");
        log::info!("pool {pool}: discovery by {label}: {added} added, {removed} removed, {changed} changed");
    }
}
