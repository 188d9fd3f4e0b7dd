//! Which backends may be used: the one rule, from the prober's findings and the operator's state.

use super::AdminState;

/// The state of a backend of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The operator's state of it.
    pub state: AdminState,
    /// Its name has an address.
    pub resolved: bool,
    /// Its health state is up.
    pub healthy: bool,
    /// It is left out as an outlier.
    pub ejected: bool,
    /// Its agent drains it.
    pub drained: bool,
    /// It may be tried as a last resort: it has passed a probe, or its pool requires none of a new backend.
    pub admitted: bool,
}

impl Standing {
    /// Does it take new connections?
    pub fn is_usable(self) -> bool {
        self.is_offered() && self.healthy && !self.ejected
    }

    /// May it be tried when no other backend is left?
    pub fn is_last_resort(self) -> bool {
        self.is_offered() && self.admitted
    }

    /// Whatever its health: an operator or its agent may have taken it out, or its name may have no address.
    fn is_offered(self) -> bool {
        self.state == AdminState::Enabled && self.resolved && !self.drained
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_not_enough_and_a_last_resort_needs_none() {
        let up = Standing {
            state: AdminState::Enabled,
            resolved: true,
            healthy: true,
            ejected: false,
            drained: false,
            admitted: true,
        };
        for (standing, usable, last_resort) in [
            (up, true, true),
            (Standing { healthy: false, ..up }, false, true),
            (Standing { ejected: true, ..up }, false, true),
            (Standing { admitted: false, ..up }, true, false),
            (Standing { resolved: false, ..up }, false, false),
            (Standing { drained: true, ..up }, false, false),
            (Standing { state: AdminState::Draining, ..up }, false, false),
            (Standing { state: AdminState::Disabled, ..up }, false, false),
        ] {
            assert_eq!((standing.is_usable(), standing.is_last_resort()), (usable, last_resort), "{standing:?}");
        }
    }
}
