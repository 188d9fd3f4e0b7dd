//! What arrives through tcplb, compared with the world instead of with a model of it.
//!
//! The peers of the fault suite play the same pairs of scripts over several routes: directly, through tcplb with each
//! `--relay`, through HAProxy and nginx. The direct route shows what is deterministic ([`baseline`]); every other route is
//! compared with it ([`compare`]). A shortfall of tcplb fails the test unless [`accepted`] names the pair and the reason.
//! The shortfalls of the others are figures for docs/benchmarks.md ([`report`]).
//!
//! `WHAT_ARRIVES=docs/benchmarks.md cargo test --test faults differential` writes the tables there.

mod accepted;
mod baseline;
mod cases;
mod compare;
mod report;
mod route;

use baseline::Baselines;
use cases::Case;
use compare::{Finding, findings};
use report::Report;
use route::Route;
use std::thread;

#[test]
fn every_pair_ends_as_it_does_directly() {
    let (report, table) = compare("pairs", &cases::every_pair(), Report::shortfalls);
    report.publish(&table);
}

#[test]
fn an_end_after_any_byte_arrives_as_it_does_directly() {
    let (report, table) = compare("ends", &cases::an_end_after_any_byte(), Report::shortfalls);
    report.publish(&table);
}

#[test]
fn what_a_peer_sends_before_its_reset_reaches_a_whole_crowd() {
    let (report, table) = compare("resets", &cases::crowds(), Report::crowds);
    report.publish(&table);
}

#[test]
fn each_rule_about_a_side_that_fails_holds_in_every_run() {
    compare("rules", &cases::rules(), Report::crowds);
}

/// Plays the cases over all routes. Fails where tcplb does worse than it may. Returns the table as well.
fn compare(name: &'static str, cases: &[Case], table: impl Fn(&Report) -> String) -> (Report, String) {
    let mut report = Report::new(name, cases);
    thread::scope(|scope| {
        // Only one balancer of ours runs at a time; the others and the direct route run beside it.
        let ours = scope.spawn(|| Route::OURS.map(|route| (route, route.play(cases))));
        let mut baselines = Baselines::learn(cases);
        report.add(Route::Direct, baselines.plain().to_vec());
        for route in Route::PEERS {
            if let Some(played) = route.play(cases) {
                report.add(route, played);
            }
        }
        for (route, played) in ours.join().expect("tcplb has played") {
            report.add(route, played.expect("tcplb is here"));
        }
        // What looks like a shortfall may be rare without a balancer, too.
        let mut doubts = findings(report.played(), &baselines);
        doubts.retain(Finding::is_doubtful);
        doubts.sort_by_key(|finding| !Route::OURS.contains(&finding.route));
        baselines.learn_more(cases, doubts.iter().map(|finding| finding.case));
        report.findings = findings(report.played(), &baselines);
    });
    println!("{}\n{}", report.times(cases), table(&report));
    let wrong: Vec<&Finding> = report.findings.iter().filter(|finding| !accepted::is(finding, cases)).collect();
    let described = |finding: &&Finding| report.describe(finding, cases);
    let (direct, ours): (Vec<_>, Vec<_>) = wrong
        .into_iter()
        .filter(|finding| !Route::PEERS.contains(&finding.route))
        .partition(|f| f.route == Route::Direct);
    assert!(direct.is_empty(), "the rules do not hold without a balancer:\n{}", lines(direct.iter().map(described)));
    assert!(ours.is_empty(), "tcplb falls short {} times:\n{}", ours.len(), lines(ours.iter().map(described)));
    let table = table(&report);
    (report, table)
}

/// The first of them, each once.
fn lines(all: impl Iterator<Item = String>) -> String {
    let mut lines = Vec::new();
    for line in all {
        if lines.len() < 16 && !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.join("\n")
}
