//! What the agent of a backend reports: its drain, and its part of the configured weight.
//!
//! The prober writes both to the backend ([`crate::pool::Backend::agent`]). Control builds the weights of the next snapshot
//! from them.

use super::Watch;
use crate::base::Tick;
use crate::config::model::HealthKind;
use crate::events::{By, Event, Kind};
use crate::policy::health::{AgentReport, AgentState};

impl Watch {
    /// Takes up an agent's line.
    pub(super) fn agent_said(&mut self, address: usize, report: AgentReport, now: Tick) {
        if self.health().kind != HealthKind::Agent {
            // The settings changed during the probe.
            return;
        }
        if let Some(agent) = self.agents.get_mut(address) {
            agent.hears(report);
        }
        self.show_agent(&report.to_string(), now);
    }

    /// Forgets what the agent has reported, where the pool asks none any more.
    pub(super) fn forget_agent(&mut self, now: Tick) {
        if self.health().kind != HealthKind::Agent {
            self.agents.fill(AgentState::default());
            self.show_agent("no agent is asked any more", now);
        }
    }

    /// Takes over what the agents of `old` have reported. `places`: the number there of each address that stays.
    pub(super) fn inherit_agents(&mut self, old: &Watch, places: &[Option<usize>]) {
        if self.health().kind != HealthKind::Agent {
            return;
        }
        let of_all = AgentState::of_all(&old.agents);
        for (agent, place) in self.agents.iter_mut().zip(places) {
            *agent = place.and_then(|place| old.agents.get(place)).copied().unwrap_or(of_all);
        }
        let agent = AgentState::of_all(&self.agents);
        self.reweighted |= self.backend.agent().percent != agent.percent;
        self.backend.set_agent(agent);
    }

    /// Whether the agent has changed the weight since the last call.
    pub fn take_reweighted(&mut self) -> bool {
        std::mem::take(&mut self.reweighted)
    }

    fn show_agent(&mut self, why: &str, now: Tick) {
        let (before, after) = (self.backend.agent(), AgentState::of_all(&self.agents));
        if before == after {
            return;
        }
        self.backend.set_agent(after);
        if before.percent != after.percent {
            self.reweighted = true;
            let (name, suffix) = (&self.backend.name, self.suffix());
            log::debug!("{name} has another weight: {why}{suffix}");
        }
        if before.drains != after.drains {
            let (name, suffix) = (&self.backend.name, self.suffix());
            let (from, to) = if after.drains { ("up", "draining") } else { ("draining", "up") };
            log::info!("{name} is {}: {why}{suffix}", if after.drains { "draining" } else { "draining no longer" });
            let event = Event::new(Kind::BackendState, By::Health).of_backend(&self.pool.settings.name, name);
            // Of one that is down the next event says when it is up.
            if self.recorded_up {
                self.events.record(event.changed(from, to).because(why));
            }
            self.changed = Some(format!("{name} is {to}: {why}"));
            if !after.drains && self.policy.is_up() {
                self.backend.starts_slowly(now);
            }
            self.show(now);
        }
    }
}
