//! What the agent of a backend reports, and the weight that follows from it.
//!
//! An agent answers with a line of words, separated by spaces or commas:
//!
//! | word            | effect                                                                             |
//! |-----------------|------------------------------------------------------------------------------------|
//! | `N%`            | the backend's weight is this part of the configured one, until the agent says another |
//! | `drain`         | the backend takes no new clients, until `up` or `ready`                             |
//! | `up`, `ready`   | ends the agent's drain                                                             |
//! | `down`          | the backend is down at once                                                        |
//!
//! A line may have several of them. `drain` beside `up` drains, whatever their order. What a line leaves out stays as it is. Another word
//! makes the whole line a failed probe, so a line is never understood in part.

use std::fmt;

/// One line of an agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentReport {
    /// The backend is down.
    pub down: bool,
    /// The backend drains, or drains no longer; `None`: as before.
    pub drains: Option<bool>,
    /// The part of the configured weight; `None`: as before.
    pub percent: Option<u32>,
}

impl AgentReport {
    /// Reads a line, without its end. Fails with the word that is none of an agent's, or an empty text if there is no word.
    pub fn parse(line: &str) -> Result<AgentReport, &str> {
        let mut report = AgentReport::default();
        let mut words = line.split([' ', '\t', ',']).filter(|word| !word.is_empty()).peekable();
        words.peek().ok_or("")?;
        for word in words {
            let is = |known: &str| word.eq_ignore_ascii_case(known);
            if is("down") {
                report.down = true;
            } else if is("drain") {
                report.drains = Some(true);
            } else if is("up") || is("ready") {
                report.drains.get_or_insert(false);
            } else {
                report.percent = Some(percent(word).ok_or(word)?);
            }
        }
        Ok(report)
    }
}

/// `75%`. A number with a sign is none.
fn percent(word: &str) -> Option<u32> {
    let digits = word.strip_suffix('%').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}

/// What an agent has reported so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentState {
    /// It drains its backend.
    pub drains: bool,
    /// The part of the configured weight, if it has named one.
    pub percent: Option<u32>,
}

impl AgentState {
    /// Takes up a line.
    pub fn hears(&mut self, report: AgentReport) {
        self.drains = report.drains.unwrap_or(self.drains);
        self.percent = report.percent.or(self.percent);
    }

    /// That of a backend with an agent at each address. It drains if all of them drain it, and its percentage is the mean.
    pub fn of_all(states: &[AgentState]) -> AgentState {
        let drains = !states.is_empty() && states.iter().all(|state| state.drains);
        let named = states.iter().any(|state| state.percent.is_some());
        let sum: u64 = states.iter().map(|state| u64::from(state.percent.unwrap_or(100))).sum();
        let mean = (sum + states.len() as u64 / 2).checked_div(states.len() as u64);
        AgentState { drains, percent: mean.filter(|_| named).and_then(|mean| u32::try_from(mean).ok()) }
    }
}

/// The weight that choices use: a part of the configured one, rounded. Only 0 % makes it 0.
pub fn effective_weight(configured: u16, percent: Option<u32>) -> u16 {
    let Some(percent) = percent else { return configured };
    let weight = (u64::from(configured) * u64::from(percent) + 50) / 100;
    let least = u16::from(percent > 0 && configured > 0);
    u16::try_from(weight).unwrap_or(u16::MAX).max(least)
}

/// `up, 75 %`.
impl fmt::Display for AgentReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("its agent says ")?;
        let state = match (self.down, self.drains) {
            (true, _) => Some("down"),
            (false, Some(true)) => Some("drain"),
            (false, Some(false)) => Some("up"),
            (false, None) => None,
        };
        match (state, self.percent) {
            (Some(state), Some(percent)) => write!(out, "{state}, {percent} %"),
            (Some(state), None) => out.write_str(state),
            (None, Some(percent)) => write!(out, "{percent} %"),
            (None, None) => out.write_str("nothing"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_has_the_effects_of_its_words() {
        let (up, drain) = (Some(false), Some(true));
        for (line, down, drains, percent, text) in [
            ("up", false, up, None, "its agent says up"),
            ("READY", false, up, None, "its agent says up"),
            ("75%", false, None, Some(75), "its agent says 75 %"),
            ("up 75%", false, up, Some(75), "its agent says up, 75 %"),
            ("  ready,150%,up ", false, up, Some(150), "its agent says up, 150 %"),
            ("drain", false, drain, None, "its agent says drain"),
            ("up drain", false, drain, None, "its agent says drain"),
            ("drain\tup", false, drain, None, "its agent says drain"),
            ("down", true, None, None, "its agent says down"),
            ("up down 0%", true, up, Some(0), "its agent says down, 0 %"),
            ("10% 20%", false, None, Some(20), "its agent says 20 %"),
        ] {
            let report = AgentReport { down, drains, percent };
            assert_eq!(AgentReport::parse(line), Ok(report), "{line}");
            assert_eq!(report.to_string(), text);
        }
        for (line, word) in [
            ("", ""),
            (" ,", ""),
            ("up maybe", "maybe"),
            ("%", "%"),
            ("-1%", "-1%"),
            ("+1%", "+1%"),
            ("1.5%", "1.5%"),
            ("75", "75"),
            ("99999999999%", "99999999999%"),
            ("down#disk", "down#disk"),
        ] {
            assert_eq!(AgentReport::parse(line), Err(word), "{line}");
        }
    }

    #[test]
    fn what_a_line_leaves_out_stays() {
        let mut state = AgentState::default();
        let mut after = |line| {
            state.hears(AgentReport::parse(line).unwrap());
            (state.drains, state.percent)
        };
        assert_eq!(after("up"), (false, None));
        assert_eq!(after("drain 50%"), (true, Some(50)));
        assert_eq!(after("70%"), (true, Some(70)));
        assert_eq!(after("down"), (true, Some(70)));
        assert_eq!(after("ready"), (false, Some(70)));
    }

    #[test]
    fn agents_of_several_addresses_give_a_mean() {
        let state = |drains, percent| AgentState { drains, percent };
        assert_eq!(AgentState::of_all(&[]), AgentState::default());
        assert_eq!(AgentState::of_all(&[state(true, None), state(false, None)]), AgentState::default());
        assert_eq!(AgentState::of_all(&[state(true, None), state(true, Some(51))]), state(true, Some(76)));
        assert_eq!(AgentState::of_all(&[state(false, Some(u32::MAX)); 3]), state(false, Some(u32::MAX)));
    }

    #[test]
    fn a_weight_is_rounded_and_bounded() {
        for (configured, percent, want) in [
            (10, None, 10),
            (10, Some(100), 10),
            (10, Some(55), 6),
            (10, Some(54), 5),
            (10, Some(1), 1),
            (1, Some(50), 1),
            (10, Some(0), 0),
            (0, Some(500), 0),
            (100, Some(250), 250),
            (1_000, Some(10_000), u16::MAX),
            (u16::MAX, Some(u32::MAX), u16::MAX),
        ] {
            assert_eq!(effective_weight(configured, percent), want, "{configured} {percent:?}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused_with_its_word(line in "(?s).{0,40}") {
            if let Err(word) = AgentReport::parse(&line) {
                prop_assert!(line.contains(word));
            }
        }

        #[test]
        fn a_larger_percentage_never_gives_less(configured: u16, one: u32, other: u32) {
            let (less, more) = (one.min(other), one.max(other));
            prop_assert!(effective_weight(configured, Some(less)) <= effective_weight(configured, Some(more)));
            prop_assert_eq!(effective_weight(configured, Some(less)) == 0, configured == 0 || less == 0);
        }
    }
}
