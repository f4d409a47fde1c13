//! How long to wait before each next try.
//!
//! # Invariants
//! - No delay is over `delay_max`.

use std::time::Duration;

use fastrand::Rng;

/// A longest delay over this is surely a mistake.
const DELAY_LIMIT: Duration = Duration::from_secs(7 * 86_400);

/// How chance spreads the delays of many callers, so that they do not all come back at once.
///
/// From "Exponential Backoff and Jitter", AWS Architecture Blog, 2015. There, `Full` needs the
/// fewest calls in all; `Equal` never comes back at once; `Decorrelated` lies between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Jitter {
    /// The delay as it is.
    None,
    /// Anything from zero to the delay.
    #[default]
    Full,
    /// Anything from half the delay to all of it.
    Equal,
    /// Anything from the first delay to `factor` times the delay drawn before. The article has a
    /// factor of 3.
    Decorrelated,
}

/// Delays that cannot be meant.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum BackoffError {
    /// No first delay, so all would be zero.
    #[error("a first delay of zero never grows; for no delay at all use `Backoff::none()`")]
    FirstZero,
    /// Delays that shrink, or no number.
    #[error("a factor of {0} does not grow; write 1 for equal delays, or 2 to double them")]
    Factor(f64),
    /// The first delay is over the longest.
    #[error("the first delay ({delay_first:?}) is over the longest ({delay_max:?}); swap them?")]
    FirstOverMax {
        /// The first delay.
        delay_first: Duration,
        /// The longest delay.
        delay_max: Duration,
    },
    /// The longest delay is over a week.
    #[error("a longest delay of {0:?} is over the 7 days that are allowed; choose a shorter one")]
    Max(Duration),
}

/// Delays that grow by a factor, up to a longest one.
///
/// The default is 100 ms, doubled each time, up to 30 s, with full jitter.
///
/// ```
/// use std::time::Duration;
/// use taskloom_flow::{Backoff, Jitter};
///
/// let [first, max] = [1, 5].map(Duration::from_secs);
/// let backoff = Backoff::new(first, 2.0, max, Jitter::None).unwrap();
/// let delays: Vec<u64> = backoff.delays().take(5).map(|it| it.as_secs()).collect();
/// assert_eq!(delays, [1, 2, 4, 5, 5]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    delay_first: Duration,
    factor: f64,
    delay_max: Duration,
    jitter: Jitter,
}

impl Backoff {
    /// Delays from `delay_first` on, each `factor` times the one before, up to `delay_max`, and
    /// spread by `jitter`.
    ///
    /// # Errors
    /// [`BackoffError`] when the first delay is zero or over the longest, when the factor is under
    /// 1 or no finite number, or when the longest delay is over 7 days.
    pub fn new(
        delay_first: Duration,
        factor: f64,
        delay_max: Duration,
        jitter: Jitter,
    ) -> Result<Backoff, BackoffError> {
        if delay_first.is_zero() {
            return Err(BackoffError::FirstZero);
        }
        if !factor.is_finite() || factor < 1.0 {
            return Err(BackoffError::Factor(factor));
        }
        if delay_max < delay_first {
            return Err(BackoffError::FirstOverMax { delay_first, delay_max });
        }
        if DELAY_LIMIT < delay_max {
            return Err(BackoffError::Max(delay_max));
        }
        Ok(Backoff { delay_first, factor, delay_max, jitter })
    }

    /// The same delay each time, without jitter; one over 7 days counts as 7 days.
    #[must_use]
    pub fn constant(delay: Duration) -> Backoff {
        let delay = delay.min(DELAY_LIMIT);
        Backoff { delay_first: delay, factor: 1.0, delay_max: delay, jitter: Jitter::None }
    }

    /// No delay at all. Bound the tries by a number: they come as fast as they fail.
    #[must_use]
    pub fn none() -> Backoff {
        Backoff::constant(Duration::ZERO)
    }

    /// The delays, one after the other, without end.
    pub fn delays(&self) -> BackoffDelays {
        self.delays_from(Rng::new())
    }

    /// The delays, with the same chance for the same seed.
    pub fn delays_with_seed(&self, seed: u64) -> BackoffDelays {
        self.delays_from(Rng::with_seed(seed))
    }

    fn delays_from(&self, rng: Rng) -> BackoffDelays {
        BackoffDelays { backoff: *self, rng, next: self.delay_first }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff {
            delay_first: Duration::from_millis(100),
            factor: 2.0,
            delay_max: Duration::from_secs(30),
            jitter: Jitter::Full,
        }
    }
}

/// The delays of a [`Backoff`], one after the other, without end.
#[derive(Debug, Clone)]
#[must_use = "it does nothing until asked for its next delay"]
pub struct BackoffDelays {
    backoff: Backoff,
    rng: Rng,
    /// Without jitter: the next delay; decorrelated: the one drawn last.
    next: Duration,
}

impl Iterator for BackoffDelays {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let Backoff { delay_first, factor, delay_max, jitter } = self.backoff;
        // The longest delay bounds the product too, which may be beyond any `Duration`.
        let grown = self.next.as_secs_f64() * factor;
        let grown = Duration::try_from_secs_f64(grown).unwrap_or(delay_max).min(delay_max);
        let delay = std::mem::replace(&mut self.next, grown);
        Some(match jitter {
            Jitter::None => delay,
            Jitter::Full => self.between(Duration::ZERO, delay),
            Jitter::Equal => self.between(delay / 2, delay),
            Jitter::Decorrelated => {
                self.next = self.between(delay_first, grown);
                self.next
            }
        })
    }
}

impl BackoffDelays {
    fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let nanos = |it: Duration| u64::try_from(it.as_nanos()).expect("a week fits");
        Duration::from_nanos(self.rng.u64(nanos(least)..=nanos(most)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[track_caller]
    fn check_refused(first: Duration, factor: f64, max: Duration, cure: &str) {
        let refused = Backoff::new(first, factor, max, Jitter::None).unwrap_err().to_string();
        assert!(refused.contains(cure), "{refused}");
    }

    #[test]
    fn delays_that_cannot_be_meant_are_refused_with_the_cure() {
        check_refused(Duration::ZERO, 2.0, SECOND, "Backoff::none()");
        for factor in [0.99, -1.0, f64::NAN, f64::INFINITY] {
            check_refused(SECOND, factor, SECOND, "write 1");
        }
        check_refused(SECOND * 2, 2.0, SECOND, "swap them?");
        check_refused(SECOND, 2.0, DELAY_LIMIT + SECOND, "shorter");
    }

    #[test]
    fn a_constant_delay_stays_and_none_is_none() {
        assert!(Backoff::constant(SECOND).delays().take(9).all(|it| it == SECOND));
        assert!(Backoff::none().delays().take(9).all(|it| it.is_zero()));
        assert_eq!(Backoff::constant(Duration::MAX).delays().next(), Some(DELAY_LIMIT));
    }

    #[test]
    fn one_seed_is_one_history() {
        for jitter in [Jitter::Full, Jitter::Equal, Jitter::Decorrelated] {
            let backoff = Backoff::new(SECOND, 2.0, SECOND * 60, jitter).unwrap();
            let history = |seed| backoff.delays_with_seed(seed).take(9).collect::<Vec<_>>();
            assert_eq!(history(1), history(1));
            assert_ne!(history(1), history(2));
        }
    }

    #[test]
    fn jitter_spreads_over_its_whole_range() {
        for (jitter, least) in [(Jitter::Full, 0.0), (Jitter::Equal, 0.5)] {
            let backoff = Backoff::new(SECOND, 1.0, SECOND, jitter).unwrap();
            let delays = backoff.delays_with_seed(7).take(2000).map(|it| it.as_secs_f64());
            let (mut low, mut high, mut sum) = (1.0_f64, 0.0_f64, 0.0);
            for delay in delays {
                (low, high, sum) = (low.min(delay), high.max(delay), sum + delay);
            }
            assert!(least <= low && low < least + 0.01, "{jitter:?} begins at {low}");
            assert!(0.99 < high && high <= 1.0, "{jitter:?} ends at {high}");
            let mean = f64::midpoint(least, 1.0);
            assert!((sum / 2000.0 - mean).abs() < 0.02, "{jitter:?} is not even");
        }
    }

    proptest! {
        #[test]
        fn every_delay_lies_within_its_bounds(
            first in 1_u64..10_000,
            factor in 1.0_f64..1e6,
            max in 10_000_u64..600_000_000,
            seed in any::<u64>(),
        ) {
            let [first, max] = [first, max].map(Duration::from_millis);
            let delays = |jitter| {
                let backoff = Backoff::new(first, factor, max, jitter).unwrap();
                backoff.delays_with_seed(seed).take(20).collect::<Vec<_>>()
            };
            let plain = delays(Jitter::None);
            prop_assert!(plain.is_sorted() && plain[0] == first);
            prop_assert!(plain.iter().all(|it| *it <= max));
            for (full, plain) in delays(Jitter::Full).iter().zip(&plain) {
                prop_assert!(full <= plain);
            }
            for (equal, plain) in delays(Jitter::Equal).iter().zip(&plain) {
                prop_assert!(*plain / 2 <= *equal && equal <= plain);
            }
            let mut before = first;
            for drawn in delays(Jitter::Decorrelated) {
                let most = before.as_secs_f64() * factor + 1e-6;
                prop_assert!(first <= drawn && drawn <= max && drawn.as_secs_f64() <= most);
                before = drawn;
            }
        }
    }
}
