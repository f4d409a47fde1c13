//! Sizes in memory as people write them: `64MB`, `512MiB`, `2GB`.

use std::fmt;

/// A size that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SizeError {
    /// What was given.
    pub text: String,
}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = &self.text;
        write!(f, "`{text}` is no size; write a number and a unit, such as 64MB, 512MiB or 2GB")
    }
}

impl std::error::Error for SizeError {}

/// Reads a size in bytes: a number with one of the units `kB`, `MB`, `GB` (powers of 1000) and
/// `KiB`, `MiB`, `GiB` (powers of 1024).
///
/// # Errors
/// [`SizeError`] for anything else, also for a number without a unit.
///
/// ```
/// assert_eq!(taskloom_model::parse_size("512MB"), Ok(512_000_000));
/// assert_eq!(taskloom_model::parse_size("1 GiB"), Ok(1 << 30));
/// assert!(taskloom_model::parse_size("512").is_err());
/// ```
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    parse(text).ok_or_else(|| SizeError { text: text.to_owned() })
}

fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let n_digits = text.find(|it: char| !it.is_ascii_digit())?;
    let number: u64 = text[..n_digits].parse().ok()?;
    let unit: u64 = match text[n_digits..].trim_start() {
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<u64>) {
        assert_eq!(parse_size(text).ok(), expected, "`{text}`");
    }

    #[test]
    fn sizes_are_numbers_with_units() {
        check("64kB", Some(64_000));
        check("512MB", Some(512_000_000));
        check(" 2 GB ", Some(2_000_000_000));
        check("64KiB", Some(65_536));
        check("1MiB", Some(1_048_576));
        check("3GiB", Some(3_221_225_472));
        for bad in ["", "512", "MB", "1.5GB", "-1MB", "1mb", "1MB2", "1TB", "99999999999GiB"] {
            check(bad, None);
        }
    }
}
