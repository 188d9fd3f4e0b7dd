//! `tcplb events`: what changed, the newest last.
//!
//! `-f` asks again and again with a wait. It outlives a tcplb that ends: it asks until one answers. Each answer names the start
//! of its process, so that another process is noticed.

use super::args::Events;
use super::client::Client;
use super::{Trouble, done, read, show, successful};
use crate::admin::{api, target};
use crate::base::text::Escaped;
use crate::cli::terminal;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// How long a call waits for the next event.
const WAIT: &str = "30s";
/// The pause after a call that failed, or that was answered without a wait.
const PAUSE: Duration = Duration::from_secs(1);
/// How many earlier events `-f` prints without `--since`.
const EARLIER: usize = 10;

/// The events that the options choose.
struct Filter<'a> {
    /// Not those before this time.
    from: Option<SystemTime>,
    pool: Option<&'a str>,
}

/// Why a call got no events.
enum Failure {
    /// A later call may work.
    Passing(Trouble),
    /// The answer will stay the same.
    Lasting(Trouble),
}

/// Runs the command.
pub fn run(events: &Events) -> ExitCode {
    done(|| {
        let client = Client::new(&events.reach)?;
        let from = events.since.and_then(|since| SystemTime::now().checked_sub(since));
        let filter = Filter { from, pool: events.pool.as_deref() };
        // Without a filter, the last ones are enough to begin with.
        let few = events.follow && from.is_none() && events.pool.is_none();
        let path = if few { format!("/v1/events?last={EARLIER}") } else { "/v1/events".to_owned() };
        let mut all = match ask(&client, &path) {
            Ok(all) => all,
            Err(Failure::Passing(trouble) | Failure::Lasting(trouble)) => return Err(trouble),
        };
        all.events.retain(|event| filter.admits(event));
        if !events.follow {
            if events.json {
                return show(serde_json::to_string_pretty(&all).unwrap_or_default());
            }
            return all.events.iter().try_for_each(|event| show(line(event)));
        }
        if events.since.is_none() {
            all.events.drain(..all.events.len().saturating_sub(EARLIER));
        }
        let print = |event: &api::Event| {
            terminal::show(if events.json { serde_json::to_string(event).unwrap_or_default() } else { line(event) })
        };
        // A reader that is gone ends the command even while nothing happens.
        thread::spawn(|| {
            if terminal::wait_until_unread().is_ok() {
                std::process::exit(0);
            }
        });
        if all.events.iter().try_for_each(print).is_err() {
            return Ok(());
        }
        follow(&client, &filter, all.started, all.next, print)
    })
}

/// Prints events as they come, until a call fails for good or no reader is left.
fn follow(
    client: &Client,
    filter: &Filter<'_>,
    mut started: String,
    mut next: u64,
    print: impl Fn(&api::Event) -> std::io::Result<()>,
) -> Result<(), Trouble> {
    let mut lost = false;
    loop {
        let asked = Instant::now();
        let since = next.to_string();
        // After a failure another process may answer, which need not have news.
        let parameters = [("since", Some(&*since)), ("wait", (!lost).then_some(WAIT))];
        let answer = match ask(client, &target::query("/v1/events", parameters)) {
            Ok(answer) => answer,
            Err(Failure::Lasting(trouble)) => return Err(trouble),
            Err(Failure::Passing(Trouble(_, why))) => {
                if !std::mem::replace(&mut lost, true) {
                    terminal::report(format_args!("{why}; asking again each second"));
                }
                thread::sleep(PAUSE);
                continue;
            }
        };
        lost = false;
        if answer.started != started {
            terminal::report("tcplb was restarted: its events begin anew");
            (started, next) = (answer.started, 0);
            continue;
        }
        if let Some(first) = answer.events.first()
            && first.seq > next + 1
        {
            terminal::report(format_args!("{} events are missing: they are not kept any more", first.seq - next - 1));
        }
        for event in answer.events.iter().filter(|event| filter.admits(event)) {
            if print(event).is_err() {
                return Ok(());
            }
        }
        // As many callers wait already as may, so this one was answered at once.
        if answer.events.is_empty() && asked.elapsed() < PAUSE {
            thread::sleep(PAUSE);
        }
        next = answer.next;
    }
}

fn ask(client: &Client, path: &str) -> Result<api::Events, Failure> {
    let (status, body) = client.ask("GET", path, None).map_err(|failure| Failure::Passing(failure.into()))?;
    let answer = successful(status, body).and_then(|body| read(&body));
    answer.map_err(|trouble: Trouble| if status >= 500 { Failure::Passing(trouble) } else { Failure::Lasting(trouble) })
}

impl Filter<'_> {
    fn admits(&self, event: &api::Event) -> bool {
        // A time that cannot be read is that of a newer tcplb.
        let at = humantime::parse_rfc3339(&event.time).ok();
        self.from.is_none_or(|from| at.is_none_or(|at| at >= from))
            && self.pool.is_none_or(|pool| event.pool.as_deref() == Some(pool))
    }
}

/// An event as a line: time (UTC), kind, originator, what it concerns, and what happened.
fn line(event: &api::Event) -> String {
    format!("{} {}", Escaped(&event.time), words(event))
}

/// The same without the time.
pub fn words(event: &api::Event) -> String {
    let api::Event { kind, pool, backend, from, to, reason, by, .. } = event;
    let subject = match (pool, backend) {
        (Some(pool), Some(backend)) => format!("{pool}/{backend}"),
        (Some(pool), None) => pool.clone(),
        (None, _) => String::new(),
    };
    // The reason of a change of the configuration has the values.
    let change = match (from, to, kind.as_str()) {
        (Some(from), Some(to), kind) if kind != "config" => format!("{from} → {to}"),
        _ => String::new(),
    };
    let reason = reason.as_deref().unwrap_or_default().lines().collect::<Vec<_>>().join("; ");
    let parts: Vec<&str> = [&*subject, &*change, &*reason].into_iter().filter(|part| !part.is_empty()).collect();
    Escaped(format!("{kind:<13} {by:<6} {}", parts.join(": ")).trim_end()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> api::Event {
        let text = |text: &str| Some(text.to_owned());
        api::Event {
            seq: 7,
            time: "2026-11-21T13:02:05.678Z".to_owned(),
            kind: "backend_state".to_owned(),
            pool: text("web"),
            backend: text("db2"),
            from: text("up"),
            to: text("down"),
            reason: text("connection refused"),
            by: "health".to_owned(),
        }
    }

    #[test]
    fn each_event_is_one_line() {
        let change = api::Event {
            kind: "config".to_owned(),
            reason: Some("changed: weight 1 → 5 (3 connections)".to_owned()),
            by: "file".to_owned(),
            ..event()
        };
        let failed = api::Event {
            kind: "reload_failed".to_owned(),
            reason: Some("one\ntwo\u{1b}[31m".to_owned()),
            ..api::Event { pool: None, backend: None, from: None, to: None, ..change.clone() }
        };
        let lines = [event(), change, failed].map(|event| line(&event));
        assert_eq!(
            lines,
            [
                "2026-11-21T13:02:05.678Z backend_state health web/db2: up → down: connection refused",
                "2026-11-21T13:02:05.678Z config        file   web/db2: changed: weight 1 → 5 (3 connections)",
                "2026-11-21T13:02:05.678Z reload_failed file   one; two\\u{1b}[31m",
            ]
        );
    }

    #[test]
    fn a_filter_admits_by_time_and_pool() {
        let at = humantime::parse_rfc3339("2026-11-21T13:02:05.678Z").unwrap();
        let admits = |from, pool| Filter { from, pool }.admits(&event());
        assert!(admits(None, None) && admits(Some(at), Some("web")));
        assert!(!admits(Some(at + Duration::from_millis(1)), None) && !admits(None, Some("db")));
    }
}
