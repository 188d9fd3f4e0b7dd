//! Durations as users write them: `500ms`, `2s`, `5m`, `1h`, `1h 30m`.
//!
//! A bare number is refused. HAProxy reads it as milliseconds and nginx as seconds, and a wrong guess is off by a
//! factor of a thousand.

use std::time::Duration;

/// The accepted form, for every error about a duration.
pub const EXPECTED: &str = "a number with a unit, like 500ms, 2s, 5m or 1h";

/// The longest accepted duration, `1y`. A clock reading plus this never overflows.
pub const MAX: Duration = Duration::from_secs(31_557_600);

/// Parses a duration with a unit. The error says what is expected.
pub fn parse(text: &str) -> Result<Duration, String> {
    // humantime accepts a bare 0.
    if text.trim() == "0" {
        return Err(format!("expected {EXPECTED}, got `{text}`"));
    }
    let duration = humantime::parse_duration(text.trim()).map_err(|_| format!("expected {EXPECTED}, got `{text}`"))?;
    bounded(duration, text)
}

/// As [`parse`], but a bare number counts as seconds; only `-t/--health-interval` uses it.
pub fn parse_or_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.trim().parse::<u64>().map(Duration::from_secs);
    let duration = seconds.or_else(|_| humantime::parse_duration(text.trim()));
    let wrong = |_| format!("expected a number of seconds or {EXPECTED}, got `{text}`");
    bounded(duration.map_err(wrong)?, text)
}

/// As [`parse`], but at least 1 ms: for time-outs and intervals, which can't be zero.
pub fn parse_positive(text: &str) -> Result<Duration, String> {
    positive(parse(text)?, text)
}

/// As [`parse_or_seconds`], but at least 1 ms.
pub fn parse_positive_or_seconds(text: &str) -> Result<Duration, String> {
    positive(parse_or_seconds(text)?, text)
}

/// The duration in the form that [`parse`] accepts.
pub fn written(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

fn bounded(duration: Duration, text: &str) -> Result<Duration, String> {
    if duration > MAX {
        return Err(format!("expected at most 1y, got `{text}`"));
    }
    Ok(duration)
}

fn positive(duration: Duration, text: &str) -> Result<Duration, String> {
    // Timers tick in milliseconds, so a shorter duration would be zero.
    if duration < Duration::from_millis(1) {
        return Err(format!("expected at least 1ms, got `{text}`"));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_required_and_parsed() {
        for (text, want) in [("500ms", 500), ("2s", 2_000), ("5m", 300_000), ("1h", 3_600_000), (" 1m 30s ", 90_000)] {
            assert_eq!(parse(text), Ok(Duration::from_millis(want)), "{text}");
        }
        for text in ["", "5", "s", "-1s", "0", "1 fortnight", "99999999999999999999h"] {
            let message = parse(text).unwrap_err();
            assert!(message.contains(EXPECTED) && message.contains(&format!("`{text}`")), "{message}");
        }
    }

    #[test]
    fn a_bare_number_is_seconds_only_where_asked() {
        assert_eq!(parse_or_seconds("10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_or_seconds("10ms"), Ok(Duration::from_millis(10)));
        assert!(parse_or_seconds("-3").is_err());
    }

    #[test]
    fn no_duration_is_longer_than_a_year() {
        for text in ["1y", "365d", "31557600s"] {
            assert!(parse(text).is_ok() && parse_positive(text).is_ok(), "{text}");
        }
        assert_eq!(parse_or_seconds("31557600"), Ok(MAX));
        for text in ["1y 1ns", "584542046090y", "18446744073709551615s"] {
            assert_eq!(parse(text), Err(format!("expected at most 1y, got `{text}`")));
            assert_eq!(parse_or_seconds(text), parse(text));
        }
        assert!(parse_or_seconds("18446744073709551615").unwrap_err().contains("at most 1y"));
    }

    #[test]
    fn zero_is_not_a_time_out() {
        for text in ["0s", "0ms", "10us"] {
            assert!(parse_positive(text).unwrap_err().contains("at least 1ms"));
        }
        assert!(parse_positive_or_seconds("0").is_err());
        assert_eq!(parse_positive("1ms"), Ok(Duration::from_millis(1)));
    }
}
