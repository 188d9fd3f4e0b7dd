//! What an operator, or a source of backends, allows a backend to do.

use serde::{Deserialize, Serialize};

/// Does the operator allow the use of a backend? Open connections go on in any state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdminState {
    /// As its health allows.
    #[default]
    Enabled,
    /// It takes no new connections.
    Draining,
    /// It takes no new connections and is not probed.
    Disabled,
}

impl AdminState {
    /// All of them, with what users call them.
    pub const NAMES: [(&'static str, AdminState); 3] =
        [("enabled", AdminState::Enabled), ("draining", AdminState::Draining), ("disabled", AdminState::Disabled)];

    /// Its word in API and log.
    pub fn word(self) -> &'static str {
        match self {
            AdminState::Enabled => "enabled",
            AdminState::Draining => "draining",
            AdminState::Disabled => "disabled",
        }
    }
}
