//! Durations as people write them: `500ms`, `10s`, `5m`, `1h30m`, `2d`. The same grammar as
//! `taskloom::parse_duration`, which a macro can't depend on.

use std::time::Duration;

/// Reads numbers, each with one of the units `ms`, `s`, `m`, `h`, `d`.
pub(crate) fn parse(text: &str) -> Option<Duration> {
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
        assert_eq!(parse(text), expected_ms.map(Duration::from_millis), "`{text}`");
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
        for bad in ["", " ", "10", "s", "-1s", "1.5s", "1y", "10s5", "99999999999999999999s", "ß"]
        {
            check(bad, None);
        }
        check("18446744073709551615d", None);
    }
}
