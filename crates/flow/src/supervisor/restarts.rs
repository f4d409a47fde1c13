//! How often and how soon a supervisor restarts: a sliding count, and a backoff with jitter.
//! Nothing here reads the clock; every caller passes `now`.
//!
//! # Invariants
//! - Of the restarts allowed, at most `n_max` fall within any one period.
//! - A delay lies between a half and the whole of what the backoff says.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::child::SPAN_MAX;

#[derive(Debug)]
pub(super) struct Restarts {
    n_max: usize,
    period: Duration,
    delay_first: Duration,
    delay_max: Duration,
    healed_after: Duration,
    /// When the latest restarts were allowed, oldest first; at most `n_max`.
    recent: VecDeque<Instant>,
    rng: fastrand::Rng,
}

impl Default for Restarts {
    fn default() -> Self {
        Restarts {
            n_max: 3,
            period: Duration::from_secs(5),
            delay_first: Duration::from_millis(100),
            delay_max: Duration::from_secs(30),
            healed_after: Duration::from_secs(30),
            recent: VecDeque::new(),
            rng: fastrand::Rng::new(),
        }
    }
}

impl Restarts {
    pub(super) fn set_intensity(&mut self, n_max: usize, period: Duration) {
        self.n_max = n_max;
        self.period = period.min(SPAN_MAX);
    }

    pub(super) fn set_backoff(&mut self, delay_first: Duration, delay_max: Duration) {
        self.delay_max = delay_max.min(SPAN_MAX);
        self.delay_first = delay_first.min(self.delay_max);
    }

    pub(super) fn set_healed_after(&mut self, lifetime: Duration) {
        self.healed_after = lifetime;
    }

    pub(super) fn set_seed(&mut self, seed: u64) {
        self.rng = fastrand::Rng::with_seed(seed);
    }

    /// The span restarts are counted over.
    pub(super) fn period(&self) -> Duration {
        self.period
    }

    /// Counts one more restart and says yes, or says how many there were within the period.
    pub(super) fn allow(&mut self, now: Instant) -> Result<(), usize> {
        while self.recent.front().is_some_and(|it| *it + self.period <= now) {
            self.recent.pop_front();
        }
        if self.n_max <= self.recent.len() {
            return Err(self.recent.len());
        }
        self.recent.push_back(now);
        Ok(())
    }

    /// How many failures in a row it makes, for a child that failed after `lifetime`.
    pub(super) fn n_failures(&self, n_before: u32, lifetime: Duration) -> u32 {
        if self.healed_after <= lifetime { 1 } else { n_before.saturating_add(1) }
    }

    /// How long to wait before the restart after this many failures in a row.
    pub(super) fn delay(&mut self, n_failures: u32) -> Duration {
        let n_doublings = n_failures.saturating_sub(1).min(31);
        let whole = self.delay_first.saturating_mul(1 << n_doublings).min(self.delay_max);
        whole.mul_f64(1.0 - self.rng.f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn delays_double_up_to_the_longest_and_lose_up_to_a_half() {
        let mut restarts = Restarts::default();
        restarts.set_backoff(SECOND, 10 * SECOND);
        for (n_failures, whole) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (u32::MAX, 10)] {
            let delays: Vec<_> = (0..200).map(|_| restarts.delay(n_failures)).collect();
            let (least, most) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
            assert!(whole * SECOND / 2 <= *least && *most <= whole * SECOND, "{least:?} {most:?}");
            assert!(whole * SECOND / 4 < *most - *least, "they spread");
        }
        restarts.set_backoff(Duration::ZERO, SECOND);
        assert_eq!(restarts.delay(9), Duration::ZERO);
    }

    #[test]
    fn one_seed_is_one_history() {
        let history = |seed| {
            let mut restarts = Restarts::default();
            restarts.set_seed(seed);
            (1..9).map(|it| restarts.delay(it)).collect::<Vec<_>>()
        };
        assert_eq!(history(7), history(7));
        assert_ne!(history(7), history(8));
    }

    #[test]
    fn a_child_that_lived_long_enough_starts_afresh() {
        let restarts = Restarts::default();
        assert_eq!(restarts.n_failures(4, 29 * SECOND), 5);
        assert_eq!(restarts.n_failures(4, 30 * SECOND), 1);
    }

    proptest! {
        #[test]
        fn no_period_holds_more_restarts_than_allowed(
            n_max in 0_usize..6,
            period in 1_u64..50,
            gaps in proptest::collection::vec(0_u64..30, 0..80),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _entered = runtime.enter();
            let mut restarts = Restarts::default();
            restarts.set_intensity(n_max, Duration::from_millis(period));
            let (began, mut at) = (Instant::now(), 0);
            let mut allowed: Vec<u64> = Vec::new();
            for gap in gaps {
                at += gap;
                let n_within = allowed.iter().filter(|it| at < **it + period).count();
                let answer = restarts.allow(began + Duration::from_millis(at));
                prop_assert_eq!(answer.is_ok(), n_within < n_max, "neither more nor fewer");
                allowed.extend(answer.is_ok().then_some(at));
                prop_assert!(restarts.recent.len() <= n_max);
            }
        }
    }
}
