use super::super::{Found, Item, Kind};
use super::*;
use crate::base::{Address, AdminState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const SHORT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(4));
const PATIENCE: Duration = Duration::from_secs(30);

fn item(key: &str) -> Item {
    let address = Address::Inet(([10, 0, 0, 1], 80).into());
    let state = AdminState::Enabled;
    let found = Found { name: key.to_owned(), address, weight: None, max_connections: None, backup: None, state };
    Item::new(key, Ok(found))
}

fn kind(name: &'static str, run: fn(&Settings, &mut Feed) -> Result<(), String>) -> &'static Kind {
    Box::leak(Box::new(Kind { name, doc: "", keys: &[], watches: &[], reads: |_| Vec::new(), check: |_| Ok(()), run }))
}

fn pausing(pauses: (Duration, Duration)) -> Sources {
    Sources { pauses, ..Sources::default() }
}

fn id(label: &str) -> SourceId {
    SourceId { pool: "web".to_owned(), label: label.to_owned() }
}

fn wanted(kind: &'static Kind) -> Wanted {
    Wanted { id: id(kind.name), settings: Settings::new(kind), clears: false, set: Arc::default() }
}

fn next(sources: &Sources) -> Vec<String> {
    sources.wakes().recv_timeout(PATIENCE).expect("a set");
    sources.take().into_values().flat_map(|set| set.keys().cloned().collect::<Vec<_>>()).collect()
}

/// Waits until no thread of a source is left.
fn wait_for_threads(sources: &Sources) {
    let end = Instant::now() + PATIENCE;
    while Arc::strong_count(&sources.threads) > 1 {
        assert!(Instant::now() < end, "a thread lingers");
        thread::yield_now();
    }
}

#[test]
fn a_source_that_fails_is_asked_again_and_keeps_its_set() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let flaky = kind("flaky", |_, feed| {
        let call = CALLS.fetch_add(1, Ordering::Relaxed);
        match call {
            0 => feed.replace(vec![item("a")]),
            1..5 => Err(format!("failure {call}")),
            5 => feed.replace(vec![item("a"), item("b")]),
            _ if feed.wait(PATIENCE) => Err("late".to_owned()),
            _ => Ok(()),
        }
    });
    let mut sources = pausing(SHORT);
    sources.run(vec![wanted(flaky)]);
    assert_eq!(next(&sources), ["a"]);
    assert_eq!(next(&sources), ["a", "b"]);
    let standings = sources.standings();
    let standing = standings[&id("flaky")].lock().clone();
    assert_eq!((standing.errors, standing.backends, standing.is_well()), (4, 2, true));
    assert_eq!(standing.last_error.unwrap().1, "failure 4");
    sources.run(Vec::new());
    wait_for_threads(&sources);
}

#[test]
fn a_source_that_is_removed_hands_over_nothing_any_more() {
    static REMOVED: AtomicBool = AtomicBool::new(false);
    let stubborn = kind("stubborn", |_, feed| {
        feed.replace(vec![item("a")])?;
        while !REMOVED.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        feed.replace(vec![item("late")])
    });
    let mut sources = pausing(SHORT);
    sources.run(vec![wanted(stubborn)]);
    assert_eq!(next(&sources), ["a"]);
    sources.run(Vec::new());
    REMOVED.store(true, Ordering::Relaxed);
    wait_for_threads(&sources);
    assert!(sources.take().is_empty());
}

#[test]
fn equal_settings_go_on_and_other_ones_restart_with_the_set_so_far() {
    static STARTS: AtomicUsize = AtomicUsize::new(0);
    let counts = kind("counts", |_, feed| {
        let start = STARTS.fetch_add(1, Ordering::Relaxed);
        let mut items: Vec<Item> = feed.set().keys().map(|key| item(key)).collect();
        items.push(item(&format!("start {start}")));
        feed.replace(items)?;
        feed.wait(PATIENCE);
        Ok(())
    });
    let mut sources = pausing(SHORT);
    sources.run(vec![wanted(counts)]);
    assert_eq!(next(&sources), ["start 0"]);
    sources.run(vec![wanted(counts)]);
    let set = [item("start 0")].map(|item| (item.key, item.found.unwrap())).into();
    sources.run(vec![Wanted { clears: true, set: Arc::new(set), ..wanted(counts) }]);
    assert_eq!(next(&sources), ["start 0", "start 1"]);
    assert_eq!(STARTS.load(Ordering::Relaxed), 2, "the same source went on");
    sources.run(Vec::new());
    wait_for_threads(&sources);
}

#[test]
fn threads_that_linger_are_bounded_and_the_next_source_starts_once_they_end() {
    static HOLD: AtomicBool = AtomicBool::new(true);
    let slow = kind("slow", |_, feed| {
        let _ = feed.replace(vec![item("a")]);
        while HOLD.load(Ordering::Relaxed) {
            thread::park_timeout(Duration::from_millis(1));
        }
        Ok(())
    });
    let mut sources = pausing(SHORT);
    for number in 0..LINGERING_MAX + 10 {
        sources.run(vec![wanted(slow)]);
        if number < LINGERING_MAX {
            // A thread that is removed before it asks its source ends at once.
            assert_eq!(next(&sources), ["a"]);
        }
        sources.run(Vec::new());
    }
    assert_eq!(Arc::strong_count(&sources.threads) - 1, LINGERING_MAX);
    sources.run(vec![wanted(slow)]);
    sources.start_waiting();
    let standing = || sources.standings()[&id("slow")].lock().clone();
    assert_eq!((standing().errors, standing().is_well()), (1, false));
    assert!(standing().last_error.unwrap().1.contains("32 threads of removed sources"));
    HOLD.store(false, Ordering::Relaxed);
    wait_for_threads(&sources);
    sources.start_waiting();
    while sources.take().is_empty() {
        sources.wakes().recv_timeout(PATIENCE).expect("its set");
    }
    assert!(sources.standings()[&id("slow")].lock().is_well());
}

#[test]
fn a_source_whose_stay_ends_at_once_is_not_called_without_a_pause() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let hasty = kind("hasty", |_, feed| {
        CALLS.fetch_add(1, Ordering::Relaxed);
        feed.replace(vec![item("a")])
    });
    let mut sources = pausing((PATIENCE, PATIENCE));
    sources.run(vec![wanted(hasty)]);
    assert_eq!(next(&sources), ["a"]);
    sources.run(Vec::new());
    wait_for_threads(&sources);
    assert_eq!(CALLS.load(Ordering::Relaxed), 1, "a stop ends the pause");
}

#[test]
fn a_source_that_fails_soon_after_each_answer_is_in_one_outage() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let weak = kind("weak", |_, feed| {
        feed.replace(vec![item("a")])?;
        Err(format!("ended the watch of server {}", CALLS.fetch_add(1, Ordering::Relaxed) % 2))
    });
    let reported = Arc::new(Mutex::new(Vec::new()));
    let reports = reported.clone();
    let report: Report = Arc::new(move |id: &SourceId, error: Option<&str>| {
        reports.lock().push((id.label.clone(), error.map(str::to_owned)))
    });
    let mut sources = Sources { report, ..pausing(SHORT) };
    sources.run(vec![wanted(weak)]);
    let end = Instant::now() + PATIENCE;
    while CALLS.load(Ordering::Relaxed) < 20 {
        assert!(Instant::now() < end, "it is asked again");
        thread::yield_now();
    }
    sources.run(Vec::new());
    wait_for_threads(&sources);
    let ended = |number| Some(format!("ended the watch of server {number}"));
    let want = [ended(0), None, ended(1)].map(|error| ("weak".to_owned(), error));
    assert_eq!(*reported.lock(), want);
}
