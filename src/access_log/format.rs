//! The format of lines, with what it needs from the start on.

use crate::config::model::LogFormat;
use jiff::tz::TimeZone;

/// How lines are written.
#[derive(Clone, Debug)]
pub enum LineFormat {
    /// Fields and spaces.
    Text,
    /// An object.
    Json,
    /// HAProxy's `option tcplog`, whose times are in this zone.
    Haproxy(TimeZone),
}

impl LineFormat {
    /// To be called before the sandbox hides the files of time zones. An unknown zone is UTC.
    pub fn of(format: LogFormat) -> LineFormat {
        match format {
            LogFormat::Text => LineFormat::Text,
            LogFormat::Json => LineFormat::Json,
            LogFormat::Haproxy => LineFormat::Haproxy(TimeZone::try_system().unwrap_or_else(|error| {
                log::warn!("access log: times are in UTC: {error}");
                TimeZone::UTC
            })),
        }
    }
}
