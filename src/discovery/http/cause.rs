//! The text of an error: the server, and the cause without the client's layers around it.

use crate::base::duration;
use rustls::CertificateError;
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
        Error::Protocol(error) => format!("the answer is no HTTP: {error}; does the server want https://?"),
        Error::BodyExceedsLimit(most) => format!("the answer has more than {} MiB", most >> 20),
        Error::Rustls(error) => of_tls(&error),
        other => other.to_string(),
    };
    format!("{server}: {why}")
}

/// The same before any byte of an answer. A server without TLS ends the connection so, and one that wants TLS does too.
pub fn of_head(server: &str, limit: Duration, error: Error) -> String {
    let is_end = matches!(&error, Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof);
    let other = if server.starts_with("https:") { "http" } else { "https" };
    let hint = if is_end { format!("; does the server want {other}://?") } else { String::new() };
    text(server, limit, error) + &hint
}

fn of_system(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::UnexpectedEof => "the connection ended within the answer".to_owned(),
        _ => match error.get_ref().and_then(|error| error.downcast_ref()) {
            Some(error) => of_tls(error),
            None => error.to_string(),
        },
    }
}

/// With the remedy, where there is a likely one.
fn of_tls(error: &rustls::Error) -> String {
    let remedy = match error {
        rustls::Error::InvalidMessage(_) => "; does the server want http://?",
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "; ca_file names the authorities that are trusted, without it those of the system are"
        }
        _ => "",
    };
    format!("{error}{remedy}")
}
