//! The result of a probe, or of a client's attempt to connect.
//!
//! One type carries it from the socket to the health state, the log line, the admin API and the metric label, so that
//! they agree. It is small; the text is made when it is shown, except that of a script or an agent, which quotes the backend.

use super::agent::AgentReport;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The result of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The connection was made; a TCP probe needs no more.
    Connected,
    /// An expected HTTP status.
    Status(u16),
    /// An unexpected HTTP status.
    WrongStatus(u16),
    /// The backend's name has no address yet.
    NoAddress,
    /// The connection failed.
    NoConnection(ConnectFailure),
    /// The probe took longer than this time-out.
    TimedOut(Duration),
    /// The backend closed before a status line.
    Closed,
    /// The connection failed before a status line, with this error number.
    Broken(i32),
    /// The answer is not a status line.
    NotHttp,
    /// This many bytes came without a whole status line.
    TooLong(usize),
    /// All steps of a script are done.
    ScriptPassed,
    /// The agent's line.
    Agent(AgentReport),
    /// What a script or an agent's line failed with: its class, and the reason, which quotes the backend.
    Failed(Class, Arc<str>),
}

/// Why a connection could not be made; workers report it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConnectFailure {
    /// The kernel's error number (`errno`).
    Os(i32),
    /// No answer came within this time.
    TimedOut(Duration),
}

/// Classes of outcomes for metrics: few, so that the label has few values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The probe passed.
    Passed,
    /// The connection failed.
    Connect,
    /// The probe or the connection timed out.
    Timeout,
    /// An unexpected status.
    Status,
    /// An invalid answer.
    Answer,
}

impl Outcome {
    /// Whether the probe passed.
    pub fn passed(&self) -> bool {
        self.class() == Class::Passed
    }

    /// The class that metrics count it in.
    pub fn class(&self) -> Class {
        match self {
            Outcome::Connected | Outcome::Status(_) | Outcome::ScriptPassed => Class::Passed,
            Outcome::Agent(report) if !report.down => Class::Passed,
            Outcome::WrongStatus(_) | Outcome::Agent(_) => Class::Status,
            Outcome::Failed(class, _) => *class,
            Outcome::TimedOut(_) | Outcome::NoConnection(ConnectFailure::TimedOut(_)) => Class::Timeout,
            Outcome::NoAddress | Outcome::NoConnection(ConnectFailure::Os(_)) => Class::Connect,
            Outcome::Closed | Outcome::Broken(_) | Outcome::NotHttp | Outcome::TooLong(_) => Class::Answer,
        }
    }
}

impl ConnectFailure {
    /// All values of [`ConnectFailure::label`].
    pub const LABELS: [&'static str; 6] = ["refused", "reset", "timeout", "unreachable", "no_port", "other"];

    /// The failure of a connect; `None` if the cause is a lack of descriptors or memory, which would fail for any
    /// backend.
    pub fn of(error: &io::Error) -> Option<ConnectFailure> {
        // Numbers instead of names: this layer makes no system calls, so it uses no crate that names them.
        const ENOMEM: i32 = 12;
        const ENFILE: i32 = 23;
        const EMFILE: i32 = 24;
        const ENOSPC: i32 = 28; // epoll_ctl(2): max_user_watches
        const ENOBUFS: i32 = 105;
        const EIO: i32 = 5;
        match error.raw_os_error() {
            Some(ENOMEM | ENFILE | EMFILE | ENOSPC | ENOBUFS) => None,
            Some(code) => Some(ConnectFailure::Os(code)),
            None => Some(ConnectFailure::Os(EIO)),
        }
    }

    /// Whether no local port is left for this destination (ip(7), ip_local_port_range). Another backend can still be
    /// reached, since a port may be used once per destination. It says nothing about this backend's health.
    pub fn is_ours(self) -> bool {
        matches!(self, ConnectFailure::Os(code)
            if io::Error::from_raw_os_error(code).kind() == io::ErrorKind::AddrNotAvailable)
    }

    /// The value of the metric label `reason`.
    pub fn label(self) -> &'static str {
        use io::ErrorKind::*;
        match self {
            ConnectFailure::TimedOut(_) => "timeout",
            ConnectFailure::Os(code) => match io::Error::from_raw_os_error(code).kind() {
                ConnectionRefused | NotFound => "refused",
                ConnectionReset => "reset",
                TimedOut => "timeout",
                HostUnreachable | NetworkUnreachable | NetworkDown => "unreachable",
                AddrNotAvailable => "no_port",
                _ => "other",
            },
        }
    }
}

impl Class {
    /// All classes, in the order of their counters.
    pub const ALL: [Class; 5] = [Class::Passed, Class::Connect, Class::Timeout, Class::Status, Class::Answer];

    /// The value of the metric label `result`.
    pub fn label(self) -> &'static str {
        match self {
            Class::Passed => "success",
            Class::Connect => "connect",
            Class::Timeout => "timeout",
            Class::Status => "status",
            Class::Answer => "answer",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Connected => out.write_str("connected"),
            Outcome::Status(code) | Outcome::WrongStatus(code) => write!(out, "HTTP {code}"),
            Outcome::NoAddress => out.write_str("its name has no address"),
            Outcome::NoConnection(failure) => failure.fmt(out),
            Outcome::TimedOut(after) => ConnectFailure::TimedOut(*after).fmt(out),
            Outcome::Closed => out.write_str("connection closed before a status line"),
            Outcome::Broken(code) => write!(out, "{} before a status line", ConnectFailure::Os(*code)),
            Outcome::NotHttp => out.write_str("no HTTP answer"),
            Outcome::TooLong(bytes) => write!(out, "no HTTP status line within {bytes} bytes"),
            Outcome::ScriptPassed => out.write_str("every step of the script passed"),
            Outcome::Agent(report) => report.fmt(out),
            Outcome::Failed(_, why) => out.write_str(why),
        }
    }
}

impl fmt::Display for ConnectFailure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        use io::ErrorKind::*;
        let code = match self {
            ConnectFailure::TimedOut(after) => {
                return write!(out, "timed out after {}", humantime::format_duration(*after));
            }
            ConnectFailure::Os(code) => *code,
        };
        let error = io::Error::from_raw_os_error(code);
        match error.kind() {
            NotFound => out.write_str("no such socket"),
            WouldBlock => out.write_str("its accept queue is full"),
            AddrNotAvailable => out.write_str("no local address or port to connect from"),
            kind @ (ConnectionRefused | ConnectionReset | ConnectionAborted | BrokenPipe | HostUnreachable
            | NetworkUnreachable | NetworkDown | PermissionDenied | TimedOut) => kind.fmt(out),
            _ => error.fmt(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_have_their_log_texts() {
        let second = Duration::from_secs(1);
        for (outcome, text) in [
            (Outcome::Connected, "connected"),
            (Outcome::Status(204), "HTTP 204"),
            (Outcome::WrongStatus(503), "HTTP 503"),
            (Outcome::NoConnection(ConnectFailure::Os(111)), "connection refused"),
            (Outcome::NoConnection(ConnectFailure::Os(113)), "host unreachable"),
            (Outcome::NoConnection(ConnectFailure::Os(101)), "network unreachable"),
            (Outcome::NoConnection(ConnectFailure::Os(110)), "timed out"),
            (Outcome::NoConnection(ConnectFailure::Os(2)), "no such socket"),
            (Outcome::NoConnection(ConnectFailure::TimedOut(5 * second)), "timed out after 5s"),
            (Outcome::TimedOut(second), "timed out after 1s"),
            (Outcome::Closed, "connection closed before a status line"),
            (Outcome::Broken(104), "connection reset before a status line"),
            (Outcome::NotHttp, "no HTTP answer"),
            (Outcome::TooLong(1024), "no HTTP status line within 1024 bytes"),
        ] {
            assert_eq!(outcome.to_string(), text);
        }
    }

    #[test]
    fn only_a_connection_and_an_expected_status_pass() {
        let failure = ConnectFailure::Os(111);
        for (outcome, class) in [
            (Outcome::Connected, Class::Passed),
            (Outcome::Status(200), Class::Passed),
            (Outcome::WrongStatus(200), Class::Status),
            (Outcome::NoConnection(failure), Class::Connect),
            (Outcome::TimedOut(Duration::ZERO), Class::Timeout),
            (Outcome::Closed, Class::Answer),
            (Outcome::Broken(104), Class::Answer),
        ] {
            assert_eq!((outcome.class(), outcome.passed()), (class, class == Class::Passed));
        }
    }

    #[test]
    fn a_lack_of_our_own_is_not_a_failure_of_the_backend() {
        let of = |code| ConnectFailure::of(&io::Error::from_raw_os_error(code));
        assert_eq!((of(24), of(23), of(12)), (None, None, None));
        assert_eq!(of(111).map(ConnectFailure::label), Some("refused"));
        for failure in (1..140).filter_map(of) {
            assert!(ConnectFailure::LABELS.contains(&failure.label()), "{failure}");
        }
        assert_eq!(of(113).map(ConnectFailure::label), Some("unreachable"));
        assert_eq!(ConnectFailure::TimedOut(Duration::ZERO).label(), "timeout");
    }

    #[test]
    fn a_lack_of_ports_concerns_one_destination_and_not_its_health() {
        let failure = ConnectFailure::of(&io::Error::from_raw_os_error(99)).unwrap();
        assert_eq!((failure.label(), failure.is_ours()), ("no_port", true));
        assert!(!ConnectFailure::Os(111).is_ours() && !ConnectFailure::TimedOut(Duration::ZERO).is_ours());
    }

    #[test]
    fn classes_are_counted_in_the_order_of_their_list() {
        for (index, class) in Class::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, index);
        }
    }
}
