//! When a circuit breaker opens and closes, as configured.

use std::time::Duration;

use crate::{Backoff, BackoffDelays};

/// The most outcomes a window may hold: a byte each.
const N_WINDOW_MAX: u32 = 100_000;

/// How many failures open a circuit breaker.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BreakerTrip {
    /// So many in a row.
    Consecutive {
        /// At least 1.
        n_failures: u32,
    },
    /// A share of the latest calls.
    Rate {
        /// The share of failures from which on it opens, over 0 and up to 1.
        failed_share: f64,
        /// Of how many calls, the latest: 1 to 100,000.
        n_window: u32,
        /// With fewer calls in the window the share says little, and does not open it: 1 up to
        /// `n_window`.
        n_calls_min: u32,
    },
}

/// When a [`CircuitBreaker`](crate::CircuitBreaker) opens and closes.
///
/// ```
/// use std::time::Duration;
/// use taskloom_flow::{BreakerRules, BreakerTrip, CircuitBreaker};
///
/// let breaker: CircuitBreaker<std::io::Error> = CircuitBreaker::new(BreakerRules {
///     trip: BreakerTrip::Rate { failed_share: 0.5, n_window: 100, n_calls_min: 20 },
///     slow_after: Some(Duration::from_secs(2)),
///     ..BreakerRules::default()
/// })
/// .unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BreakerRules {
    /// How many failures open it; at first 5 in a row.
    pub trip: BreakerTrip,
    /// A call that takes this long counts as a failure, even when it succeeds; at first none does.
    pub slow_after: Option<Duration>,
    /// How long it stays open: the first delay after the first trip, the next one when the probes
    /// failed, and so on; from the first again once it has closed. At first 30 s each time.
    ///
    /// With [`Jitter::Full`](crate::Jitter::Full) it may be hardly any time;
    /// [`Jitter::Equal`](crate::Jitter::Equal) keeps half of it.
    pub open_for: Backoff,
    /// How many calls may be under way while it is half-open; at least 1, and at first that.
    pub n_probes: u32,
    /// How many of them must succeed to close it; at least 1, and at first that.
    pub n_successes: u32,
    /// Makes the jitter of `open_for` the same each time: for tests and simulations.
    pub seed: Option<u64>,
}

/// Rules by which a circuit breaker could never open, or never close again.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum BreakerRulesError {
    /// A number that must not be zero is.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// The share of failures is none.
    #[error(
        "a share of failures of {0} is not over 0 and up to 1; write 0.5 for half of the calls"
    )]
    Share(f64),
    /// The window would take too much memory.
    #[error("a window of {0} calls is over 100,000; take a smaller one")]
    Window(u32),
    /// The window never holds enough calls.
    #[error("a window of {n_window} calls never holds the {n_calls_min} it takes to open")]
    CallsMin {
        /// The calls a window holds.
        n_window: u32,
        /// The calls it takes.
        n_calls_min: u32,
    },
}

impl Default for BreakerRules {
    fn default() -> Self {
        BreakerRules {
            trip: BreakerTrip::Consecutive { n_failures: 5 },
            slow_after: None,
            open_for: Backoff::constant(Duration::from_secs(30)),
            n_probes: 1,
            n_successes: 1,
            seed: None,
        }
    }
}

impl BreakerRules {
    pub(super) fn check(&self) -> Result<(), BreakerRulesError> {
        let mut counts = vec![("n_probes", self.n_probes), ("n_successes", self.n_successes)];
        match self.trip {
            BreakerTrip::Consecutive { n_failures } => counts.push(("n_failures", n_failures)),
            BreakerTrip::Rate { failed_share, n_window, n_calls_min } => {
                counts.extend([("n_window", n_window), ("n_calls_min", n_calls_min)]);
                // A share that is no number is refused too.
                if !(0.0 < failed_share && failed_share <= 1.0) {
                    return Err(BreakerRulesError::Share(failed_share));
                }
                if N_WINDOW_MAX < n_window {
                    return Err(BreakerRulesError::Window(n_window));
                }
                if n_window < n_calls_min {
                    return Err(BreakerRulesError::CallsMin { n_window, n_calls_min });
                }
            }
        }
        match counts.into_iter().find(|(_, count)| *count == 0) {
            Some((name, _)) => Err(BreakerRulesError::Zero(name)),
            None => Ok(()),
        }
    }

    pub(super) fn delays(&self) -> BackoffDelays {
        match self.seed {
            Some(seed) => self.open_for.delays_with_seed(seed),
            None => self.open_for.delays(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(rules: BreakerRules, why: &str) {
        let refused = rules.check().unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }

    #[test]
    fn rules_that_cannot_work_are_refused() {
        let rules = BreakerRules::default();
        rules.check().unwrap();
        check_refused(BreakerRules { n_probes: 0, ..rules }, "n_probes must be at least 1");
        check_refused(BreakerRules { n_successes: 0, ..rules }, "n_successes must be");
        let in_a_row = BreakerTrip::Consecutive { n_failures: 0 };
        check_refused(BreakerRules { trip: in_a_row, ..rules }, "n_failures must be");
        let rate = |failed_share, n_window, n_calls_min| BreakerRules {
            trip: BreakerTrip::Rate { failed_share, n_window, n_calls_min },
            ..rules
        };
        rate(1.0, 100_000, 100_000).check().unwrap();
        for share in [0.0, -0.5, 1.01, f64::NAN] {
            check_refused(rate(share, 10, 5), "write 0.5");
        }
        check_refused(rate(0.5, 0, 0), "n_window must be");
        check_refused(rate(0.5, 10, 0), "n_calls_min must be");
        check_refused(rate(0.5, 10, 11), "never holds the 11");
        check_refused(rate(0.5, 100_001, 5), "take a smaller one");
    }
}
