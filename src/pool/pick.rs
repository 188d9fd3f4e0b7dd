//! The choice of a backend for a client, and the lease of it.

use super::{Lease, Member, Pool, Tried};
use crate::base::{AtomicBits, Tick};
use crate::config::model;
use crate::policy::balance::{Balance, Client, View};

/// Why there is no backend for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PickError {
    /// None is up and enabled that was not tried before.
    AllDown,
    /// Some are up, but each has reached its `max_connections`.
    AllFull,
    /// Other clients wait for a backend of the pool. The pool itself never answers this.
    OthersWait,
}

/// A stage of a choice: an algorithm, and the backends that it may choose from.
#[derive(Clone, Copy)]
pub(super) struct Stage<'a> {
    /// The algorithm, over all primaries or all backups.
    pub balance: &'a dyn Balance,
    /// The state of the pool, for this stage.
    pub view: View<'a>,
    /// Whether it chooses from the backups.
    pub backup: bool,
}

impl Pool {
    /// Chooses a backend for a client and counts the connection there. `tried` holds those that this connection tried in
    /// vain, in this snapshot or an earlier one; `now` is of [`crate::clock`].
    pub fn pick(
        &self,
        client: Client,
        tried: &[Tried],
        now: Tick,
        random: &mut fastrand::Rng,
    ) -> Result<Lease, PickError> {
        // Nothing is allocated for the first attempt.
        let tried: Vec<u32> =
            tried.iter().filter(|tried| self.tried(**tried).is_some()).map(|tried| tried.slot as u32).collect();
        let draw = |random: &mut fastrand::Rng| random.usize(..self.groups.len());
        let group = match self.groups.is_empty() {
            true => None,
            false => Some(self.primary.group(client).unwrap_or_else(|| draw(random))),
        };
        let lease = self.decide(group, &tried, now, |stage| self.lease(stage, client, random));
        lease.ok_or_else(|| self.why_none(&tried))
    }

    /// A backend that failed for a connection, if it is still in this pool.
    pub fn tried(&self, tried: Tried) -> Option<&Member> {
        self.member(tried.slot).filter(|member| member.backend.id == tried.id)
    }

    /// Goes through the stages of a choice. The first one for which `choose` gives a result decides.
    pub(super) fn decide<'a, T>(
        &'a self,
        group: Option<usize>,
        tried: &'a [u32],
        now: Tick,
        mut choose: impl FnMut(&Stage<'a>) -> Option<T>,
    ) -> Option<T> {
        let view = View { up: &self.up, group: None, loads: &self.loads, limits: &self.limits, tried, now };
        let stage = Stage { balance: &*self.primary, view, backup: false };
        let members = group.and_then(|group| self.groups.get(group));
        // Backups wait: a primary in slow start comes before them.
        let chosen = members.and_then(|group| choose(&Stage { view: View { group: Some(group), ..view }, ..stage }));
        if chosen.is_some() {
            return chosen;
        }
        let mut of_all = |stage: Stage<'a>| {
            let backups = || Some(Stage { balance: self.backup.as_deref()?, backup: true, ..stage });
            choose(&stage).or_else(|| choose(&backups()?))
        };
        let last_resort = || Some(Stage { view: View { up: self.last_resort()?, ..view }, ..stage });
        of_all(stage).or_else(|| of_all(last_resort()?))
    }

    /// The first lease that can be had of the backends that the stage's algorithm gives, one after the other.
    fn lease(&self, stage: &Stage<'_>, client: Client, random: &mut fastrand::Rng) -> Option<Lease> {
        // A backend that fills up between choice and lease counts as tried, for this choice only.
        let mut lost = Vec::new();
        loop {
            let tried = if lost.is_empty() { stage.view.tried } else { &lost };
            let slot = stage.balance.pick(client, &View { tried, ..stage.view }, random)?;
            let (Some(member), Some(&limit)) = (self.member(slot), self.limits.get(slot)) else {
                debug_assert!(false, "{:?} chose {slot} of {}", self.settings.algorithm, self.positions.len());
                return None;
            };
            if let Some(lease) = Lease::take(&member.backend, slot, limit) {
                return Some(lease);
            }
            if lost.is_empty() {
                lost.extend_from_slice(stage.view.tried);
            }
            lost.push(slot as u32);
        }
    }

    /// The backends to try when no other is left, if the pool tries any. Where health is `off`, a back-off proves nothing;
    /// with `try-all`, probes that fail everywhere prove nothing either.
    pub(super) fn last_resort(&self) -> Option<&AtomicBits> {
        let off = self.settings.health.kind == model::HealthKind::Off;
        let tries_all = self.settings.all_down == model::AllDown::TryAll;
        (off || (tries_all && !self.has_up())).then_some(&self.last_resort_mask)
    }

    /// Is this member tried now, since no other backend is left?
    pub fn is_last_resort(&self, member: &Member) -> bool {
        self.last_resort().is_some_and(|mask| mask.get(member.slot))
    }

    /// Is any member with weight up?
    pub(super) fn has_up(&self) -> bool {
        self.members.iter().any(|member| member.weight > 0 && self.up.get(member.slot))
    }

    /// Would any of its backends serve a client now, if it had room?
    pub fn has_usable(&self) -> bool {
        let mask = self.last_resort();
        let serves = |slot| self.up.get(slot) || mask.is_some_and(|mask| mask.get(slot));
        self.members.iter().any(|member| member.weight > 0 && serves(member.slot))
    }

    /// Why none of its backends can be chosen.
    pub(super) fn why_none(&self, tried: &[u32]) -> PickError {
        let up = self.last_resort().unwrap_or(&self.up);
        let open = |member: &Member| member.weight > 0 && up.get(member.slot) && !tried.contains(&(member.slot as u32));
        if self.members.iter().any(open) { PickError::AllFull } else { PickError::AllDown }
    }
}

#[cfg(test)]
mod tests;
