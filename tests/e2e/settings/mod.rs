//! Every setting takes effect: each test starts the real process with two values of a setting and observes the difference
//! from outside. Where a setting has a flag, the flag and the file must do the same.
//!
//! `tests/model/settings.rs` holds the list of keys and flags, and fails for one without a test.

mod backend;
mod global;
mod health;
mod listener;
mod pool;
mod route;

use std::time::Duration;
use testkit::{Admin, At, ConfigFile, Conn, Ending, Running, Server, Started, Tcplb, peers};

/// Long enough that what should happen would have happened; a test pays it only where nothing may happen.
const A_WHILE: Duration = Duration::from_millis(700);

/// The same setting by the file and by flags, over the same servers without probes.
#[track_caller]
fn both(backends: &[&At], section: fn(ConfigFile, &str) -> ConfigFile, line: &str, flags: &[&str]) -> [Started; 2] {
    let file = section(ConfigFile::over(backends.iter().copied()), line).start();
    let tcplb = backends.iter().fold(Tcplb::new(), |tcplb, at| tcplb.backend(at));
    let probes: &[&str] =
        if flags.iter().any(|flag| flag.starts_with("--health") || *flag == "-t") { &[] } else { &["--health", "off"] };
    let running = tcplb.args(flags.iter().copied()).args(probes.iter().copied()).start();
    [file, running.into()]
}

/// A backend that echoes.
fn echo() -> Server {
    Server::start(peers::echo)
}

/// A backend that says its name, then echoes.
fn named(name: &str) -> Server {
    Server::start(peers::named(name))
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
    let admin = Admin::of(tcplb).connect();
    admin.say(format!("{request} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    String::from_utf8_lossy(&admin.hear_all()).into_owned()
}
