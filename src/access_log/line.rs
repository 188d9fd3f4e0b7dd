//! Formats the line of a connection. Pure: the end time is an argument.
//!
//! Times are whole milliseconds, as other balancers log them. A backend's name may be a path and contain white space.
//! In the text format, where spaces separate fields, `_` replaces each. It also replaces hidden characters (see
//! [`crate::base::text`]), which JSON escapes.

use crate::base::{Endpoint, text};
use crate::config::model::LogFormat;
use crate::session::{ConnectionId, Record};
use serde::{Serialize, Serializer};
use serde_json::ser::Formatter;
use std::fmt::{self, Display, Write as _};
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

/// The fields, in their order.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(serialize_with = "shown")]
    time: humantime::Rfc3339Timestamp,
    /// Only in JSON: the fields of the text are fixed.
    id: ConnectionId,
    listener: &'a str,
    #[serde(serialize_with = "shown_if")]
    client: Option<&'a Endpoint>,
    pool: &'a str,
    backend: Option<&'a str>,
    attempts: u32,
    connect_ms: Option<u64>,
    duration_ms: u64,
    bytes_to_backend: u64,
    bytes_to_client: u64,
    close: &'static str,
}

/// Appends the line of a connection that ended at `time`, with a newline.
pub fn write(format: LogFormat, record: &Record, time: SystemTime, out: &mut Vec<u8>) {
    let line = Line {
        time: humantime::format_rfc3339_millis(time),
        id: record.id,
        listener: &record.listener.name,
        client: record.client.as_ref(),
        pool: &record.pool.settings.name,
        backend: record.backend.as_ref().map(|backend| backend.name.as_str()),
        attempts: record.attempts,
        connect_ms: record.connect.map(millis),
        duration_ms: millis(record.duration),
        bytes_to_backend: record.bytes_to_backend,
        bytes_to_client: record.bytes_to_client,
        close: record.close.word(),
    };
    // Writing to memory can't fail.
    let _ = match format {
        LogFormat::Text => write!(out, "{line}"),
        LogFormat::Json => {
            line.serialize(&mut serde_json::Serializer::with_formatter(&mut *out, Visible)).map_err(Into::into)
        }
    };
    out.push(b'\n');
}

fn millis(time: Duration) -> u64 {
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
        write!(out, "{} {duration_ms} {bytes_to_backend} {bytes_to_client} {close}", Field(connect_ms))
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
struct Word<'a>(&'a str);

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
    use super::*;
    use crate::base::Address;
    use crate::config::model::{Backend, Global, Model, Pool};
    use crate::pool::Resolved;
    use crate::session::CloseReason;
    use crate::telemetry::ListenerTotals;
    use std::path::PathBuf;

    fn record(backend_name: &str) -> Record {
        let address = Address::Unix(PathBuf::from("/run/a.sock"));
        let backends = vec![Backend { name: backend_name.to_owned(), ..Backend::at(address) }];
        let pools = vec![Pool { name: "app".to_owned(), backends, ..Pool::default() }];
        let model = Model { global: Global::default(), listeners: Vec::new(), pools };
        let pool = crate::pool::build(&model, &Resolved::new()).pools[0].clone();
        Record {
            id: ConnectionId(4097),
            client: Some(Endpoint::Inet("[2001:db8::7]:4711".parse().unwrap())),
            listener: ListenerTotals::new("web".to_owned()),
            backend: Some(pool.members[0].backend.clone()),
            pool,
            attempts: 2,
            connect: Some(Duration::from_micros(1_999)),
            duration: Duration::from_millis(61_003),
            answered: true,
            unanswered: None,
            bytes_to_backend: 78,
            bytes_to_client: 5_000_000_000,
            close: CloseReason::BackendFin,
        }
    }

    fn line(format: LogFormat, record: &Record) -> String {
        let mut out = b"before\n".to_vec();
        write(format, record, SystemTime::UNIX_EPOCH + Duration::from_micros(1_767_323_045_678_900), &mut out);
        let text = String::from_utf8(out).unwrap();
        text.strip_prefix("before\n").and_then(|line| line.strip_suffix('\n')).unwrap().to_owned()
    }

    #[test]
    fn the_text_has_the_fields_in_their_order_with_single_spaces() {
        let want = "2026-01-02T03:04:05.678Z web [2001:db8::7]:4711 app web1 2 1 61003 78 5000000000 backend_fin";
        assert_eq!(line(LogFormat::Text, &record("web1")), want);
    }

    #[test]
    fn json_has_the_same_names_as_keys_in_the_same_order() {
        let want = "{\"time\":\"2026-01-02T03:04:05.678Z\",\"id\":4097,\"listener\":\"web\",\"client\":\"[2001:db8::7]:4711\",\"pool\":\"app\",\
                    \"backend\":\"web1\",\"attempts\":2,\"connect_ms\":1,\"duration_ms\":61003,\"bytes_to_backend\":78,\
                    \"bytes_to_client\":5000000000,\"close\":\"backend_fin\"}";
        assert_eq!(line(LogFormat::Json, &record("web1")), want);
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
            ..record("web1")
        };
        assert_eq!(line(LogFormat::Text, &refused), "2026-01-02T03:04:05.678Z web - app - 0 - 0 0 0 no_backend");
        let json: serde_json::Value = serde_json::from_str(&line(LogFormat::Json, &refused)).unwrap();
        for key in ["client", "backend", "connect_ms"] {
            assert!(json[key].is_null(), "{json}");
        }
    }

    #[test]
    fn a_name_can_t_break_the_line_or_add_a_field() {
        let odd = record("unix:/run/a b\n\"c\"\u{202e}\u{e0041}.sock");
        let text = line(LogFormat::Text, &odd);
        assert_eq!((text.split(' ').count(), text.lines().count()), (11, 1), "{text}");
        assert!(text.contains(" unix:/run/a_b_\"c\"__.sock "), "{text}");
        let text = line(LogFormat::Json, &odd);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (json["backend"].as_str(), text.lines().count()),
            (Some("unix:/run/a b\n\"c\"\u{202e}\u{e0041}.sock"), 1)
        );
        assert!(!text.chars().any(text::is_hidden), "{text:?}");
    }
}
