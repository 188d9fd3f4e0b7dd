//! What a probe, or a client's attempt to connect, came to.
//!
//! One type carries it from the socket to the verdict, the log line, the admin API and the metric label, so that they
//! can't tell different stories. Small and `Copy`: the text is made where somebody reads it.

use std::fmt;
use std::io;
use std::time::Duration;

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The connection was made, which is all that a TCP probe asks for.
    Connected,
    /// An HTTP status among the expected.
    Status(u16),
    /// An HTTP status that was not expected.
    WrongStatus(u16),
    /// There is nothing to connect to: the backend's name has no address yet.
    NoAddress,
    /// There was no connection.
    NoConnection(ConnectFailure),
    /// The time for the whole probe, which is given, was over.
    TimedOut(Duration),
    /// The backend finished before a status line had come.
    Closed,
    /// The connection broke before a status line had come, with this error number.
    Broken(i32),
    /// What came is no status line.
    NotHttp,
    /// This many bytes came without being a whole status line.
    TooLong(usize),
}

/// Why a connection could not be made. Also what workers report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectFailure {
    /// The kernel's error number (`errno`).
    Os(i32),
    /// Nobody answered within this time.
    TimedOut(Duration),
}

/// Outcomes as metrics count them: few, so that a label stays cheap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A success.
    Passed,
    /// No connection.
    Connect,
    /// Too slow.
    Timeout,
    /// A status that was not expected.
    Status,
    /// No valid answer.
    Answer,
}

impl Outcome {
    /// Is it a success?
    pub fn passed(self) -> bool {
        self.class() == Class::Passed
    }

    /// What metrics count it as.
    pub fn class(self) -> Class {
        match self {
            Outcome::Connected | Outcome::Status(_) => Class::Passed,
            Outcome::WrongStatus(_) => Class::Status,
            Outcome::TimedOut(_) | Outcome::NoConnection(ConnectFailure::TimedOut(_)) => Class::Timeout,
            Outcome::NoAddress | Outcome::NoConnection(ConnectFailure::Os(_)) => Class::Connect,
            Outcome::Closed | Outcome::Broken(_) | Outcome::NotHttp | Outcome::TooLong(_) => Class::Answer,
        }
    }
}

impl ConnectFailure {
    /// All that [`ConnectFailure::label`] may say.
    pub const LABELS: [&'static str; 6] = ["refused", "reset", "timeout", "unreachable", "no_port", "other"];

    /// Why a connect failed; `None` if what lacked would lack for any backend: descriptors, memory.
    pub fn of(error: &io::Error) -> Option<ConnectFailure> {
        // A table of numbers instead of names: this layer makes no system calls, so it has no crate for them.
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

    /// No local port is left to connect to this backend from (ip(7), ip_local_port_range): another backend can be had all
    /// the same, as a port may be used once for each destination, and nothing is said about this one's health.
    pub fn is_ours(self) -> bool {
        matches!(self, ConnectFailure::Os(code)
            if io::Error::from_raw_os_error(code).kind() == io::ErrorKind::AddrNotAvailable)
    }

    /// Its value of the metric label `reason`.
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
    /// All of them, in the order in which they are counted.
    pub const ALL: [Class; 5] = [Class::Passed, Class::Connect, Class::Timeout, Class::Status, Class::Answer];

    /// Its value of the metric label `result`.
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
    fn reasons_read_as_in_the_logs() {
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
    fn what_we_lack_ourselves_is_not_the_backends_failure() {
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
    fn a_lack_of_ports_concerns_one_destination_and_is_nobodys_illness() {
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
