//! Retry policies: how often a job is tried, and how long it waits in between.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A number drawn evenly from 0 (included) to 1 (excluded), given by the caller: this crate has
/// no randomness of its own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Roll(pub f64);

/// How chance spreads the delays, so that jobs that failed together don't return together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Jitter {
    /// Anywhere between nothing and the whole delay ("Exponential Backoff and Jitter", M. Brooker, AWS, 2015).
    #[default]
    Full,
    /// The delay as it stands.
    None,
}

/// How the delay grows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Backoff {
    /// The delay after the first attempt, in milliseconds on disk.
    #[serde(with = "as_millis")]
    pub delay_first: Duration,
    /// What each further delay is multiplied by; at least 1.
    pub factor: f64,
    /// No delay is longer, before a hint such as `Retry-After`.
    #[serde(with = "as_millis")]
    pub delay_max: Duration,
    /// How chance spreads it.
    pub jitter: Jitter,
}

/// When an errored job is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// How many attempts a job has in all; at least 1.
    pub max_attempts: u32,
    /// The delays between them.
    pub backoff: Backoff,
}

impl Default for RetryPolicy {
    /// Five attempts; 1 s, doubling, at most 5 minutes, full jitter.
    fn default() -> Self {
        RetryPolicy {
            max_attempts: 5,
            backoff: Backoff {
                delay_first: Duration::from_secs(1),
                factor: 2.0,
                delay_max: Duration::from_secs(300),
                jitter: Jitter::Full,
            },
        }
    }
}

impl RetryPolicy {
    /// The longest wait a hint (`Retry-After`) may ask for: a day.
    pub const HINT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

    /// Exactly one attempt.
    #[must_use]
    pub fn never() -> Self {
        RetryPolicy { max_attempts: 1, ..RetryPolicy::default() }
    }

    /// Checks the bounds.
    ///
    /// # Errors
    /// [`RetryPolicyError`] with the cure.
    pub fn check(&self) -> Result<(), RetryPolicyError> {
        if self.max_attempts == 0 {
            return Err(RetryPolicyError("max_attempts is 0; a job needs at least 1"));
        }
        if !self.backoff.factor.is_finite() || self.backoff.factor < 1.0 {
            return Err(RetryPolicyError("factor must be a number of at least 1"));
        }
        Ok(())
    }

    /// How long to wait after `n_attempts` attempts, or `None` when they are used up. A `hint`
    /// from the error overrides the computed delay, up to [`RetryPolicy::HINT_MAX`].
    #[must_use]
    pub fn delay(&self, n_attempts: u32, roll: Roll, hint: Option<Duration>) -> Option<Duration> {
        if self.max_attempts <= n_attempts {
            return None;
        }
        if let Some(hint) = hint {
            return Some(hint.min(Self::HINT_MAX));
        }
        let exponent = i32::try_from(n_attempts.saturating_sub(1)).unwrap_or(i32::MAX);
        let max = self.backoff.delay_max.as_secs_f64();
        let grown = self.backoff.delay_first.as_secs_f64() * self.backoff.factor.powi(exponent);
        let secs = if grown.is_finite() { grown.min(max) } else { max };
        let secs = match self.backoff.jitter {
            Jitter::Full => secs * roll.0.clamp(0.0, 1.0),
            Jitter::None => secs,
        };
        // The longest durations are no whole floating-point numbers of seconds.
        Some(Duration::try_from_secs_f64(secs).unwrap_or(self.backoff.delay_max))
    }
}

/// A retry policy out of bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicyError(&'static str);

impl fmt::Display for RetryPolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for RetryPolicyError {}

mod as_millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        max_attempts: 4,
        backoff: Backoff {
            delay_first: Duration::from_secs(1),
            factor: 2.0,
            delay_max: Duration::from_secs(3),
            jitter: Jitter::None,
        },
    };

    #[track_caller]
    fn check_delay(n_attempts: u32, expected_secs: Option<u64>) {
        let actual = POLICY.delay(n_attempts, Roll(0.5), None).map(|it| it.as_secs());
        assert_eq!(actual, expected_secs, "after {n_attempts} attempts");
    }

    #[test]
    fn delay_doubles_up_to_the_maximum_until_attempts_run_out() {
        check_delay(1, Some(1));
        check_delay(2, Some(2));
        check_delay(3, Some(3));
        check_delay(4, None);
        check_delay(u32::MAX, None);
    }

    #[test]
    fn full_jitter_spreads_from_nothing_to_the_whole_delay() {
        let mut policy = POLICY;
        policy.backoff.jitter = Jitter::Full;
        let millis = |roll| policy.delay(2, Roll(roll), None).map(|it| it.as_millis());
        assert_eq!(millis(0.0), Some(0));
        assert_eq!(millis(0.25), Some(500));
        assert_eq!(millis(0.999), Some(1998));
    }

    #[test]
    fn a_hint_overrides_the_delay_but_not_the_number_of_attempts() {
        let hint = Some(Duration::from_secs(77));
        assert_eq!(POLICY.delay(1, Roll(0.0), hint), hint);
        assert_eq!(POLICY.delay(4, Roll(0.0), hint), None);
        let week = Some(Duration::from_secs(7 * 86_400));
        assert_eq!(POLICY.delay(1, Roll(0.0), week), Some(RetryPolicy::HINT_MAX));
    }

    #[test]
    fn a_huge_policy_does_not_overflow() {
        let policy = RetryPolicy { max_attempts: u32::MAX, ..POLICY };
        assert_eq!(policy.delay(5000, Roll(0.5), None), Some(Duration::from_secs(3)));
        let backoff = Backoff { delay_max: Duration::MAX, ..POLICY.backoff };
        let policy = RetryPolicy { backoff, ..policy };
        assert_eq!(policy.delay(5000, Roll(0.5), None), Some(Duration::MAX));
    }
}
