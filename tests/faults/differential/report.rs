//! What was found, as tables.

use super::cases::Case;
use super::compare::{Finding, Shortfall};
use super::route::{Pair, Route};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;
use std::{env, fs};
use testkit::Ending;

pub struct Report {
    name: &'static str,
    /// What each case counts as: a crowd, or the script that is received; for each side.
    groups: Vec<[String; 2]>,
    played: BTreeMap<Route, Vec<Pair>>,
    pub findings: Vec<Finding>,
}

impl Report {
    pub fn new(name: &'static str, cases: &[Case]) -> Report {
        let group = |case: &Case, side| {
            let received = &case.sides(side).1.name;
            // Ends at any byte are one row, whatever the byte.
            let general = received.trim_end_matches(|letter: char| letter.is_ascii_digit());
            if general.len() < received.len() { format!("{general}n bytes") } else { received.clone() }
        };
        let groups = cases
            .iter()
            .map(|case| {
                if case.crowd.is_empty() {
                    [group(case, 0), group(case, 1)]
                } else {
                    [case.crowd.to_owned(), case.crowd.to_owned()]
                }
            })
            .collect();
        Report { name, groups, played: BTreeMap::new(), findings: Vec::new() }
    }

    pub fn add(&mut self, route: Route, pairs: Vec<Pair>) {
        self.played.insert(route, pairs);
    }

    pub fn played(&self) -> &BTreeMap<Route, Vec<Pair>> {
        &self.played
    }

    pub fn describe(&self, finding: &Finding, cases: &[Case]) -> String {
        let Finding { route, case, side, what } = finding;
        let (own, other) = cases[*case].sides(*side);
        let [seen, by] = [*side, 1 - side].map(|side| &self.played[route][*case][side]);
        let direct = &self.played[&Route::Direct][*case][*side];
        format!(
            "{}: {what}: {}the {} `{}` receives {} of {} bytes ({} had left the {} `{}`), then {:?}; directly {}, then {:?}{}",
            route.name(),
            if cases[*case].crowd.is_empty() { String::new() } else { format!("{}: ", cases[*case].crowd) },
            ["client", "backend"][*side],
            own.name,
            seen.received,
            by.written,
            by.sent,
            ["client", "backend"][1 - side],
            other.name,
            seen.end,
            direct.received,
            direct.end,
            seen.garbled.as_ref().map(|garbled| format!("; {garbled}")).unwrap_or_default(),
        )
    }

    /// A row for each script that is received: how often a receiver falls short of it.
    pub fn shortfalls(&self) -> String {
        let mut table = self.head("is received by the other side", "sides");
        let mut rows: BTreeMap<&str, usize> = BTreeMap::new();
        self.groups.iter().flatten().for_each(|group| *rows.entry(group).or_default() += 1);
        for (group, sides) in rows {
            let mut cells = vec![sides.to_string()];
            for route in self.played.keys() {
                let mut counts: BTreeMap<Shortfall, usize> = BTreeMap::new();
                let here =
                    |finding: &&Finding| finding.route == *route && self.groups[finding.case][finding.side] == group;
                self.findings.iter().filter(here).for_each(|finding| *counts.entry(finding.what).or_default() += 1);
                let counted: Vec<String> = counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
                cells.push(if counted.is_empty() { "–".to_owned() } else { counted.join(", ") });
            }
            row(&mut table, group, &cells);
        }
        table
    }

    /// A row for each crowd: how many get all that had left the other side, and how that ends for them.
    pub fn crowds(&self) -> String {
        let mut table = self.head("", "of");
        let mut seen = Vec::new();
        for [group, _] in &self.groups {
            if seen.contains(&group) {
                continue;
            }
            seen.push(group);
            let members: Vec<usize> = (0..self.groups.len()).filter(|case| self.groups[*case][0] == *group).collect();
            let mut cells = vec![members.len().to_string()];
            for pairs in self.played.values() {
                let receivers = members
                    .iter()
                    .flat_map(|case| [(&pairs[*case][0], &pairs[*case][1]), (&pairs[*case][1], &pairs[*case][0])]);
                let receivers: Vec<_> = receivers.filter(|(receiver, _)| !receiver.cut).collect();
                let whole = receivers.iter().filter(|(receiver, sender)| receiver.received >= sender.sent).count();
                let ends = |end| receivers.iter().filter(|(receiver, _)| receiver.end == end).count();
                let ends =
                    [("reset", ends(Some(Ending::Reset))), ("FIN", ends(Some(Ending::Fin))), ("no end", ends(None))];
                let ends = ends.iter().filter(|(_, count)| *count > 0).map(|(end, count)| format!("{count} {end}"));
                cells.push(format!("{whole}; {}", ends.collect::<Vec<_>>().join(", ")));
            }
            row(&mut table, group, &cells);
        }
        table
    }

    /// How long it took until half of the sides, and until the last one, had seen an end.
    pub fn times(&self, cases: &[Case]) -> String {
        let mut text = format!("{}: until half of the ends were seen, and until the last was\n", self.name);
        for (route, pairs) in &self.played {
            let ends = pairs.iter().enumerate();
            let mut times: Vec<(Duration, usize)> =
                ends.flat_map(|(case, pair)| pair.iter().filter_map(move |seen| Some((seen.took?, case)))).collect();
            times.sort();
            let (Some((half, _)), Some((last, case))) = (times.get(times.len() / 2), times.last()) else { continue };
            let Case { client, backend, crowd } = &cases[*case];
            let case = if crowd.is_empty() { format!("{} / {}", client.name, backend.name) } else { crowd.to_string() };
            let _ = writeln!(text, "    {}: {half:.1?}, {last:.1?} ({case})", route.name());
        }
        text
    }

    fn head(&self, first: &str, second: &str) -> String {
        let mut table = String::new();
        let names: Vec<&str> = [second].into_iter().chain(self.played.keys().map(|route| route.name())).collect();
        let _ = writeln!(table, "| {first} | {} |", names.join(" | "));
        let _ = writeln!(table, "|---|{}", "---|".repeat(names.len()));
        table
    }

    /// Puts a table into its place in the file that the environment names.
    pub fn publish(&self, table: &str) {
        let Ok(path) = env::var("WHAT_ARRIVES") else { return };
        let text = fs::read_to_string(&path).expect("read the file to write to");
        let (begin, end) = (format!("<!-- what arrives: {} -->\n", self.name), "<!-- end -->");
        let (before, rest) = text.split_once(&begin).expect("a place for the table");
        let (_, after) = rest.split_once(end).expect("the end of the place");
        fs::write(&path, format!("{before}{begin}{table}{end}{after}")).expect("write the file");
    }
}

fn row(table: &mut String, name: &str, cells: &[String]) {
    let _ = writeln!(table, "| {name} | {} |", cells.join(" | "));
}
