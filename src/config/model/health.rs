//! How the backends of a pool are probed.

use crate::config::words::Words;
use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Look, LookSet};
use std::sync::Arc;
use std::time::Duration;

/// How a pool's backends are probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The kind of probe.
    pub kind: HealthKind,
    /// The state of a backend before its first probe. Never `Down` where nothing is probed.
    pub initial: InitialHealth,
    /// The port to probe; `None`: the backend's port.
    pub port: Option<u16>,
    /// The time between two probes of a backend.
    pub interval: Duration,
    /// The time-out of a probe; at most `interval`.
    pub timeout: Duration,
    /// Successes in a row that mark a backend up; at least one.
    pub rise: u32,
    /// Failures in a row that mark it down; at least one.
    pub fall: u32,
}

/// The state of a backend before its first probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InitialHealth {
    /// It takes clients.
    #[default]
    Up,
    /// It takes no client until a probe has passed.
    Down,
}

impl Words for InitialHealth {
    const NAMES: &'static [(&'static str, InitialHealth)] = &[("up", InitialHealth::Up), ("down", InitialHealth::Down)];
}

/// The kind of probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthKind {
    /// Connects.
    Tcp,
    /// Connects and sends `GET path`; a status in `expect` is a success.
    Http {
        /// The path, beginning with `/`.
        path: String,
        /// The `Host` header; `None`: the backend's address.
        host: Option<String>,
        /// Accepted status codes, inclusive ranges.
        expect: Vec<(u16, u16)>,
    },
    /// Connects to the port of an agent ([`Health::port`], which is there) and reads a line about load and state.
    Agent,
    /// Connects, and then sends and expects bytes.
    Script {
        /// In this order; at least one.
        steps: Vec<Step>,
    },
    /// Nothing marks a backend down; a failed connect excludes it for a short back-off.
    Off,
}

impl HealthKind {
    /// An HTTP probe with the defaults.
    pub fn http() -> HealthKind {
        HealthKind::Http { path: "/".to_owned(), host: None, expect: vec![(200, 200)] }
    }

    /// The kind without its parameters.
    pub fn probe(&self) -> Probe {
        match self {
            HealthKind::Tcp => Probe::Tcp,
            HealthKind::Http { .. } => Probe::Http,
            HealthKind::Agent => Probe::Agent,
            HealthKind::Script { .. } => Probe::Script,
            HealthKind::Off => Probe::Off,
        }
    }
}

/// The kinds of probes, as settings name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// [`HealthKind::Tcp`].
    Tcp,
    /// [`HealthKind::Http`].
    Http,
    /// [`HealthKind::Agent`].
    Agent,
    /// [`HealthKind::Script`].
    Script,
    /// [`HealthKind::Off`].
    Off,
}

impl Words for Probe {
    const NAMES: &'static [(&'static str, Probe)] = &[
        ("tcp", Probe::Tcp),
        ("http", Probe::Http),
        ("agent", Probe::Agent),
        ("script", Probe::Script),
        ("off", Probe::Off),
    ];
}

/// The most bytes of an answer that a step looks at. A longer expectation could not be met.
pub const EXPECT_MAX: usize = 16 * 1024;

/// A step of a script. An expectation looks at the bytes that no expectation before it has used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// The next bytes are these.
    Expect(Vec<u8>),
    /// Somewhere in the next bytes there is a match.
    ExpectRegex(Pattern),
}

/// A regular expression of bytes. Equal ones have the same text.
#[derive(Clone, Debug)]
pub struct Pattern(Arc<Regex>);

impl Pattern {
    /// The most memory that one takes.
    const SIZE_MAX: usize = 1024 * 1024;

    /// Reads it. `.` and `\xHH` mean bytes, since answers need not be UTF-8.
    pub fn new(text: &str) -> Result<Pattern, String> {
        let mut builder = RegexBuilder::new(text);
        let built = builder.unicode(false).size_limit(Self::SIZE_MAX).dfa_size_limit(Self::SIZE_MAX).build();
        let parsed = ParserBuilder::new().unicode(false).utf8(false).build().parse(text);
        // More bytes may follow, so it is never known that an answer has ended.
        let beginnings = LookSet::singleton(Look::Start).union(LookSet::singleton(Look::StartLF));
        if parsed.is_ok_and(|parsed| !parsed.properties().look_set().subtract(beginnings).is_empty()) {
            return Err(format!("expected no `$`, `\\z` or `\\b`, since more bytes may follow, got `{text}`"));
        }
        built.map(|regex| Pattern(Arc::new(regex))).map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => format!("expected a smaller regular expression, got `{text}`"),
            // Its last line says what is wrong, behind lines that point to the place.
            error => {
                let why = error.to_string();
                let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                format!("expected a regular expression, got `{text}`: {why}")
            }
        })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        self.0.as_str()
    }

    /// The length of the shortest beginning of `bytes` with a match in it.
    pub fn shortest_in(&self, bytes: &[u8]) -> Option<usize> {
        if !self.0.is_match(bytes) {
            return None;
        }
        // A match stays one, whatever follows.
        let (mut without, mut with) = (0, bytes.len());
        while without < with {
            let middle = without.midpoint(with);
            if self.0.is_match(&bytes[..middle]) {
                with = middle;
            } else {
                without = middle + 1;
            }
        }
        Some(with)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text() == other.text()
    }
}

impl Eq for Pattern {}

impl Default for Health {
    fn default() -> Self {
        Health {
            kind: HealthKind::Tcp,
            initial: InitialHealth::Up,
            port: None,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
        }
    }
}
