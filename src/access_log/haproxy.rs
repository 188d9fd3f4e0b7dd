//! The line of a connection as HAProxy's `option tcplog` writes it, for the parsers that read such lines.
//!
//! `%ci:%cp [%t] %ft %b/%s %Tw/%Tc/%Tt %B %ts %ac/%fc/%bc/%sc/%rc %sq/%bq`, without a syslog header, as HAProxy writes it with
//! `log stdout format raw`. The time is that of the accept, in the time zone of the system.
//!
//! As in HAProxy, the counts of the process and of the listener include the connection that ends. Those of the pool and of the
//! backend leave it out. They are read without a lock, so that they may be of slightly different moments.

use super::line::{Word, millis};
use crate::base::Endpoint;
use crate::policy::health::ConnectFailure;
use crate::session::{AttemptError, CloseReason, Record, Side, Stage};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::fmt::{self, Display};
use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Appends the line of a connection that ended at `end`, with a newline, while the process had so many `clients`.
pub fn write(record: &Record, end: SystemTime, zone: &TimeZone, clients: usize, out: &mut Vec<u8>) {
    let date = Date { at: end.checked_sub(record.duration).unwrap_or(SystemTime::UNIX_EPOCH), zone };
    let listener = &record.listener;
    // Until a pool is chosen, the frontend's name stands for the backend's.
    let chosen = if is_before_choice(record.stage) { &listener.name } else { &record.pool.settings.name };
    let (server, of_backend) = last_backend(record).unwrap_or(("<NOSRV>", 0));
    // Writing to memory can't fail.
    let _ = write!(
        out,
        "{} [{date}] {} {}/{} {}/{}/{} {} {}{} ",
        Client(record.client.as_ref()),
        Word(&listener.name),
        Backend(chosen),
        Word(server),
        Millis(waited(record)),
        Millis(record.connect),
        millis(record.duration),
        record.bytes_to_client,
        cause(record),
        state(record),
    );
    let of_pool = pool_clients(record);
    let another = if record.attempts > 1 { "+" } else { "" };
    // HAProxy counts places in its queue from 1.
    let ahead = record.history.as_ref().and_then(|history| history.ahead);
    let place = ahead.map_or(0, |ahead| ahead.saturating_add(1));
    let retries = retries(record);
    let _ = writeln!(out, "{clients}/{}/{of_pool}/{of_backend}/{another}{retries} 0/{place}", listener.active());
}

/// The name of the backend that was connected or dialled last, and its other clients. `None` in a queue, whatever was dialled
/// before.
fn last_backend(record: &Record) -> Option<(&str, u32)> {
    if let Some(backend) = &record.backend {
        return Some((&backend.name, backend.active()));
    }
    let failed = record.history.as_ref().and_then(|history| history.failed().last());
    failed.filter(|_| !was_in_queue(record)).map(|attempt| {
        let member = attempt.tried.and_then(|tried| record.pool.tried(tried));
        let active = member.map_or(0, |member| member.backend.active());
        (attempt.backend.as_str(), active)
    })
}

/// The other clients of the pool, those in its queues too.
fn pool_clients(record: &Record) -> usize {
    let totals = &record.pool.totals;
    // This one has not left its queue yet.
    let own = record.stage == Stage::Waiting && record.history.as_ref().is_some_and(|history| history.ahead.is_some());
    let waiting = totals.waiting.load(Ordering::Relaxed).saturating_sub(usize::from(own));
    totals.active.load(Ordering::Relaxed).saturating_add(waiting)
}

/// The first character of the termination state: which side ended it.
fn cause(record: &Record) -> char {
    let is_served = record.stage == Stage::Relaying;
    match record.close {
        CloseReason::ClientFin | CloseReason::BackendFin if is_served => '-',
        CloseReason::ClientFin | CloseReason::ClientReset => 'C',
        CloseReason::BackendFin | CloseReason::BackendReset => 'S',
        // The backend owes an answer.
        CloseReason::IdleTimeout if !record.answered && record.bytes_to_backend > 0 => 's',
        CloseReason::IdleTimeout => 'c',
        // The other side has not finished.
        CloseReason::HalfCloseTimeout if record.first_fin == Some(Side::Client) => 's',
        CloseReason::HalfCloseTimeout => 'c',
        CloseReason::NoBackend | CloseReason::ConnectFailed => without_backend(record),
        CloseReason::BadProxyHeader
        | CloseReason::Denied
        | CloseReason::SourceLimit
        | CloseReason::SourceRate
        | CloseReason::SniffFailed => 'P',
        CloseReason::Shutdown | CloseReason::Forced => 'K',
    }
}

fn without_backend(record: &Record) -> char {
    const ETIMEDOUT: i32 = 110;
    if was_in_queue(record) {
        // A full queue refuses at once.
        return if waited(record).is_some_and(|waited| waited.is_zero()) { 'S' } else { 's' };
    }
    let last = record.history.as_ref().and_then(|history| history.failed().last());
    match last.map(|attempt| attempt.error) {
        Some(AttemptError::Connect(ConnectFailure::TimedOut(_) | ConnectFailure::Os(ETIMEDOUT))) => 's',
        Some(AttemptError::Connect(failure)) if failure.is_ours() => 'R',
        Some(AttemptError::NoDescriptor) => 'R',
        _ => 'S',
    }
}

/// The second character: what it was waiting for.
fn state(record: &Record) -> char {
    match record.stage {
        // Its listener is gone, and so are all backends.
        Stage::Admitting | Stage::Sniffing if record.close == CloseReason::NoBackend => 'C',
        Stage::Preamble | Stage::Admitting | Stage::Sniffing => 'R',
        Stage::Waiting => 'Q',
        Stage::Choosing if was_in_queue(record) => 'Q',
        Stage::Choosing | Stage::Dialing | Stage::Requesting => 'C',
        Stage::Relaying if cause(record) == '-' => '-',
        Stage::Relaying | Stage::Closed => 'D',
    }
}

/// Did it end in a queue, or as its turn found no backend when its time was over?
fn was_in_queue(record: &Record) -> bool {
    let queued = record.history.as_ref().is_some_and(|history| history.ahead.is_some());
    record.stage == Stage::Waiting || (record.stage == Stage::Choosing && queued)
}

fn is_before_choice(stage: Stage) -> bool {
    matches!(stage, Stage::Preamble | Stage::Admitting | Stage::Sniffing)
}

/// The time in the queue; `None` if the client came to none and no backend was tried.
fn waited(record: &Record) -> Option<Duration> {
    let history = record.history.as_ref();
    let queued = history.is_some_and(|history| history.ahead.is_some());
    (queued || was_in_queue(record) || record.attempts > 0)
        .then(|| history.map_or(Duration::ZERO, |history| history.waited))
}

/// Dials after the first one.
fn retries(record: &Record) -> u32 {
    let failed = record.history.as_ref().map_or(0, |history| history.failures);
    let (given_up, dialed) = (record.close == CloseReason::ConnectFailed, record.backend.is_some());
    if dialed && !given_up { failed } else { failed.saturating_sub(1) }
}

struct Client<'a>(Option<&'a Endpoint>);

impl Display for Client<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(Endpoint::Inet(at)) => write!(out, "{}:{}", at.ip().to_canonical(), at.port()),
            // HAProxy has the number of its socket there.
            Some(Endpoint::Unix(_)) | None => out.write_str("unix:1"),
        }
    }
}

/// A pool's name: the slash behind it ends it.
struct Backend<'a>(&'a str);

impl Display for Backend<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = self.0.split('/');
        parts.next().map_or(Ok(()), |first| Word(first).fmt(out))?;
        parts.try_for_each(|part| write!(out, "_{}", Word(part)))
    }
}

/// Whole milliseconds; -1 where there is no time.
struct Millis(Option<Duration>);

impl Display for Millis {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(time) => millis(time).fmt(out),
            None => out.write_str("-1"),
        }
    }
}

/// `26/Nov/2026:08:16:33.479`.
struct Date<'a> {
    at: SystemTime,
    zone: &'a TimeZone,
}

impl Display for Date<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.zone.to_datetime(Timestamp::try_from(self.at).unwrap_or(Timestamp::UNIX_EPOCH));
        let month = usize::try_from(at.month() - 1).ok().and_then(|month| MONTHS.get(month)).unwrap_or(&"");
        let (day, year, hour, minute) = (at.day(), at.year(), at.hour(), at.minute());
        write!(out, "{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{:02}.{:03}", at.second(), at.millisecond())
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;
    use crate::pool::Lease;
    use crate::session::History;

    fn line_in(record: &Record, zone: &TimeZone) -> String {
        let mut out = b"before\n".to_vec();
        write(record, sample::end(), zone, 17, &mut out);
        let text = String::from_utf8(out).unwrap();
        text.strip_prefix("before\n").and_then(|line| line.strip_suffix('\n')).unwrap().to_owned()
    }

    fn line(record: &Record) -> String {
        line_in(record, &TimeZone::UTC)
    }

    fn ended(close: CloseReason, stage: Stage) -> Record {
        Record { close, stage, ..sample::record("web1") }
    }

    fn termination(record: &Record) -> String {
        let line = line(record);
        line.split(' ').nth(6).expect("the seventh field").to_owned()
    }

    #[test]
    fn a_line_has_the_fields_of_option_tcplog() {
        let want = "2001:db8::7:4711 [02/Jan/2026:03:03:04.675] web app/web1 0/1/61003 5000000000 -- 17/1/0/0/+0 0/0";
        assert_eq!(line(&sample::record("web1")), want);
    }

    #[test]
    fn the_time_is_that_of_the_accept_in_the_zone_of_the_system() {
        let line = line_in(&sample::record("web1"), &TimeZone::posix("IST-5:30").unwrap());
        assert!(line.contains(" [02/Jan/2026:08:33:04.675] "), "{line}");
    }

    #[test]
    fn a_client_that_reached_no_backend_has_none_and_minus_one_where_there_is_no_time() {
        let record = Record {
            backend: None,
            attempts: 0,
            connect: None,
            bytes_to_client: 0,
            client: None,
            ..ended(CloseReason::NoBackend, Stage::Choosing)
        };
        assert_eq!(line(&record), "unix:1 [02/Jan/2026:03:03:04.675] web app/<NOSRV> -1/-1/61003 0 SC 17/1/0/0/0 0/0");
        let record = Record { close: CloseReason::Denied, stage: Stage::Admitting, ..record };
        assert!(line(&record).contains(" web web/<NOSRV> -1/-1/61003 0 PR "), "no pool is chosen yet");
    }

    #[test]
    fn counts_are_those_of_the_moment_without_this_connection_at_pool_and_backend() {
        let record = sample::record("web1");
        let backend = &record.pool.members[0].backend;
        let others: Vec<_> = (0..3).map(|_| Lease::take(backend, 0, u32::MAX)).collect();
        assert!(line(&record).contains(" 17/1/3/3/"));
        drop(others);
    }

    #[test]
    fn retries_are_the_dials_after_the_first_and_a_plus_marks_another_backend() {
        let counts = |record: Record| line(&record).rsplit(' ').nth(1).unwrap().rsplit('/').next().unwrap().to_owned();
        let failed =
            |attempts, close, stage| Record { attempts, history: Some(sample::failures()), ..ended(close, stage) };
        assert_eq!(counts(failed(4, CloseReason::ClientFin, Stage::Relaying)), "+3");
        assert_eq!(counts(failed(1, CloseReason::ClientFin, Stage::Relaying)), "3", "other addresses of one backend");
        assert_eq!(counts(failed(3, CloseReason::ConnectFailed, Stage::Dialing)), "+2");
        assert_eq!(counts(failed(4, CloseReason::ClientReset, Stage::Dialing)), "+3");
        let given_up = Record { backend: None, ..failed(3, CloseReason::ConnectFailed, Stage::Choosing) };
        assert_eq!(counts(given_up), "+2");
        let waiting = Record { backend: None, ..failed(3, CloseReason::ClientReset, Stage::Waiting) };
        assert_eq!(counts(waiting), "+2");
    }

    #[test]
    fn a_queue_shows_in_the_time_the_place_and_the_state() {
        let waited = |time, close, stage| {
            let mut history = History::of([]);
            (history.waited, history.ahead) = (Duration::from_millis(time), Some(4));
            Record { attempts: 0, connect: None, backend: None, history: Some(history), ..ended(close, stage) }
        };
        for (time, close, stage, want) in [
            (250, CloseReason::NoBackend, Stage::Waiting, " 250/-1/61003 5000000000 sQ 17/1/0/0/0 0/5"),
            (250, CloseReason::NoBackend, Stage::Choosing, " 250/-1/61003 5000000000 sQ 17/1/0/0/0 0/5"),
            (9, CloseReason::ClientReset, Stage::Waiting, " 9/-1/61003 5000000000 CQ 17/1/0/0/0 0/5"),
            (9, CloseReason::ClientFin, Stage::Waiting, " 9/-1/61003 5000000000 CQ 17/1/0/0/0 0/5"),
        ] {
            let line = line(&waited(time, close, stage));
            assert!(line.ends_with(want), "{line}");
        }
        let full = Record { history: None, ..waited(0, CloseReason::NoBackend, Stage::Waiting) };
        assert_eq!(termination(&full), "SQ", "the queue was full");
    }

    #[test]
    fn the_last_failure_decides_how_a_failed_connect_ends() {
        let failed = |error| {
            let mut attempt = sample::failures().failed().next().expect("one").clone();
            attempt.error = error;
            Record { history: Some(History::of([attempt])), ..ended(CloseReason::ConnectFailed, Stage::Dialing) }
        };
        for (error, want) in [
            (AttemptError::Connect(ConnectFailure::Os(111)), "SC"),
            (AttemptError::Connect(ConnectFailure::TimedOut(Duration::from_secs(1))), "sC"),
            (AttemptError::Connect(ConnectFailure::Os(110)), "sC"),
            (AttemptError::Connect(ConnectFailure::Os(99)), "RC"),
            (AttemptError::NoDescriptor, "RC"),
            (AttemptError::NoAddress, "SC"),
            (AttemptError::Withdrawn, "SC"),
        ] {
            assert_eq!(termination(&failed(error)), want, "{error}");
            let given_up = Record { backend: None, stage: Stage::Choosing, ..failed(error) };
            assert_eq!(termination(&given_up), want, "{error}");
            assert!(line(&given_up).contains(" app/db1 "), "the backend that failed last");
        }
    }

    #[test]
    fn a_time_out_names_the_side_that_was_waited_for() {
        for (close, first_fin, answered, to_backend, want) in [
            (CloseReason::IdleTimeout, None, true, 5, "cD"),
            (CloseReason::IdleTimeout, None, false, 0, "cD"),
            (CloseReason::IdleTimeout, None, false, 5, "sD"),
            (CloseReason::HalfCloseTimeout, Some(Side::Client), true, 5, "sD"),
            (CloseReason::HalfCloseTimeout, Some(Side::Backend), true, 5, "cD"),
        ] {
            let record = Record { first_fin, answered, bytes_to_backend: to_backend, ..ended(close, Stage::Relaying) };
            assert_eq!(termination(&record), want, "{close} {first_fin:?}");
        }
    }

    /// The states that the page gives for each reason.
    #[test]
    fn each_reason_has_the_states_that_the_page_says() {
        const PAGE: &str = include_str!("../../docs/operations.md");
        let stages = [
            Stage::Preamble,
            Stage::Admitting,
            Stage::Sniffing,
            Stage::Waiting,
            Stage::Choosing,
            Stage::Dialing,
            Stage::Requesting,
            Stage::Relaying,
        ];
        for close in CloseReason::ALL {
            let rows = PAGE.lines().filter(|row| row.starts_with(&format!("| `{close}` | `")));
            let named: Vec<&str> = rows.flat_map(|row| row.split('`')).filter(|word| word.len() == 2).collect();
            assert!(!named.is_empty(), "the page has no row for {close}");
            for stage in stages.into_iter().filter(|stage| is_possible(close, *stage)) {
                let found = termination(&ended(close, stage));
                assert!(named.contains(&found.as_str()), "{close} in {stage:?} is {found}; the page: {named:?}");
            }
        }
    }

    /// The endings of `crate::session`.
    fn is_possible(close: CloseReason, stage: Stage) -> bool {
        let begins = is_before_choice(stage);
        match close {
            CloseReason::ClientFin => {
                matches!(stage, Stage::Preamble | Stage::Sniffing | Stage::Waiting | Stage::Relaying)
            }
            CloseReason::BackendFin | CloseReason::BackendReset => stage == Stage::Relaying,
            CloseReason::IdleTimeout | CloseReason::HalfCloseTimeout => stage == Stage::Relaying,
            CloseReason::ConnectFailed => !begins && stage != Stage::Relaying,
            CloseReason::NoBackend => {
                !matches!(stage, Stage::Preamble | Stage::Dialing | Stage::Requesting | Stage::Relaying)
            }
            CloseReason::BadProxyHeader => stage == Stage::Preamble,
            CloseReason::SniffFailed => matches!(stage, Stage::Sniffing | Stage::Requesting),
            CloseReason::Denied | CloseReason::SourceLimit | CloseReason::SourceRate => stage == Stage::Admitting,
            CloseReason::ClientReset | CloseReason::Shutdown | CloseReason::Forced => true,
        }
    }

    #[test]
    fn a_name_can_t_break_a_line_in_haproxy_s_format() {
        let mut record = sample::record("unix:/run/a b.sock");
        record.listener = crate::telemetry::ListenerTotals::new("w/e\u{202e}b".to_owned());
        assert!(line(&record).contains(" w/e_b app/unix:/run/a_b.sock 0/1/"), "{}", line(&record));
        assert_eq!(Backend("a/b c").to_string(), "a_b_c");
    }
}
