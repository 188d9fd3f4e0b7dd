//! One line of the demo: `  4.5s  web1 ███▍   33%  web2 ███▍   33%  web3 ███▍   33%  failed 0`. Pure.

use super::client::Counts;
use std::fmt::Write;
use std::time::Duration;

/// Cells of the bar for 100 %.
const FULL: u64 = 10;
/// The least width of a bar, so that columns stay aligned up to 50 %.
const WIDTH: usize = 6;
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// Each backend's share of the answers between two counts. `fancy`: with bars and colours.
pub fn line(since: Duration, names: &[&str], before: &Counts, now: &Counts, fancy: bool) -> String {
    let delta = |index: usize| {
        let at = |counts: &Counts| counts.answered.get(index).copied().unwrap_or(0);
        at(now).saturating_sub(at(before))
    };
    let total: u64 = (0..names.len()).map(delta).sum();
    let mut line = format!("{:5.1}s", since.as_secs_f64());
    for (index, name) in names.iter().enumerate() {
        let share = delta(index);
        // Writing to a string can't fail.
        let _ = match (share * 100 + total / 2).checked_div(total) {
            None => write!(line, "  {name}    -"),
            Some(percent) if fancy => {
                write!(line, "  {name} \u{1b}[32m{:WIDTH$}\u{1b}[0m {percent:3}%", bar(share, total))
            }
            Some(percent) => write!(line, "  {name} {percent:3}%"),
        };
    }
    let failed = now.failed;
    let _ = match failed {
        1.. if fancy => write!(line, "  \u{1b}[31mfailed {failed}\u{1b}[0m"),
        _ => write!(line, "  failed {failed}"),
    };
    line
}

fn bar(share: u64, total: u64) -> String {
    let eighths = (share * FULL * 8 + total / 2).checked_div(total).unwrap_or(0);
    let cells = usize::try_from(eighths / 8).unwrap_or(0);
    let rest = usize::try_from(eighths % 8).unwrap_or(0);
    format!("{}{}", "█".repeat(cells), EIGHTHS[rest])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(answered: &[u64], failed: u64) -> Counts {
        Counts { answered: answered.to_vec(), failed, why: None }
    }

    #[test]
    fn a_line_shows_the_answers_since_the_last_line() {
        let names = ["web1", "web2", "web3"];
        let (before, now) = (counts(&[10, 10, 10], 0), counts(&[35, 35, 35], 0));
        let time = Duration::from_millis(4500);
        assert_eq!(line(time, &names, &before, &now, false), "  4.5s  web1  33%  web2  33%  web3  33%  failed 0");
        let later = counts(&[72, 35, 73], 2);
        assert_eq!(line(time, &names, &now, &later, false), "  4.5s  web1  49%  web2   0%  web3  51%  failed 2");
        assert_eq!(line(time, &names, &now, &now, false), "  4.5s  web1    -  web2    -  web3    -  failed 0");
        let fancy = line(time, &names, &before, &now, true);
        assert!(fancy.contains("web1 \u{1b}[32m███▍  \u{1b}[0m  33%"), "{fancy}");
    }

    #[test]
    fn bars_grow_with_the_share() {
        assert_eq!(bar(0, 3), "");
        assert_eq!(bar(1, 2), "█████");
        assert_eq!(bar(5, 5), "██████████");
        assert_eq!(bar(0, 0), "");
    }
}
