//! Which backend a client would get now, and why: the choice without making it. It takes no lease and no turn.
//!
//! The admin API calls it while workers choose. Health and loads may change meanwhile, so an explanation describes one
//! moment only roughly.

use super::pick::{PickError, Stage};
use super::{AdminState, Member, Pool};
use crate::base::Tick;
use crate::policy::balance::{Client, Preview, View};
use std::collections::HashMap;

/// The most looks at a backend in previews of a slow start. A pool of up to 1 000 backends has the preview of each group of
/// choices. A larger one has those of some groups, and its shares are approximate.
const LOOKS_MAX: usize = 64_000;

/// The next choice for a client.
#[derive(Debug)]
pub struct Explanation<'a> {
    /// The backend that it would give, if no random number decides.
    pub pick: Option<&'a Member>,
    /// Why there is none for the client.
    pub none: Option<PickError>,
    /// Each backend, in the order of the configuration.
    pub candidates: Vec<Candidate<'a>>,
}

/// A backend that a choice considers.
#[derive(Debug)]
pub struct Candidate<'a> {
    /// The backend.
    pub member: &'a Member,
    /// Whether the algorithm may choose it.
    pub usable: bool,
    /// The reason, in a few words.
    pub why: String,
    /// Its chance, if a random number decides.
    pub share: Option<f64>,
}

impl Pool {
    /// What [`Pool::pick`] would choose for this client.
    pub fn explain(&self, client: Client, now: Tick) -> Explanation<'_> {
        let group = self.primary.group(client);
        let preview = match (self.groups.len(), group) {
            (0, _) | (_, Some(_)) => self.preview(client, group, now),
            // The choice draws a group.
            (groups, None) => {
                let step = (groups * self.members.len()).div_ceil(LOOKS_MAX).clamp(1, groups);
                let case = |group| (1.0, self.preview(client, Some(group), now));
                Preview::of_cases((0..groups).step_by(step).map(case))
            }
        };
        let none = preview.is_none().then(|| self.why_none(&[]));
        let (pick, chances) = match preview {
            Preview::Certain(slot) => (slot.and_then(|slot| self.member(slot)), None),
            Preview::Drawn(chances) => (None, Some(chances.into_iter().collect::<HashMap<usize, f64>>())),
        };
        let has_candidates = |stage: &Stage<'_>| self.members.iter().any(|member| stage.may_choose(member));
        let deciding = self.decide(group, &[], now, |stage| has_candidates(stage).then_some(*stage));
        let share = |slot| chances.as_ref().map(|chances| chances.get(&slot).copied().unwrap_or(0.0));
        let candidates = self.members.iter().map(|member| {
            let usable = deciding.is_some_and(|stage| stage.may_choose(member));
            Candidate { member, usable, why: self.why(member, deciding, usable), share: share(member.slot) }
        });
        Explanation { pick, none, candidates: candidates.collect() }
    }

    fn preview(&self, client: Client, group: Option<usize>, now: Tick) -> Preview {
        let preview = |stage: &Stage<'_>| Some(stage.balance.preview(client, &stage.view)).filter(|it| !it.is_none());
        self.decide(group, &[], now, preview).unwrap_or(Preview::Certain(None))
    }

    /// Why the deciding stage may choose a member, or why not.
    fn why(&self, member: &Member, deciding: Option<Stage<'_>>, usable: bool) -> String {
        let (slot, up) = (member.slot, self.up.get(member.slot));
        let groups = self.groups.iter().filter(|members| members.get(slot)).count();
        match deciding {
            _ if member.state != AdminState::Enabled => member.state.word().to_owned(),
            _ if member.backend.agent().drains && member.backend.is_healthy() => {
                "draining: its agent drains it".to_owned()
            }
            _ if member.weight == 0 && self.agent_percent(member) == Some(0) => {
                "weight 0: its agent says 0 %".to_owned()
            }
            _ if member.weight == 0 => "weight 0".to_owned(),
            Some(_) if usable && !up => format!("down: {}, but tried since no backend is up", self.why_down(member)),
            Some(stage) if usable && groups < self.groups.len() && stage.view.group.is_none() => {
                format!("up, in slow start at {} % of its weight", 100 * groups / self.groups.len())
            }
            Some(_) if usable => match self.agent_percent(member) {
                Some(percent) => format!("up, at {percent} % of its weight by its agent"),
                None => "up".to_owned(),
            },
            _ if !up => format!("down: {}", self.why_down(member)),
            _ if self.limits.get(slot).is_some_and(|limit| member.backend.active() >= *limit) => {
                format!("at its limit of {} connections", self.limits[slot])
            }
            Some(stage) if member.backup && !stage.backup => "backup: a primary is usable".to_owned(),
            Some(Stage { view: View { group: Some(_), .. }, .. }) => {
                "up, in slow start: the share that it has so far has no place for this client".to_owned()
            }
            _ => "up".to_owned(),
        }
    }
}

impl Stage<'_> {
    fn may_choose(&self, member: &Member) -> bool {
        member.weight > 0 && member.backup == self.backup && self.view.usable(member.slot)
    }
}

#[cfg(test)]
mod tests;
