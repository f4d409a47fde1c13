//! Rates: so many in so long, as people write them: `10/s`, `30/min`, `5/h`.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

/// So many in so long; neither is zero.
///
/// ```
/// use std::time::Duration;
/// use taskloom_flow::Rate;
///
/// let rate: Rate = "30/min".parse().unwrap();
/// assert_eq!(rate, Rate::new(30, Duration::from_secs(60)).unwrap());
/// assert_eq!(rate.to_string(), "30/min");
/// assert_eq!("1/10s".parse::<Rate>().unwrap().interval(), Duration::from_secs(10));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    n: NonZeroU32,
    per: Duration,
}

/// A rate that can't be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// None at all: whatever waits would wait for ever.
    #[error("a rate of 0 lets nothing through; leave the limit out, or pause the queue instead")]
    Zero,
    /// In no time, or in over a year.
    #[error("a rate counts over 1 ms to 366 days, not over {0:?}")]
    Per(Duration),
    /// Not a rate.
    #[error("`{0}` is not a rate; write a number, a slash and s, min, h or d, such as `10/s`")]
    Text(String),
}

const UNITS: [(&str, u64); 4] = [("s", 1), ("min", 60), ("h", 3600), ("d", 86_400)];
const PER_MAX: Duration = Duration::from_secs(366 * 86_400);

impl Rate {
    /// `n` in `per`.
    ///
    /// # Errors
    /// [`RateError`] when `n` is zero, or `per` is under 1 ms or over 366 days.
    pub fn new(n: u32, per: Duration) -> Result<Rate, RateError> {
        let n = NonZeroU32::new(n).ok_or(RateError::Zero)?;
        if per < Duration::from_millis(1) || PER_MAX < per {
            return Err(RateError::Per(per));
        }
        Ok(Rate { n, per })
    }

    /// How many.
    #[must_use]
    pub fn n(self) -> u32 {
        self.n.get()
    }

    /// In how long.
    #[must_use]
    pub fn per(self) -> Duration {
        self.per
    }

    /// The time between two of them, rounded up to a nanosecond so that the rate is kept.
    #[must_use]
    pub fn interval(self) -> Duration {
        let nanos = self.per.as_nanos().div_ceil(u128::from(self.n.get()));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Rate, RateError> {
        let unknown = || RateError::Text(text.to_owned());
        let (n, per) = text.split_once('/').ok_or_else(unknown)?;
        let n: u32 = n.trim().parse().map_err(|_| unknown())?;
        let per = per.trim();
        let unit = per.trim_start_matches(|it: char| it.is_ascii_digit());
        let count = &per[..per.len() - unit.len()];
        let count: u64 = if count.is_empty() { 1 } else { count.parse().map_err(|_| unknown())? };
        let secs = match unit.trim() {
            "s" | "sec" | "second" => 1,
            "m" | "min" | "minute" => 60,
            "h" | "hour" => 3600,
            "d" | "day" => 86_400,
            _ => return Err(unknown()),
        };
        Rate::new(n, Duration::from_secs(count.saturating_mul(secs)))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_whole = |unit: u64| self.per == Duration::from_secs(unit);
        match UNITS.iter().find(|it| is_whole(it.1)) {
            Some((unit, _)) => write!(f, "{}/{unit}", self.n),
            None if self.per.subsec_nanos() == 0 => write!(f, "{}/{}s", self.n, self.per.as_secs()),
            None => write!(f, "{} per {:?}", self.n, self.per),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_rate(text: &str, n: u32, secs: u64) {
        let expected = Rate::new(n, Duration::from_secs(secs)).unwrap();
        assert_eq!(text.parse::<Rate>(), Ok(expected), "{text}");
        assert_eq!(expected.to_string().parse::<Rate>(), Ok(expected), "{expected}");
    }

    #[test]
    fn a_rate_is_a_number_a_slash_and_a_unit() {
        check_rate("10/s", 10, 1);
        check_rate("30/min", 30, 60);
        check_rate("30/m", 30, 60);
        check_rate("5/h", 5, 3600);
        check_rate("1 / day", 1, 86_400);
        check_rate("1/10s", 1, 10);
        check_rate("3/2h", 3, 7200);
    }

    #[test]
    fn what_is_no_rate_is_refused_with_the_cure() {
        for text in ["", "10", "/s", "s/10", "10/", "10/week", "-1/s", "1.5/s", "10//s", "1/ß"] {
            assert_eq!(text.parse::<Rate>(), Err(RateError::Text(text.to_owned())), "{text}");
        }
        assert_eq!("0/s".parse::<Rate>(), Err(RateError::Zero));
        assert!(matches!("1/0s".parse::<Rate>(), Err(RateError::Per(_))));
        let huge = "1/99999999999999999h".parse::<Rate>();
        assert!(matches!(huge, Err(RateError::Per(_))), "{huge:?}");
        let error = "ten".parse::<Rate>().unwrap_err().to_string();
        assert!(error.contains("such as `10/s`"), "{error}");
    }

    #[test]
    fn the_interval_never_makes_the_rate_faster() {
        let third = Rate::new(3, Duration::from_secs(1)).unwrap();
        assert_eq!(third.interval(), Duration::from_nanos(333_333_334));
    }
}
