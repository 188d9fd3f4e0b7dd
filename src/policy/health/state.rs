//! Rise and fall: from results of probes and connects to "up" and "down".
//!
//! | state                    | result             | what it does                                              |
//! |--------------------------|--------------------|-----------------------------------------------------------|
//! | before the first probe   | probe              | decides at once, either way                               |
//! | up                       | failure            | counts; `fall` in a row mark it down                      |
//! | up                       | successful probe   | forgets the failures                                      |
//! | any                      | an agent's `down`  | marks it down at once                                     |
//! | down                     | successful probe   | counts; `rise` in a row mark it up                        |
//! | down                     | failure            | forgets the successes                                     |
//!
//! A failure is a failed probe or a failed connect of a client. Two rules about clients are deliberate:
//!
//! * Only a *probe* decides at once. A client's failure before the first probe counts as one towards `fall`: it may be
//!   one lost packet, and the first probe is in progress.
//! * Successful connects offset failed ones, since a few of ten thousand may fail on a healthy backend. They do not
//!   offset failed probes: a backend whose `/healthz` returns 503 still accepts connections.

/// How many results in a row change the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Successes that mark a backend up. 0 counts as 1.
    pub rise: u32,
    /// Failures that mark a backend down. 0 counts as 1.
    pub fall: u32,
}

/// The health of one backend. Up before the first probe, unless created as down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthState {
    up: bool,
    /// Whether a probe has had a result.
    decided: bool,
    /// Successful probes in a row; counted while down.
    passed: u32,
    /// Failed probes since the last successful one; counted while up.
    failed: u32,
    /// Failed connects since the last successful connect or probe; counted while up.
    refused: u32,
}

impl Default for HealthState {
    fn default() -> Self {
        HealthState { up: true, decided: false, passed: 0, failed: 0, refused: 0 }
    }
}

impl HealthState {
    /// The state before any result.
    pub fn unknown(up: bool) -> HealthState {
        HealthState { up, ..HealthState::default() }
    }

    /// Counts a probe's result. True if that changes the state.
    pub fn probed(&mut self, passed: bool, rules: Rules) -> bool {
        if !std::mem::replace(&mut self.decided, true) {
            return self.become_up(passed);
        }
        match (self.up, passed) {
            (true, true) => self.become_up(true),
            (true, false) => {
                self.failed = self.failed.saturating_add(1);
                self.fall_if_due(rules)
            }
            (false, true) => {
                self.passed = self.passed.saturating_add(1);
                self.passed >= rules.rise && self.become_up(true)
            }
            (false, false) => self.become_up(false),
        }
    }

    /// Marks it down at once, as its agent reports. True if that changes the state.
    pub fn marked_down(&mut self) -> bool {
        self.decided = true;
        self.become_up(false)
    }

    /// Counts a failed connect. `others_reached`: another client connected since the last call. True if that changes
    /// the state.
    pub fn client_failed(&mut self, others_reached: bool, rules: Rules) -> bool {
        if !self.up {
            return self.become_up(false);
        }
        if others_reached {
            self.refused = 0;
        }
        self.refused = self.refused.saturating_add(1);
        self.fall_if_due(rules)
    }

    /// Whether the backend is up.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Results in a row that count towards a change.
    pub fn progress(&self) -> u32 {
        if self.up { self.failed.saturating_add(self.refused) } else { self.passed }
    }

    fn fall_if_due(&mut self, rules: Rules) -> bool {
        self.progress() >= rules.fall && self.become_up(false)
    }

    /// Sets the state and clears all counts. True if the state changes.
    fn become_up(&mut self, up: bool) -> bool {
        let changed = self.up != up;
        *self = HealthState { up, decided: self.decided, ..HealthState::default() };
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULES: Rules = Rules { rise: 2, fall: 3 };

    fn settled(up: bool) -> HealthState {
        let mut state = HealthState::default();
        state.probed(up, RULES);
        assert_eq!(state.is_up(), up);
        state
    }

    #[test]
    fn the_first_probe_decides_at_once() {
        assert!(HealthState::default().is_up());
        assert!(HealthState::default().probed(false, RULES));
        assert!(!HealthState::default().probed(true, RULES));
    }

    #[test]
    fn a_backend_that_starts_down_comes_up_after_one_probe() {
        let mut state = HealthState::unknown(false);
        assert!(!state.is_up() && !state.client_failed(false, RULES));
        assert!(state.probed(true, RULES) && state.is_up());
        let mut state = HealthState::unknown(false);
        assert!(!state.probed(false, RULES));
        assert!(!state.probed(true, RULES), "from the second probe on, `rise` applies");
        assert!(state.probed(true, RULES));
    }

    #[test]
    fn a_client_before_the_first_probe_counts_as_one_failure_only() {
        let mut state = HealthState::default();
        assert!(!state.client_failed(false, RULES));
        assert!(!state.client_failed(false, RULES));
        assert!(state.client_failed(false, RULES));
        assert!(state.probed(true, RULES), "and the first probe still decides");
    }

    #[test]
    fn fall_and_rise_count_results_in_a_row() {
        let mut state = settled(true);
        let steps = [false, false, true, false, false, false, true, false, true, true];
        let ups: Vec<bool> = steps.map(|passed| (state.probed(passed, RULES), state.is_up()).1).to_vec();
        assert_eq!(ups, [true, true, true, true, true, false, false, false, false, true]);
    }

    #[test]
    fn clients_and_probes_add_up() {
        let mut state = settled(true);
        assert!(!state.probed(false, RULES));
        assert!(!state.client_failed(false, RULES));
        assert!(state.client_failed(false, RULES));
    }

    #[test]
    fn successful_connects_offset_failed_ones_but_no_probes() {
        let mut state = settled(true);
        for _ in 0..100 {
            assert!(!state.client_failed(true, RULES));
        }
        assert!(!state.probed(false, RULES), "one client, one probe");
        assert!(!state.client_failed(true, RULES), "one probe, one client again");
        assert!(state.probed(false, RULES), "two probes, one client");
    }

    #[test]
    fn a_failed_connect_while_down_restarts_the_rise() {
        let mut state = settled(false);
        state.probed(true, RULES);
        assert!(!state.client_failed(false, RULES));
        assert!(!state.probed(true, RULES));
        assert!(state.probed(true, RULES));
    }

    #[test]
    fn an_agent_marks_down_at_once_and_the_rise_counts() {
        let mut state = settled(true);
        assert!(state.marked_down() && !state.marked_down());
        assert!(!state.probed(true, RULES) && state.probed(true, RULES));
        let mut state = HealthState::default();
        assert!(state.marked_down());
        assert!(!state.probed(true, RULES), "the line was the first result");
    }

    proptest! {
        /// The rule over the whole history, for probes alone.
        #[test]
        fn probes_follow_the_rule(history in prop::collection::vec(any::<bool>(), 1..60), rise in 1u32..5, fall in 1u32..5) {
            let mut state = HealthState::default();
            let mut up = history[0];
            for end in 1..=history.len() {
                let changed = state.probed(history[end - 1], Rules { rise, fall });
                let need = if up { fall } else { rise } as usize;
                let streak = history[..end].iter().rev().take_while(|&&passed| passed != up).count();
                let flips = end > 1 && streak >= need;
                prop_assert_eq!(changed, flips || (end == 1 && !up));
                up ^= flips;
                prop_assert_eq!(state.is_up(), up);
            }
        }

        /// The result of a call is true exactly if the state changed.
        #[test]
        fn a_change_is_reported_exactly_when_there_is_one(
            steps in prop::collection::vec((any::<bool>(), any::<bool>()), 0..60), rise in 0u32..4, fall in 0u32..4,
        ) {
            let mut state = HealthState::default();
            for (client, good) in steps {
                let before = state.is_up();
                let rules = Rules { rise, fall };
                let changed = if client { state.client_failed(good, rules) } else { state.probed(good, rules) };
                prop_assert_eq!(changed, before != state.is_up());
                prop_assert!(!(client && changed && state.is_up()), "a failure never marks up");
            }
        }
    }
}
