//! Formats the line of a connection. Pure: the end time is an argument.
//!
//! Times are whole milliseconds, as other balancers log them. A backend's name may be a path and contain white space.
//! In the text format, where spaces separate fields, `_` replaces each. It also replaces hidden characters (see
//! [`crate::base::text`]), which JSON escapes.

use crate::base::{Endpoint, Tick, text};
use crate::session::{AttemptError, ConnectionId, FailedAttempt, History, Interval, Live, Record};
use serde::{Serialize, Serializer};
use serde_json::ser::Formatter;
use std::fmt::{self, Display, Write as _};
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

/// What leaves a line.
pub enum Event<'a> {
    /// A backend is connected.
    Open { live: &'a Live<'a>, now: Tick },
    /// The connection is still open.
    Interval { live: &'a Live<'a>, interval: Interval, now: Tick },
    /// It has ended. `interval`: the time since its last line, where there are such lines.
    Close { record: &'a Record, interval: Option<Interval> },
}

/// The fields, in their order.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(serialize_with = "shown")]
    time: humantime::Rfc3339Timestamp,
    /// Only in JSON, as the next one: the fields of the text are fixed.
    id: ConnectionId,
    event: &'static str,
    listener: &'a str,
    #[serde(serialize_with = "shown_if")]
    client: Option<&'a Endpoint>,
    pool: &'a str,
    backend: Option<&'a str>,
    /// Only in JSON, and only where it depends on the client's.
    #[serde(skip_serializing_if = "Option::is_none")]
    backend_port: Option<u16>,
    attempts: u32,
    connect_ms: Option<u64>,
    duration_ms: u64,
    bytes_to_backend: u64,
    bytes_to_client: u64,
    close: Option<&'static str>,
    /// Only in JSON.
    #[serde(serialize_with = "attempts")]
    failed_attempts: Option<&'a History>,
    /// Only in JSON, as the next one.
    sni: Option<&'a str>,
    route: Option<&'a str>,
    #[serde(flatten)]
    interval: Option<Part>,
}

/// The time since the last line of the connection.
#[derive(Serialize)]
struct Part {
    interval_ms: u64,
    interval_bytes_to_backend: u64,
    interval_bytes_to_client: u64,
}

#[derive(Serialize)]
struct Failed<'a> {
    backend: &'a str,
    #[serde(serialize_with = "shown_if")]
    address: Option<&'a Endpoint>,
    reason: &'static str,
    #[serde(serialize_with = "shown")]
    error: AttemptError,
    after_ms: u64,
}

/// Appends a connection's line as text, with a newline.
pub fn text(record: &Record, time: SystemTime, out: &mut Vec<u8>) {
    // Writing to memory can't fail.
    let _ = writeln!(out, "{}", Line::of_closed(record, time));
}

/// Appends a connection's line as JSON, with a newline.
pub fn json(event: &Event<'_>, time: SystemTime, out: &mut Vec<u8>) {
    let line = match event {
        Event::Open { live, now } => Line::of_open("open", live, *now, time),
        Event::Interval { live, interval, now } => {
            Line { interval: Some((*interval).into()), ..Line::of_open("interval", live, *now, time) }
        }
        Event::Close { record, interval } => {
            Line { interval: interval.map(Part::from), ..Line::of_closed(record, time) }
        }
    };
    // Writing to memory can't fail.
    let _ = line.serialize(&mut serde_json::Serializer::with_formatter(&mut *out, Visible));
    out.push(b'\n');
}

impl Line<'_> {
    fn of_open<'a>(event: &'static str, live: &Live<'a>, now: Tick, time: SystemTime) -> Line<'a> {
        Line {
            time: humantime::format_rfc3339_millis(time),
            id: live.id,
            event,
            listener: &live.listener.name,
            client: live.client,
            pool: &live.pool.settings.name,
            backend: live.backend.map(|backend| backend.name.as_str()),
            backend_port: live.backend_port,
            attempts: live.attempts,
            connect_ms: live.connect.map(millis),
            duration_ms: millis(now - live.since),
            bytes_to_backend: live.bytes_to_backend,
            bytes_to_client: live.bytes_to_client,
            close: None,
            failed_attempts: live.history,
            sni: live.server_name(),
            route: live.route(),
            interval: None,
        }
    }

    fn of_closed(record: &Record, time: SystemTime) -> Line<'_> {
        Line {
            time: humantime::format_rfc3339_millis(time),
            id: record.id,
            event: "close",
            listener: &record.listener.name,
            client: record.client.as_ref(),
            pool: &record.pool.settings.name,
            backend: record.backend.as_ref().map(|backend| backend.name.as_str()),
            backend_port: record.backend_port,
            attempts: record.attempts,
            connect_ms: record.connect.map(millis),
            duration_ms: millis(record.duration),
            bytes_to_backend: record.bytes_to_backend,
            bytes_to_client: record.bytes_to_client,
            close: Some(record.close.word()),
            failed_attempts: record.history.as_deref(),
            sni: record.first.as_ref().and_then(|first| first.server_name()),
            route: record.first.as_ref().and_then(|first| first.route.as_deref()),
            interval: None,
        }
    }
}

impl From<Interval> for Part {
    fn from(interval: Interval) -> Part {
        let Interval { lasted, bytes_to_backend, bytes_to_client } = interval;
        Part {
            interval_ms: millis(lasted),
            interval_bytes_to_backend: bytes_to_backend,
            interval_bytes_to_client: bytes_to_client,
        }
    }
}

impl<'a> From<&'a FailedAttempt> for Failed<'a> {
    fn from(attempt: &'a FailedAttempt) -> Failed<'a> {
        Failed {
            backend: &attempt.backend,
            address: attempt.address.as_ref(),
            reason: attempt.error.label(),
            error: attempt.error,
            after_ms: millis(attempt.after),
        }
    }
}

fn attempts<S: Serializer>(history: &Option<&History>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(history.iter().flat_map(|history| history.failed()).map(Failed::from))
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn shown<S: Serializer>(value: &impl Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

fn shown_if<S: Serializer>(value: &Option<&Endpoint>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => to.collect_str(value),
        None => to.serialize_none(),
    }
}

impl Display for Line<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Line { time, listener, client, pool, backend, attempts, .. } = self;
        write!(
            out,
            "{time} {} {} {} {} {attempts} ",
            Word(listener),
            Field(client),
            Word(pool),
            Field(&backend.map(Word))
        )?;
        let Line { connect_ms, duration_ms, bytes_to_backend, bytes_to_client, close, .. } = self;
        write!(out, "{} {duration_ms} {bytes_to_backend} {bytes_to_client} {}", Field(connect_ms), Field(close))
    }
}

/// Writes each hidden character in JSON texts as `\uXXXX`, which a JSON reader decodes to the same text.
struct Visible;

impl Formatter for Visible {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(text::is_hidden) {
            let (clean, hidden) = rest.split_at(at);
            out.write_all(clean.as_bytes())?;
            let mut letters = hidden.chars();
            for letter in letters.by_ref().take(1) {
                letter.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(out, "\\u{unit:04x}"))?;
            }
            rest = letters.as_str();
        }
        out.write_all(rest.as_bytes())
    }
}

/// A name with white space and hidden characters replaced.
pub(super) struct Word<'a>(pub &'a str);

impl Display for Word<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = |letter: char| letter.is_whitespace() || text::is_hidden(letter);
        if !self.0.contains(parts) {
            return out.write_str(self.0);
        }
        self.0.chars().try_for_each(|letter| out.write_char(if parts(letter) { '_' } else { letter }))
    }
}

/// A field that may be empty.
struct Field<'a, T>(&'a Option<T>);

impl<T: Display> Display for Field<'_, T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(value) => value.fmt(out),
            None => out.write_str("-"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;
    use crate::proto::sniff::{Hello, Protocol, Sniffed};
    use crate::session::{CloseReason, First};

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = b"before\n".to_vec();
        write(&mut out);
        let text = String::from_utf8(out).unwrap();
        text.strip_prefix("before\n").and_then(|line| line.strip_suffix('\n')).unwrap().to_owned()
    }

    fn as_text(record: &Record) -> String {
        written(|out| text(record, sample::end(), out))
    }

    fn as_json(event: &Event<'_>) -> String {
        written(|out| json(event, sample::end(), out))
    }

    fn closed(record: &Record) -> String {
        as_json(&Event::Close { record, interval: None })
    }

    const CLOSED: &str = "{\"time\":\"2026-01-02T03:04:05.678Z\",\"id\":4097,\"event\":\"close\",\"listener\":\"web\",\
                          \"client\":\"[2001:db8::7]:4711\",\"pool\":\"app\",\"backend\":\"web1\",\"attempts\":2,\"connect_ms\":1,\
                          \"duration_ms\":61003,\"bytes_to_backend\":78,\"bytes_to_client\":5000000000,\
                          \"close\":\"backend_fin\",\"failed_attempts\":[],\"sni\":null,\"route\":null";

    #[test]
    fn the_text_has_the_fields_in_their_order_with_single_spaces() {
        let want = "2026-01-02T03:04:05.678Z web [2001:db8::7]:4711 app web1 2 1 61003 78 5000000000 backend_fin";
        assert_eq!(as_text(&sample::record("web1")), want);
        let failed = Record { history: Some(sample::failures()), ..sample::record("web1") };
        assert_eq!(as_text(&failed), want, "its fields are fixed");
    }

    #[test]
    fn json_has_the_same_names_as_keys_in_the_same_order() {
        assert_eq!(closed(&sample::record("web1")), format!("{CLOSED}}}"));
    }

    #[test]
    fn json_has_each_attempt_that_failed_with_its_reason() {
        let record = Record { history: Some(sample::failures()), ..sample::record("web1") };
        let json: serde_json::Value = serde_json::from_str(&closed(&record)).unwrap();
        let want = serde_json::json!([
            {"backend": "db1", "address": "192.0.2.1:80", "reason": "refused", "error": "connection refused", "after_ms": 2},
            {"backend": "db1", "address": null, "reason": "no_address", "error": "its name has no address", "after_ms": 0},
            {"backend": "db1", "address": "192.0.2.1:80", "reason": "timeout", "error": "timed out after 5s", "after_ms": 5000},
        ]);
        assert_eq!(json["failed_attempts"], want);
    }

    #[test]
    fn json_has_the_server_name_and_the_route() {
        let hello = Hello { server_name: Some("db.example.com".into()), ..Hello::default() };
        let sniffed = Sniffed { protocol: Protocol::Tls, hello: Some(hello) };
        let first = First { sniffed: Some(sniffed.into()), route: Some("db".into()), ..First::default() };
        let record = Record { first: Some(first.into()), ..sample::record("web1") };
        let json: serde_json::Value = serde_json::from_str(&closed(&record)).unwrap();
        assert_eq!((&json["sni"], &json["route"]), (&"db.example.com".into(), &"db".into()));
        assert_eq!(as_text(&record), as_text(&sample::record("web1")), "its fields are fixed");
    }

    #[test]
    fn with_intervals_the_last_line_has_what_was_not_reported_before() {
        let record = sample::record("web1");
        let interval = Some(record.unreported());
        let want = format!(
            "{CLOSED},\"interval_ms\":61003,\"interval_bytes_to_backend\":78,\"interval_bytes_to_client\":5000000000}}"
        );
        assert_eq!(as_json(&Event::Close { record: &record, interval }), want);
    }

    #[test]
    fn an_absent_value_is_a_dash_or_null() {
        let refused = Record {
            client: None,
            backend: None,
            connect: None,
            attempts: 0,
            duration: Duration::ZERO,
            bytes_to_backend: 0,
            bytes_to_client: 0,
            close: CloseReason::NoBackend,
            ..sample::record("web1")
        };
        assert_eq!(as_text(&refused), "2026-01-02T03:04:05.678Z web - app - 0 - 0 0 0 no_backend");
        let json: serde_json::Value = serde_json::from_str(&closed(&refused)).unwrap();
        for key in ["client", "backend", "connect_ms"] {
            assert!(json[key].is_null(), "{json}");
        }
    }

    #[test]
    fn a_name_can_t_break_the_line_or_add_a_field() {
        let odd = sample::record("unix:/run/a b\n\"c\"\u{202e}\u{e0041}.sock");
        let text = as_text(&odd);
        assert_eq!((text.split(' ').count(), text.lines().count()), (11, 1), "{text}");
        assert!(text.contains(" unix:/run/a_b_\"c\"__.sock "), "{text}");
        let text = closed(&odd);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (json["backend"].as_str(), text.lines().count()),
            (Some("unix:/run/a b\n\"c\"\u{202e}\u{e0041}.sock"), 1)
        );
        assert!(!text.chars().any(text::is_hidden), "{text:?}");
    }
}
