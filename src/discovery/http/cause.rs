//! The text of an error: the server, and the cause without the client's layers around it.

use crate::base::duration;
use std::io;
use std::time::Duration;
use ureq::{Error, Timeout};

/// Of a call that `limit` bounds.
pub fn text(server: &str, limit: Duration, error: Error) -> String {
    let why = match error {
        Error::Io(error) => return format!("{server}: {}", of_system(&error)),
        Error::Timeout(Timeout::Connect | Timeout::Resolve) => "no connection in time".to_owned(),
        Error::Timeout(_) => format!("no answer within {}", duration::written(limit)),
        Error::HostNotFound => "the host has no address".to_owned(),
        Error::BodyExceedsLimit(most) => format!("the answer has more than {} MiB", most >> 20),
        Error::Rustls(error) => error.to_string(),
        other => other.to_string(),
    };
    format!("{server}: {why}")
}

fn of_system(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::UnexpectedEof => "the connection ended within the answer".to_owned(),
        _ => error.to_string(),
    }
}
