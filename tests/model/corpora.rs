//! Replays what the fuzzers have kept, by the checks that they run (`fuzz/checks`). They keep every input that reached
//! code of its own, and every one that once broke a promise. `fuzz/README.md` says how to run them and what to do with a
//! finding.

#[path = "../../fuzz/checks/admin_request.rs"]
mod admin_request;
#[path = "../../fuzz/checks/config.rs"]
mod config;
#[path = "../../fuzz/checks/conntrack.rs"]
mod conntrack;
#[path = "../../fuzz/checks/dns_answer.rs"]
mod dns_answer;
#[path = "../../fuzz/checks/handover_message.rs"]
mod handover_message;
#[path = "../../fuzz/checks/import.rs"]
mod import;
#[path = "../../fuzz/checks/probe_answer.rs"]
mod probe_answer;
#[path = "../../fuzz/checks/proxy_header.rs"]
mod proxy_header;
#[path = "../../fuzz/checks/session.rs"]
pub mod session;
#[path = "../../fuzz/checks/sniff.rs"]
mod sniff;
#[path = "../../fuzz/checks/source_answer.rs"]
mod source_answer;
#[path = "../../fuzz/checks/transit_record.rs"]
mod transit_record;

use std::path::Path;
use tcplb::worker::driver::transit::{Incoming, Record};

/// Names the input if the check fails.
struct Replay<'a>(&'a Path);

impl Drop for Replay<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with {}", self.0.display());
        }
    }
}

/// Runs a check on every file in these directories.
fn replay(directories: &[&str], at_least: usize, check: fn(&[u8])) {
    let mut count = 0;
    for directory in directories {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
        for entry in std::fs::read_dir(&directory).unwrap_or_else(|why| panic!("{}: {why}", directory.display())) {
            let path = entry.expect("an entry").path();
            let _replay = Replay(&path);
            check(&std::fs::read(&path).expect("a file"));
            count += 1;
        }
    }
    assert!(count >= at_least, "only {count} inputs");
}

#[test]
fn messages_of_conntrack() {
    replay(&["fuzz/corpus/conntrack"], 5, conntrack::check);
}

#[test]
fn proxy_headers() {
    replay(&["fuzz/corpus/proxy_header", "tests/data/proxy"], 100, proxy_header::check);
}

#[test]
fn first_bytes() {
    replay(&["fuzz/corpus/sniff", "tests/data/sniff"], 100, sniff::check);
}

#[test]
fn configurations() {
    replay(&["fuzz/corpus/config", "tests/data/config/valid", "tests/data/config/invalid"], 500, config::check);
    config::check(include_bytes!("../../config.example"));
}

#[test]
fn admin_requests() {
    replay(&["fuzz/corpus/admin_request"], 500, admin_request::check);
}

#[test]
fn dns_answers() {
    replay(&["fuzz/corpus/dns_answer"], 50, dns_answer::check);
}

#[test]
fn answers_of_sources() {
    replay(&["fuzz/corpus/source_answer"], 100, source_answer::check);
}

#[test]
fn configurations_of_other_balancers() {
    replay(&["tests/data/import"], 30, import::check);
}

#[test]
fn answers_to_probes() {
    replay(&["fuzz/corpus/probe_answer"], 80, probe_answer::check);
}

/// The records of each release that had new ones. Those of 0.2 are of clients with routes.
const RECORDS: [&str; 2] = ["tests/data/records/0.1", "tests/data/records/0.2"];

#[test]
fn transit_records() {
    replay(&[&["fuzz/corpus/transit_record"], &RECORDS[..]].concat(), 40, transit_record::check);
}

#[test]
fn handover_messages() {
    replay(&["fuzz/corpus/handover_message"], 20, handover_message::check);
}

/// A later release still reads what an earlier one has written.
#[test]
fn the_records_of_each_release_are_read() {
    replay(&RECORDS, 10, |bytes| {
        let record: Record = serde_json::from_slice(bytes).expect("a record");
        let pipe = |bytes: usize| (bytes > 0).then_some(());
        let (backend, up, down) = (record.backend.map(|_| ()), pipe(record.up.in_pipe), pipe(record.down.in_pipe));
        Incoming { record, client: (), backend, up, down }.check().expect("its parts fit together");
    });
}

#[test]
fn sessions() {
    replay(&["fuzz/corpus/session"], 500, session::check);
}
