//! Which requests of the demo's server go wrong, and how: the same seed, path and number of the
//! request give the same answer on every machine.
//!
//! # Invariants
//! - Of any `FAILURES_MAX` + 1 requests for a path that follow each other, one is answered well,
//!   so a client that tries again gets its answer.

use std::time::Duration;

/// How many requests for one path may fail in a row.
pub(crate) const FAILURES_MAX: u64 = 2;

/// How often the server misbehaves.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Faults {
    /// One seed is one history.
    pub(crate) seed: u64,
    /// The share of requests that fail, from 0 to 1, before [`FAILURES_MAX`] has its say.
    pub(crate) failing: f64,
    /// The share of requests that are answered well, but late, from 0 to 1.
    pub(crate) slow: f64,
    /// How late at least.
    pub(crate) slow_min: Duration,
    /// How late at most.
    pub(crate) slow_max: Duration,
}

/// What is wrong with one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is right, and comes late.
    Slow(Duration),
    /// It is a status 500.
    ServerError,
    /// It is a status 429 with `Retry-After: 1`.
    Throttled,
    /// There is none: the connection is reset.
    Reset,
}

impl Faults {
    /// A server that always behaves.
    pub(crate) fn none() -> Self {
        Faults {
            seed: 0,
            failing: 0.0,
            slow: 0.0,
            slow_min: Duration::from_millis(200),
            slow_max: Duration::from_millis(800),
        }
    }

    /// A bad day on the Internet: one request in six fails, one in ten is slow.
    pub(crate) fn bad_day(seed: u64) -> Self {
        Faults { seed, failing: 0.17, slow: 0.1, ..Faults::none() }
    }

    /// What is wrong with the answer to the `n`-th request (from 0) for `path`.
    pub(crate) fn decide(&self, path: &str, n: u64) -> Option<Fault> {
        let mut rng = fastrand::Rng::with_seed(mix(self.seed, path, n));
        let draw = rng.f64();
        if draw < self.failing {
            if n % (FAILURES_MAX + 1) == FAILURES_MAX {
                return None;
            }
            return rng.choice([Fault::ServerError, Fault::Throttled, Fault::Reset]);
        }
        if draw < self.failing + self.slow {
            let span = self.slow_max.saturating_sub(self.slow_min);
            return Some(Fault::Slow(self.slow_min + span.mul_f64(rng.f64())));
        }
        None
    }
}

/// FNV-1a: fixed for ever, unlike the hashers of the standard library.
fn mix(seed: u64, path: &str, n: u64) -> u64 {
    let bytes = seed.to_le_bytes().into_iter().chain(path.bytes()).chain(n.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths() -> impl Iterator<Item = String> {
        (0..2_000).map(|it| format!("/airports/{it}"))
    }

    fn is_failure(fault: Option<Fault>) -> bool {
        matches!(fault, Some(Fault::ServerError | Fault::Throttled | Fault::Reset))
    }

    #[test]
    fn no_path_fails_more_often_in_a_row_than_a_retry_can_bear() {
        let faults = Faults { failing: 1.0, ..Faults::none() };
        for path in paths() {
            for begin in 0..10 {
                let mut tries = begin..=begin + FAILURES_MAX;
                assert!(tries.any(|n| !is_failure(faults.decide(&path, n))));
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_faults_and_another_gives_others() {
        let history =
            |seed| -> Vec<_> { paths().map(|it| Faults::bad_day(seed).decide(&it, 0)).collect() };
        assert_eq!(history(1), history(1));
        assert_ne!(history(1), history(2));
    }

    #[test]
    fn every_kind_of_fault_comes_about_as_often_as_asked() {
        let faults = Faults::bad_day(7);
        let decided: Vec<_> = paths().filter_map(|it| faults.decide(&it, 0)).collect();
        let n_failing = decided.iter().filter(|it| is_failure(Some(**it))).count();
        assert!((280..400).contains(&n_failing), "{n_failing} of 2000 fail");
        for kind in [Fault::ServerError, Fault::Throttled, Fault::Reset] {
            assert!(80 < decided.iter().filter(|it| **it == kind).count(), "{kind:?} is rare");
        }
        let n_slow = decided.len() - n_failing;
        assert!((140..260).contains(&n_slow), "{n_slow} of 2000 are slow");
        let in_time = |it: &Fault| match it {
            Fault::Slow(by) => faults.slow_min <= *by && *by <= faults.slow_max,
            Fault::ServerError | Fault::Throttled | Fault::Reset => true,
        };
        assert!(decided.iter().all(in_time));
    }

    #[test]
    fn none_means_none() {
        assert!(paths().all(|it| Faults::none().decide(&it, 0).is_none()));
    }
}
