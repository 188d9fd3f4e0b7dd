//! The one state of a backend that operators see, from what an operator decided and from its health.

use super::{AdminState, Member, Pool};

/// What an operator sees of a backend: the administrative state, or else whether it takes new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendState {
    /// It takes new connections.
    Up,
    /// It is enabled and takes none.
    Down,
    /// An operator or its agent drains it.
    Draining,
    /// An operator has disabled it.
    Disabled,
}

impl Pool {
    /// Why an enabled backend takes no new connections. Failed probes count more than failed clients: they keep it down when
    /// the clients' failures are forgotten.
    pub fn why_down(&self, member: &Member) -> String {
        if let Some(why) = member.backend.unresolved() {
            return why;
        }
        if self.ejected.get(member.slot) && member.backend.is_healthy() {
            return "its last clients failed".to_owned();
        }
        match &member.backend.health.lock().last_result {
            Some(outcome) if outcome.passed() => "too few probes have passed yet".to_owned(),
            Some(outcome) => outcome.to_string(),
            None => "no probe has passed yet".to_owned(),
        }
    }
}

impl BackendState {
    /// All of them.
    pub const ALL: [BackendState; 4] =
        [BackendState::Up, BackendState::Down, BackendState::Draining, BackendState::Disabled];

    /// That of a backend.
    pub fn of(pool: &Pool, member: &Member) -> BackendState {
        match member.state {
            AdminState::Enabled if pool.is_usable(member) => BackendState::Up,
            AdminState::Enabled if member.backend.agent().drains && member.backend.is_healthy() => {
                BackendState::Draining
            }
            AdminState::Enabled => BackendState::Down,
            AdminState::Draining => BackendState::Draining,
            AdminState::Disabled => BackendState::Disabled,
        }
    }

    /// Its word in the API and in metrics.
    pub fn word(self) -> &'static str {
        match self {
            BackendState::Up => "up",
            BackendState::Down => "down",
            BackendState::Draining => "draining",
            BackendState::Disabled => "disabled",
        }
    }
}
