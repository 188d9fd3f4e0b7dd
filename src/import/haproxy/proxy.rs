//! The lines of a proxy (`defaults`, `frontend`, `listen`, `backend`), read one after the other.
//!
//! A proxy begins as a copy of its defaults, so a line of `defaults` is read, and reported, once. What needs several lines
//! together (rules, servers, checks) is kept as lines here; `listener` and `pool` read them.

use super::server::Options;
use super::tables::{PROXY, RENAMED};
use super::value;
use super::words::{Line, Word};
use crate::import::keywords::{Fate, Keyword, find};
use crate::import::note::Notes;
use std::collections::BTreeMap;
use std::time::Duration;

/// A value, and the line that it is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At<T>(pub usize, pub T);

/// A section with its defaults.
#[derive(Clone, Debug, Default)]
pub struct Proxy {
    pub kind: String,
    pub name: String,
    pub line: usize,
    /// What stands behind its name.
    pub extra: Option<String>,
    pub http: bool,
    pub disabled: bool,
    pub balance: Option<Line>,
    /// `timeout NAME`.
    pub timeouts: BTreeMap<String, At<Duration>>,
    pub max_connections: Option<At<u64>>,
    pub retries: Option<u64>,
    pub default_backend: Option<At<String>>,
    /// Options that are on, by their names.
    pub options: BTreeMap<&'static str, usize>,
    /// The check of the pool: the line of `option httpchk` and the like.
    pub check: Option<Line>,
    /// The rules of `tcp-check` or `http-check`.
    pub check_rules: Vec<Line>,
    /// Whether these are from the section itself. Otherwise its first rule replaces them.
    own_check_rules: bool,
    pub inspect_delay: Option<At<Duration>>,
    pub server_options: Options,
    pub logs: bool,
    pub binds: Vec<Line>,
    pub acls: Vec<Line>,
    /// `tcp-request …` with an action.
    pub rules: Vec<Line>,
    pub use_backend: Vec<Line>,
    /// `server` and `server-template`.
    pub servers: Vec<Line>,
    pub dispatch: Option<Line>,
    pub stick: Vec<Line>,
    pub stick_table: Option<Line>,
    pub has_stats: bool,
}

/// Options that set the check. The last one holds.
const CHECKS: [&str; 10] = [
    "option httpchk",
    "option tcp-check",
    "option ldap-check",
    "option mysql-check",
    "option pgsql-check",
    "option redis-check",
    "option smtpchk",
    "option external-check",
    "option spop-check",
    "option ssl-hello-chk",
];

impl Proxy {
    /// A section that begins with these defaults.
    pub fn begin(defaults: &Proxy, kind: &str, name: &str, line: usize) -> Proxy {
        let (kind, name) = (kind.to_owned(), name.to_owned());
        Proxy { kind, name, line, own_check_rules: false, ..defaults.clone() }
    }

    /// How messages call it.
    pub fn shown(&self) -> String {
        format!("{} {}", self.kind, self.name).trim_end().to_owned()
    }

    /// Reads a line.
    pub fn read(&mut self, line: &Line, notes: &mut Notes) {
        let line = &renamed(line);
        let negated = match line.word(0) {
            "no" => Some(false),
            // Back to the default, which is off for all options.
            "default" => Some(false),
            _ => None,
        };
        let at = usize::from(negated.is_some());
        let Some((keyword, length)) = keyword(line, at) else {
            let (first, second) = (line.word(at), line.word(at + 1));
            let begins = |known: &Keyword| known.name.strip_prefix(first).is_some_and(|rest| rest.starts_with(' '));
            let shown = if PROXY.iter().any(begins) { format!("{first} {second}") } else { first.to_owned() };
            return notes.refused(line.number, format!("{}: HAProxy 2.6 has no such keyword", shown.trim_end()));
        };
        if negated.is_some() {
            return self.negate(keyword, line, notes);
        }
        self.has_stats |= keyword.name.starts_with("stats ");
        if CHECKS.contains(&keyword.name) {
            // A check that is lost is reported where a server asks for it.
            self.check = Some(line.clone());
            return;
        }
        if keyword.fate == Fate::Refused && self.http {
            return;
        }
        if keyword.is_lost(line.number, notes) || is_unknown(line, notes) {
            return;
        }
        self.take(keyword, line, at + length, notes);
    }

    fn negate(&mut self, keyword: &'static Keyword, line: &Line, notes: &mut Notes) {
        match keyword.name {
            "log" => self.logs = false,
            name if CHECKS.contains(&name) => self.check = None,
            name if name.starts_with("option ") => drop(self.options.remove(name)),
            name => notes.refused(line.number, format!("no {name}: only options and log can be undone")),
        }
    }

    /// Takes in a line that is kept. Its values begin at this word.
    fn take(&mut self, keyword: &'static Keyword, line: &Line, at: usize, notes: &mut Notes) {
        let wrong = |notes: &mut Notes, expected: &str| {
            notes.refused(line.number, format!("{}: expected {expected}, got `{}`", keyword.name, line.word(at)));
        };
        let number = || line.word(at).parse::<u64>().ok();
        match keyword.name {
            "mode" => match line.word(at) {
                "tcp" => self.http = false,
                "http" => self.http = true,
                _ => wrong(notes, "tcp or http"),
            },
            "disabled" => self.disabled = true,
            "enabled" => self.disabled = false,
            "balance" => self.balance = Some(line.clone()),
            "maxconn" => match number() {
                Some(number) => self.max_connections = (number > 0).then_some(At(line.number, number)),
                None => wrong(notes, "a number"),
            },
            "retries" => match number() {
                Some(number) => self.retries = Some(number),
                None => wrong(notes, "a number"),
            },
            "default_backend" => self.default_backend = Some(At(line.number, line.word(at).to_owned())),
            "default-server" => self.server_options.read(line, at, notes),
            // An option of a server with the same words.
            "source" => self.server_options.read(line, at - 1, notes),
            "bind" => self.binds.push(line.clone()),
            "acl" => self.acls.push(line.clone()),
            "server" | "server-template" => self.servers.push(line.clone()),
            "dispatch" => self.dispatch = Some(line.clone()),
            "stick-table" => self.stick_table = Some(line.clone()),
            "use_backend" => self.use_backend.push(line.clone()),
            "log" => self.logs = true,
            "tcp-request inspect-delay" => match value::time(line.word(at)) {
                Some(time) => self.inspect_delay = Some(At(line.number, time)),
                None => wrong(notes, "a time"),
            },
            name if name.starts_with("timeout ") => match value::time(line.word(at)) {
                Some(time) => {
                    let name = name.trim_start_matches("timeout ").to_owned();
                    self.timeouts.insert(name, At(line.number, time));
                }
                None => wrong(notes, "a time"),
            },
            name if name.starts_with("tcp-request ") => self.rules.push(line.clone()),
            name if name.starts_with("tcp-check ") || name.starts_with("http-check ") => {
                if !self.own_check_rules {
                    self.check_rules.clear();
                    self.own_check_rules = true;
                }
                self.check_rules.push(line.clone());
            }
            name if name.starts_with("stick ") => self.stick.push(line.clone()),
            name if name.starts_with("option ") => drop(self.options.insert(name, line.number)),
            // What tcplb always does, or does without.
            _ => {}
        }
    }

    /// A time-out. `infinite` as zero has no end.
    pub fn timeout(&self, name: &str) -> Option<Duration> {
        self.timeouts.get(name).map(|At(_, time)| *time).filter(|time| !time.is_zero())
    }

    /// Whether the option is on.
    pub fn has(&self, option: &str) -> bool {
        self.options.contains_key(option)
    }
}

/// The keyword that stands at this word, and the number of its words.
pub fn keyword(line: &Line, at: usize) -> Option<(&'static Keyword, usize)> {
    (1..=3).rev().find_map(|length| {
        let words: Vec<&str> = line.from(at).take(length).collect();
        (words.len() == length).then(|| find(PROXY, &words.join(" "))).flatten().map(|keyword| (keyword, length))
    })
}

/// The line with a keyword of today.
fn renamed(line: &Line) -> Line {
    match RENAMED.iter().find(|(old, _)| *old == line.word(0)) {
        Some((_, new)) => {
            let word =
                |text: &&str| Word { text: (*text).to_owned(), bytes: text.as_bytes().to_vec(), ..Word::default() };
            let words = new.iter().map(word).chain(line.words.iter().skip(1).cloned()).collect();
            Line { number: line.number, words }
        }
        None => line.clone(),
    }
}

/// Whether the line needs the value of an environment variable. That is reported, as is each default that is taken.
pub fn is_unknown(line: &Line, notes: &mut Notes) -> bool {
    let (variables, defaults) =
        (line.words.iter().flat_map(|word| &word.variables), line.words.iter().flat_map(|word| &word.defaults));
    for name in defaults {
        notes.changed(line.number, format!("{}: the environment variable {name} counts as its default", line.word(0)));
    }
    let variables: Vec<&str> = variables.map(String::as_str).collect();
    if !variables.is_empty() {
        let names = variables.join(", ");
        notes.refused(
            line.number,
            format!(
                "{}: the environment variable {names} is not known here; write its value into the file",
                line.word(0)
            ),
        );
    }
    !variables.is_empty()
}
