//! Durations as people write them: `500ms`, `10s`, `5m`, `1h30m`, `2d`.

use std::fmt;
use std::time::Duration;

/// A duration that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DurationError {
    /// What was given.
    pub text: String,
}

impl fmt::Display for DurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = &self.text;
        write!(
            f,
            "`{text}` is no duration; write a number and a unit, such as 500ms, 10s, 5m, 1h30m or 2d"
        )
    }
}

impl std::error::Error for DurationError {}

/// Reads a duration: numbers, each with one of the units `ms`, `s`, `m`, `h`, `d`.
///
/// # Errors
/// [`DurationError`] for anything else, also for a number without a unit and for no number.
///
/// ```
/// # use std::time::Duration;
/// assert_eq!(taskloom_model::parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
/// assert!(taskloom_model::parse_duration("10").is_err());
/// ```
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    parse(text).ok_or_else(|| DurationError { text: text.to_owned() })
}

fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let n_digits = rest.find(|it: char| !it.is_ascii_digit())?;
        let number: u64 = rest[..n_digits].parse().ok()?;
        rest = rest[n_digits..].trim_start();
        let n_letters = rest.find(|it: char| !it.is_ascii_alphabetic()).unwrap_or(rest.len());
        let millis = match &rest[..n_letters] {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total = total.checked_add(Duration::from_millis(number.checked_mul(millis)?))?;
        rest = rest[n_letters..].trim_start();
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected_ms: Option<u64>) {
        let expected = expected_ms.map(Duration::from_millis);
        assert_eq!(parse_duration(text).ok(), expected, "`{text}`");
    }

    #[test]
    fn durations_are_numbers_with_units() {
        check("500ms", Some(500));
        check("10s", Some(10_000));
        check("5m", Some(300_000));
        check("1h30m", Some(5_400_000));
        check("1h 30 m", Some(5_400_000));
        check("2d", Some(172_800_000));
        check("0s", Some(0));
        for bad in ["", " ", "10", "s", "-1s", "1.5s", "1y", "10s5", "99999999999999999999s"] {
            check(bad, None);
        }
        check("18446744073709551615d", None);
    }
}
