//! Single values as users type them: numbers and log levels; words that the file has too come from `config::words`.
//!
//! Each parser's error says what would be accepted and shows the value; naming the flag is the caller's part.

use crate::base::nearest;
use crate::config::model::{Engine, LogFormat, ProxyVersion, Sandbox};
use crate::config::words;
use log::LevelFilter;

pub use crate::config::words::{algorithm, alternatives};

/// The levels of `--log-level`, quietest first.
const LOG_LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// A whole number between `min` and `max`. Digits only: `from_str` would take a leading `+` too.
pub fn number(text: &str, min: u64, max: u64) -> Result<u64, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u64>() {
        Ok(value) if digits && (min..=max).contains(&value) => Ok(value),
        _ if max == u64::MAX => Err(format!("expected a number, at least {min}, got `{text}`")),
        _ => Err(format!("expected a number from {min} to {max}, got `{text}`")),
    }
}

/// As [`number`], where a count of `u32` is wanted: at least one.
pub fn count(text: &str) -> Result<u32, String> {
    let value = number(text, 1, u64::from(u32::MAX))?;
    Ok(u32::try_from(value).unwrap_or(u32::MAX))
}

/// A level of detail, in any case.
pub fn log_level(text: &str) -> Result<LevelFilter, String> {
    text.parse().map_err(|_| {
        let hint = nearest::hint(text, LOG_LEVELS);
        format!("expected {}, got `{text}`{hint}", alternatives(&LOG_LEVELS))
    })
}

/// A format of the access log, in any case.
pub fn log_format(text: &str) -> Result<LogFormat, String> {
    words::one_of(text, &LogFormat::NAMES)
}

/// A relay engine, in any case.
pub fn relay(text: &str) -> Result<Engine, String> {
    words::one_of(text, &Engine::NAMES)
}

/// Whether to lock itself in, in any case.
pub fn sandbox(text: &str) -> Result<Sandbox, String> {
    words::one_of(text, &Sandbox::NAMES)
}

/// A version of the PROXY protocol, in any case.
pub fn proxy_version(text: &str) -> Result<ProxyVersion, String> {
    words::one_of(text, &ProxyVersion::NAMES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_keep_their_range() {
        assert_eq!(number("1", 1, 1024), Ok(1));
        assert_eq!(number("1024", 1, 1024), Ok(1024));
        for text in ["0", "1025", "", "-1", "+1", "1.5", "99999999999999999999999", "one"] {
            let message = number(text, 1, 1024).unwrap_err();
            assert!(message.contains("from 1 to 1024") && message.contains(&format!("`{text}`")), "{message}");
        }
        assert_eq!(number("0", 1, u64::MAX).unwrap_err(), "expected a number, at least 1, got `0`");
        assert_eq!(count("7"), Ok(7));
        assert!(count("0").is_err() && count("4294967296").is_err());
    }

    #[test]
    fn log_levels_ignore_case() {
        for text in LOG_LEVELS {
            assert_eq!(log_level(text).unwrap().to_string(), text.to_uppercase());
            assert_eq!(log_level(&text.to_uppercase()), log_level(text));
        }
        let message = log_level("warning").unwrap_err();
        assert_eq!(message, "expected off, error, warn, info, debug or trace, got `warning`");
        assert!(log_level("debgg").unwrap_err().ends_with("did you mean `debug`?"));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,12}") {
            let _ = (number(&text, 0, 65_535), count(&text), algorithm(&text), log_level(&text));
        }
    }
}
