//! Every setting takes effect: each test starts the real process with two values of a setting and observes the difference
//! from outside. Where a setting has a flag, the flag and the file must do the same.
//!
//! `tests/model/settings.rs` holds the list of keys and flags, and fails for one without a test.

mod backend;
mod global;
mod health;
mod listener;
mod pool;

use crate::support::{At, Conn, Ending, Running, Server, Tcplb};
use std::fs;
use std::ops::Deref;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

/// Long enough that what should happen would have happened; a test pays it only where nothing may happen.
const A_WHILE: Duration = Duration::from_millis(700);

/// A configuration file with one listener and one pool without probes, and the lines that a test adds.
struct File {
    directory: TempDir,
    global: Vec<String>,
    listener: Vec<String>,
    pool: Vec<String>,
    health: Vec<String>,
    backends: Vec<String>,
    rest: String,
}

/// A tcplb with the directory of its file, which lasts as long.
struct Started {
    running: Running,
    _directory: Option<TempDir>,
}

impl Deref for Started {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.running
    }
}

impl File {
    fn empty() -> File {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let none = Vec::new;
        let (global, listener, pool, health, backends) = (none(), none(), none(), none(), none());
        File { directory, global, listener, pool, health, backends, rest: String::new() }
    }

    /// With these backends, named b1, b2 and so on.
    fn over<'a>(backends: impl IntoIterator<Item = &'a At>) -> File {
        backends.into_iter().fold(File::empty(), |file, at| file.backend(at, ""))
    }

    fn global(mut self, line: &str) -> File {
        self.global.push(line.to_owned());
        self
    }

    fn listener(mut self, line: &str) -> File {
        self.listener.push(line.to_owned());
        self
    }

    fn pool(mut self, line: &str) -> File {
        self.pool.push(line.to_owned());
        self
    }

    /// A line of `[pool.health]`, which has `kind = "off"` unless a test writes something there.
    fn health(mut self, line: &str) -> File {
        self.health.push(line.to_owned());
        self
    }

    fn backend(mut self, at: &At, line: &str) -> File {
        let name =
            if line.contains("name =") { String::new() } else { format!("name = \"b{}\"\n", self.backends.len() + 1) };
        self.backends.push(format!("{name}address = \"{at}\"\n{line}"));
        self
    }

    /// Text behind everything else.
    fn and(mut self, text: &str) -> File {
        self.rest.push_str(text);
        self
    }

    /// The path of a file beside it with this text.
    fn beside(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, text).expect("a file in a directory of our own");
        path
    }

    fn write(&self) -> PathBuf {
        let bind =
            if self.listener.iter().any(|line| line.starts_with("bind")) { "" } else { "bind = [\"127.0.0.1:0\"]\n" };
        let health = if self.health.is_empty() { "kind = \"off\"".to_owned() } else { self.health.join("\n") };
        let mut text = format!(
            "[global]\n{}\n[[listener]]\n{bind}{}\n[[pool]]\n{}\n[pool.health]\n{health}\n",
            self.global.join("\n"),
            self.listener.join("\n"),
            self.pool.join("\n"),
        );
        self.backends.iter().for_each(|backend| text.push_str(&format!("[[pool.backend]]\n{backend}\n")));
        self.beside("tcplb.toml", &(text + &self.rest))
    }

    #[track_caller]
    fn start(self) -> Started {
        let running = Tcplb::from_file(&self.write(), 1).start();
        Started { running, _directory: Some(self.directory) }
    }
}

/// The same setting by the file and by flags, over the same servers without probes.
#[track_caller]
fn both(backends: &[&At], section: fn(File, &str) -> File, line: &str, flags: &[&str]) -> [Started; 2] {
    let file = section(File::over(backends.iter().copied()), line).start();
    let tcplb = backends.iter().fold(Tcplb::new(), |tcplb, at| tcplb.backend(at));
    let probes: &[&str] =
        if flags.iter().any(|flag| flag.starts_with("--health") || *flag == "-t") { &[] } else { &["--health", "off"] };
    let running = tcplb.args(flags.iter().copied()).args(probes.iter().copied()).start();
    [file, Started { running, _directory: None }]
}

/// A backend that echoes.
fn echo() -> Server {
    Server::start(crate::support::peers::echo)
}

/// A backend that says its name, then echoes.
fn named(name: &str) -> Server {
    Server::start(crate::support::peers::named(name))
}

/// The client is connected to a backend that echoes.
#[track_caller]
fn assert_served(client: &Conn) {
    client.assert_echoes("served\n");
}

/// The next client is reset before a byte.
#[track_caller]
fn assert_next_is_reset(tcplb: &Running) {
    assert_eq!(tcplb.ending_of_next(), Ending::Reset);
}

/// A second client beside a first one: served at once, or left to wait.
#[track_caller]
fn assert_second(tcplb: &Running, served: bool) {
    let first = tcplb.connect();
    assert_served(&first);
    // Only now: another worker may accept the later one first.
    let second = Conn::attempt(tcplb.at());
    second.say("served\n");
    if served {
        assert_eq!(second.hear_line(), "served");
    } else {
        assert!(!second.has_something_within(A_WHILE), "a place more than the limit");
    }
}

/// The address of the admin API and one call of it.
#[track_caller]
fn call(tcplb: &Running, request: &str) -> String {
    let admin = crate::support::Admin::of(tcplb).connect();
    admin.say(format!("{request} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    String::from_utf8_lossy(&admin.hear_all()).into_owned()
}
