//! The last events: what changed, when, and by what.
//!
//! A fixed number of events is kept; a new one displaces the oldest. Each has a number, from 1 upwards without gaps, so
//! that a reader sees that it has missed some. Texts are cut, so the memory is bounded.
//!
//! The main thread records the start, sources record their outages, control and the prober record the other events; no worker
//! does. Recording takes one lock for a moment. Callers of the admin API read them. A reader that waits for the next event sets a mark ([`Events::awaits`]); the next event calls the reader's
//! waker once.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

/// The number of events that are kept.
pub const KEPT: usize = 10_000;
/// The most bytes of an event's reason.
pub const REASON_MAX: usize = 1000;
/// The most bytes of an old or a new value.
pub const VALUE_MAX: usize = 200;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// tcplb has started.
    Start,
    /// A backend has another state.
    BackendState,
    /// The configuration has changed.
    Config,
    /// A reload was refused.
    ReloadFailed,
    /// A pool has lost its last usable backend.
    PoolEmpty,
    /// Such a pool has a usable backend again.
    PoolServes,
    /// The process, a listener or a backend has as many connections as its limit allows.
    LimitReached,
    /// It has clearly fewer again.
    LimitLeft,
    /// A drain of the process begins or is over, or a drain of a backend is over.
    Drain,
    /// A new process has taken over, or has failed to.
    Upgrade,
    /// A source of backends fails.
    SourceFailed,
    /// Such a source answers again.
    SourceBack,
    /// The kernel keeps its last rules, since a change of them failed.
    KernelFailed,
    /// The kernel's rules are as they should be again.
    KernelBack,
}

/// A [`Recorded`] event for another process, whose version may know other kinds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedEvent {
    seq: u64,
    at: SystemTime,
    kind: String,
    by: String,
    pool: Option<String>,
    backend: Option<String>,
    from: Option<String>,
    to: Option<String>,
    reason: Option<String>,
}

/// The originator of an event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum By {
    /// The configuration file.
    File,
    /// A caller of the admin API.
    Api,
    /// Probes, and clients that could not connect.
    Health,
    /// A name server: a backend's name has an address now.
    Names,
    /// SIGTERM or SIGINT.
    Signal,
    /// The source of this label, in the pool of the event.
    Discovery(Arc<str>),
    /// tcplb itself.
    Tcplb,
}

/// An event before it is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: Kind,
    /// The originator.
    pub by: By,
    /// The pool it concerns.
    pub pool: Option<String>,
    /// The backend it concerns.
    pub backend: Option<String>,
    /// The state or value before.
    pub from: Option<String>,
    /// The state or value after.
    pub to: Option<String>,
    /// Why, or what in particular, as a sentence.
    pub reason: Option<String>,
}

/// An event with its number and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Its number. The first event of the process has 1.
    pub seq: u64,
    /// When it was recorded.
    pub at: SystemTime,
    /// The event.
    pub event: Event,
}

/// The last events; see the module.
pub struct Events {
    kept: usize,
    ring: Mutex<Ring>,
}

type Waker = Box<dyn Fn() + Send>;

#[derive(Default)]
struct Ring {
    events: VecDeque<Arc<Recorded>>,
    last: u64,
    /// A reader waits for the next event.
    awaited: bool,
    waker: Option<Waker>,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 14] = [
        Kind::Start,
        Kind::BackendState,
        Kind::Config,
        Kind::ReloadFailed,
        Kind::PoolEmpty,
        Kind::PoolServes,
        Kind::LimitReached,
        Kind::LimitLeft,
        Kind::Drain,
        Kind::Upgrade,
        Kind::SourceFailed,
        Kind::SourceBack,
        Kind::KernelFailed,
        Kind::KernelBack,
    ];

    /// Its word in the API.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Start => "start",
            Kind::BackendState => "backend_state",
            Kind::Config => "config",
            Kind::ReloadFailed => "reload_failed",
            Kind::PoolEmpty => "pool_empty",
            Kind::PoolServes => "pool_serves",
            Kind::LimitReached => "limit_reached",
            Kind::LimitLeft => "limit_left",
            Kind::Drain => "drain",
            Kind::Upgrade => "upgrade",
            Kind::SourceFailed => "source_failed",
            Kind::SourceBack => "source_back",
            Kind::KernelFailed => "kernel_failed",
            Kind::KernelBack => "kernel_back",
        }
    }
}

impl By {
    /// Its word in the API.
    pub fn word(&self) -> Cow<'static, str> {
        let word = match self {
            By::File => "file",
            By::Api => "api",
            By::Health => "health",
            By::Names => "names",
            By::Signal => "signal",
            By::Discovery(label) => return format!("discovery:{label}").into(),
            By::Tcplb => "tcplb",
        };
        word.into()
    }

    /// The originator of this word; `None` if there is none.
    fn parse(word: &str) -> Option<By> {
        let all = [By::File, By::Api, By::Health, By::Names, By::Signal, By::Tcplb];
        let label = word.strip_prefix("discovery:").map(|label| By::Discovery(label.into()));
        label.or_else(|| all.into_iter().find(|by| by.word() == word))
    }
}

impl From<&Recorded> for SavedEvent {
    fn from(Recorded { seq, at, event }: &Recorded) -> SavedEvent {
        let Event { kind, by, pool, backend, from, to, reason } = event.clone();
        let (kind, by) = (kind.word().to_owned(), by.word().into_owned());
        SavedEvent { seq: *seq, at: *at, kind, by, pool, backend, from, to, reason }
    }
}

impl SavedEvent {
    /// `None` if its kind or its originator is unknown here.
    fn event(&self) -> Option<Event> {
        let kind = Kind::ALL.into_iter().find(|kind| kind.word() == self.kind)?;
        let SavedEvent { pool, backend, from, to, reason, .. } = self.clone();
        Some(Event { kind, by: By::parse(&self.by)?, pool, backend, from, to, reason })
    }
}

impl Event {
    /// An event of the process.
    pub fn new(kind: Kind, by: By) -> Event {
        Event { kind, by, pool: None, backend: None, from: None, to: None, reason: None }
    }

    /// It concerns this pool.
    #[must_use]
    pub fn of_pool(self, pool: &str) -> Event {
        Event { pool: Some(pool.to_owned()), ..self }
    }

    /// It concerns this backend of this pool.
    #[must_use]
    pub fn of_backend(self, pool: &str, backend: &str) -> Event {
        Event { backend: Some(backend.to_owned()), ..self.of_pool(pool) }
    }

    /// The state or value changed like this.
    #[must_use]
    pub fn changed(self, from: &str, to: &str) -> Event {
        Event { from: Some(cut(from, VALUE_MAX)), to: Some(cut(to, VALUE_MAX)), ..self }
    }

    /// The reason.
    #[must_use]
    pub fn because(self, reason: impl fmt::Display) -> Event {
        Event { reason: Some(cut(&reason.to_string(), REASON_MAX)), ..self }
    }
}

/// The text, or its beginning with an ellipsis: at most `most` bytes.
fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let most = most.saturating_sub('…'.len_utf8());
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &text[..end])
}

impl Default for Events {
    fn default() -> Self {
        Events::keeping(KEPT)
    }
}

impl Events {
    /// Keeps so many events.
    fn keeping(kept: usize) -> Events {
        Events { kept, ring: Mutex::default() }
    }

    /// Records an event and wakes the readers that wait.
    pub fn record(&self, event: Event) {
        self.record_at(event, SystemTime::now());
    }

    fn record_at(&self, event: Event, at: SystemTime) {
        let mut ring = self.ring.lock();
        ring.last += 1;
        let recorded = Recorded { seq: ring.last, at, event };
        if ring.events.len() >= self.kept {
            ring.events.pop_front();
        }
        ring.events.push_back(Arc::new(recorded));
        if std::mem::take(&mut ring.awaited)
            && let Some(wake) = &ring.waker
        {
            wake();
        }
    }

    /// Makes the events of the process before the first ones of this one. `last` is the number of the last of them.
    pub fn restore(&self, events: &[SavedEvent], last: u64) {
        let mut ring = self.ring.lock();
        let known = events
            .iter()
            .filter_map(|saved| Some(Arc::new(Recorded { seq: saved.seq, at: saved.at, event: saved.event()? })));
        // Numbers have no gaps, so that events before one that is unknown here can't be kept.
        let mut before = last.saturating_add(1);
        let mut kept: VecDeque<Arc<Recorded>> = VecDeque::new();
        for event in known.rev().take(self.kept) {
            if event.seq.checked_add(1) != Some(before) {
                break;
            }
            before = event.seq;
            kept.push_front(event);
        }
        (ring.events, ring.last) = (kept, last);
    }

    /// Adds events that the process before has recorded since [`Events::restore`].
    pub fn append(&self, events: &[SavedEvent]) {
        for saved in events {
            if let Some(event) = saved.event() {
                self.record_at(event, saved.at);
            }
        }
    }

    /// The events that `since` lacks, oldest first, at most the last `most`; and the number of the last one. A number that is
    /// not given out yet is from an earlier process, which lacks all of them.
    pub fn since(&self, since: u64, most: usize) -> (Vec<Arc<Recorded>>, u64) {
        let ring = self.ring.lock();
        let lacking = ring.lacking(since).min(most);
        (ring.events.range(ring.events.len() - lacking..).cloned().collect(), ring.last)
    }

    /// How many events [`Events::since`] gives without a bound.
    pub fn lacking(&self, since: u64) -> usize {
        self.ring.lock().lacking(since)
    }

    /// Whether a reader that has seen all events up to `since` has to wait for the next one, which then wakes it.
    pub fn awaits(&self, since: u64) -> bool {
        let mut ring = self.ring.lock();
        let waits = since == ring.last;
        ring.awaited |= waits;
        waits
    }

    /// Calls `waker` when there is an event that a reader waits for. It must neither wait nor read events.
    pub fn set_waker(&self, waker: impl Fn() + Send + 'static) {
        self.ring.lock().waker = Some(Box::new(waker));
    }
}

impl Ring {
    fn lacking(&self, since: u64) -> usize {
        let since = if since > self.last { 0 } else { since };
        usize::try_from(self.last - since).unwrap_or(usize::MAX).min(self.events.len())
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Events").field("last", &self.ring.lock().last).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn numbered(number: u64) -> Event {
        Event::new(Kind::Config, By::Api).because(number)
    }

    fn seqs(events: &Events, since: u64) -> Vec<u64> {
        events.since(since, KEPT).0.iter().map(|event| event.seq).collect()
    }

    #[test]
    fn numbers_begin_at_one_and_have_no_gaps() {
        let events = Events::default();
        assert_eq!(events.since(0, KEPT), (Vec::new(), 0));
        (1..=3).for_each(|number| events.record(numbered(number)));
        assert_eq!((seqs(&events, 0), seqs(&events, 2), seqs(&events, 3)), (vec![1, 2, 3], vec![3], vec![]));
        assert_eq!(events.since(3, KEPT).1, 3);
    }

    #[test]
    fn a_number_of_an_earlier_process_lacks_everything() {
        let events = Events::default();
        events.record(numbered(1));
        assert_eq!((seqs(&events, 2), seqs(&events, u64::MAX)), (vec![1], vec![1]));
        assert!(!events.awaits(u64::MAX), "there is something that the reader has not seen");
    }

    #[test]
    fn ten_thousand_are_kept_and_a_gap_shows_in_the_numbers() {
        let events = Events::default();
        (1..=KEPT as u64 + 5).for_each(|number| events.record(numbered(number)));
        let all = seqs(&events, 0);
        assert_eq!((all.len(), all.first(), all.last()), (KEPT, Some(&6), Some(&(KEPT as u64 + 5))));
        assert_eq!(seqs(&events, 2).first(), Some(&6), "3 to 5 are gone");
    }

    #[test]
    fn a_reader_that_waits_is_woken_once() {
        let events = Events::default();
        let woken = Arc::new(AtomicUsize::new(0));
        let count = woken.clone();
        events.set_waker(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        events.record(numbered(1));
        assert_eq!(woken.load(Ordering::Relaxed), 0, "no reader waits");
        assert!(!events.awaits(0) && events.awaits(1));
        events.record(numbered(2));
        events.record(numbered(3));
        assert_eq!(woken.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn texts_are_cut() {
        let event = numbered(1).changed(&"é".repeat(500), "x").because("a".repeat(REASON_MAX + 1));
        let (from, reason) = (event.from.unwrap(), event.reason.unwrap());
        assert!(from.len() <= VALUE_MAX && from.ends_with("é…"), "{from}");
        assert_eq!((reason.len(), reason.ends_with("a…")), (REASON_MAX, true));
        assert_eq!(cut(&"a".repeat(VALUE_MAX), VALUE_MAX), "a".repeat(VALUE_MAX));
    }

    proptest! {
        /// Compared with the plain list of all events.
        #[test]
        fn a_reader_gets_what_it_lacks_in_order(kept in 1usize..20, recorded in 0u64..60, since in 0u64..80, most in 1usize..80) {
            let events = Events::keeping(kept);
            (1..=recorded).for_each(|number| events.record(numbered(number)));
            let from = if since > recorded { 0 } else { since };
            let lacking: Vec<u64> = (from + 1..=recorded).collect();
            let want = &lacking[lacking.len().saturating_sub(kept)..];
            prop_assert_eq!(events.lacking(since), want.len());
            let (found, next) = events.since(since, most);
            let want = &want[want.len().saturating_sub(most)..];
            prop_assert_eq!(found.iter().map(|event| event.seq).collect::<Vec<_>>(), want);
            prop_assert!(found.iter().all(|event| event.event == numbered(event.seq)));
            prop_assert_eq!(next, recorded);
            prop_assert_eq!(events.awaits(since), since == recorded);
        }
    }
}
