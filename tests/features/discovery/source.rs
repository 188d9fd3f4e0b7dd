//! One source at work, as control has it.

use std::sync::Arc;
use tcplb::discovery::{Found, KINDS, Set, Settings, SourceId, Sources, Standing, Value, Wanted};
use testkit::eventually;

/// A source, and the set that it handed over last.
pub struct Source {
    sources: Sources,
    id: SourceId,
    set: Arc<Set>,
}

impl Source {
    /// Starts a source of this kind, with `on_empty = "keep"`.
    #[track_caller]
    pub fn start(kind: &str, values: &[(&'static str, Value)]) -> Source {
        Source::run(kind, values, false)
    }

    /// Starts one with `on_empty = "clear"`.
    #[track_caller]
    pub fn clearing(kind: &str, values: &[(&'static str, Value)]) -> Source {
        Source::run(kind, values, true)
    }

    #[track_caller]
    fn run(kind: &str, values: &[(&'static str, Value)], clears: bool) -> Source {
        let kind = KINDS.iter().find(|known| known.name == kind).expect("a kind");
        let mut settings = Settings::new(kind);
        for (key, value) in values {
            assert!(kind.keys.iter().any(|known| known.name == *key), "{key} is no key of {}", kind.name);
            settings.set(key, value.clone());
        }
        (kind.check)(&settings).expect("good settings");
        let id = SourceId { pool: "web".to_owned(), label: kind.name.to_owned() };
        let mut sources = Sources::default();
        sources.run(vec![Wanted { id: id.clone(), settings, clears, set: Arc::default() }]);
        Source { sources, id, set: Arc::default() }
    }

    /// The backends of the newest set, by their keys.
    pub fn set(&mut self) -> Arc<Set> {
        if let Some(set) = self.sources.take().remove(&self.id) {
            self.set = set;
        }
        self.set.clone()
    }

    /// The names of the newest set.
    pub fn names(&mut self) -> Vec<String> {
        self.set().values().map(|found| found.name.clone()).collect()
    }

    /// Waits until the set has these names, in their order.
    #[track_caller]
    pub fn wait_for(&mut self, names: &[&str]) {
        eventually(&format!("the set is {names:?}"), || self.names() == names);
    }

    /// A backend of the newest set.
    #[track_caller]
    pub fn found(&mut self, name: &str) -> Found {
        self.set().values().find(|found| found.name == name).expect("a backend").clone()
    }

    /// What the status shows.
    pub fn standing(&self) -> Standing {
        self.sources.standings()[&self.id].lock().clone()
    }

    /// Waits for an error with this text.
    #[track_caller]
    pub fn wait_for_error(&self, text: &str) {
        let is_it = |(_, why): (_, String)| why.contains(text);
        eventually(&format!("an error with `{text}`"), || self.standing().last_error.is_some_and(is_it));
    }

    /// Waits until the source has answered once more.
    #[track_caller]
    pub fn wait_for_an_answer(&self) {
        let before = self.standing().last_success;
        eventually("it answers again", || self.standing().last_success != before);
    }
}
