//! The choice of a backend for a client, and the lease of it.

use super::{Lease, Member, Pool, Tried};
use crate::base::{AtomicBits, Tick};
use crate::config::model;
use crate::policy::balance::{Client, View};

/// Why there is no backend for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PickError {
    /// None is up and enabled that was not tried before.
    AllDown,
    /// Some are up, but each has reached its `max_connections`.
    AllFull,
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
        let is_here = |tried: &&Tried| self.member(tried.slot).is_some_and(|member| member.backend.id == tried.id);
        // Nothing is allocated for the first attempt.
        let tried: Vec<u32> = tried.iter().filter(is_here).map(|tried| tried.slot as u32).collect();
        let tried = &tried[..];
        if !self.warm.is_empty() {
            let group = self.primary.group(client, random);
            // Backups wait: a primary in slow start comes before them.
            let choose = |excluded: &[u32], random: &mut fastrand::Rng| {
                let view = View { warm: self.warm.get(group), ..self.view(&self.up, excluded, now) };
                self.primary.pick(client, &view, random)
            };
            if let Some(lease) = self.lease(tried, choose, random) {
                return Ok(lease);
            }
        }
        let choose = |excluded: &[u32], random: &mut fastrand::Rng| {
            let choice = self.choose(&self.up, excluded, client, now, random);
            choice.or_else(|| self.choose(self.last_resort()?, excluded, client, now, random))
        };
        self.lease(tried, choose, random).ok_or_else(|| self.why_none(tried))
    }

    /// The first lease that can be had of those whose slots `choose` gives, one after the other.
    fn lease(
        &self,
        tried: &[u32],
        choose: impl Fn(&[u32], &mut fastrand::Rng) -> Option<usize>,
        random: &mut fastrand::Rng,
    ) -> Option<Lease> {
        // A backend that fills up between choice and lease counts as tried, for this choice only.
        let mut lost = Vec::new();
        loop {
            let slot = choose(if lost.is_empty() { tried } else { &lost }, random)?;
            let (Some(member), Some(&limit)) = (self.member(slot), self.limits.get(slot)) else {
                debug_assert!(false, "{:?} chose {slot} of {}", self.settings.algorithm, self.positions.len());
                return None;
            };
            if let Some(lease) = Lease::take(&member.backend, slot, limit) {
                return Some(lease);
            }
            if lost.is_empty() {
                lost.extend_from_slice(tried);
            }
            lost.push(slot as u32);
        }
    }

    /// The backends to try when no other is left, if the pool tries any. Where health is `off`, a back-off proves nothing;
    /// with `try-all`, probes that fail everywhere prove nothing either.
    fn last_resort(&self) -> Option<&AtomicBits> {
        let is_up = |member: &Member| member.weight > 0 && self.up.get(member.slot);
        let off = self.settings.health.kind == model::HealthKind::Off;
        let tries_all = self.settings.all_down == model::AllDown::TryAll;
        (off || (tries_all && !self.members.iter().any(is_up))).then_some(&self.last_resort_mask)
    }

    /// Would any of its backends serve a client now, if it had room?
    pub fn has_usable(&self) -> bool {
        let mask = self.last_resort();
        let serves = |slot| self.up.get(slot) || mask.is_some_and(|mask| mask.get(slot));
        self.members.iter().any(|member| member.weight > 0 && serves(member.slot))
    }

    /// A primary out of `up`, or else a backup.
    fn choose(
        &self,
        up: &AtomicBits,
        tried: &[u32],
        client: Client,
        now: Tick,
        random: &mut fastrand::Rng,
    ) -> Option<usize> {
        let view = self.view(up, tried, now);
        let choice = self.primary.pick(client, &view, random);
        choice.or_else(|| self.backup.as_ref()?.pick(client, &view, random))
    }

    fn view<'a>(&'a self, up: &'a AtomicBits, tried: &'a [u32], now: Tick) -> View<'a> {
        View { up, warm: None, loads: &self.loads, limits: &self.limits, tried, now }
    }

    fn why_none(&self, tried: &[u32]) -> PickError {
        let up = self.last_resort().unwrap_or(&self.up);
        let open = |member: &Member| member.weight > 0 && up.get(member.slot) && !tried.contains(&(member.slot as u32));
        if self.members.iter().any(open) { PickError::AllFull } else { PickError::AllDown }
    }
}

#[cfg(test)]
mod tests;
