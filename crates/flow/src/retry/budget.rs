//! A bound on the retries of many callers together, so that a server in trouble is not buried
//! under them.
//!
//! # Invariants
//! - In any span `t`, at most `n_saved_max + ratio * n_successes + n_per_second * t` retries are
//!   allowed.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What a retry costs, in millionths: small enough for any useful ratio, and exact.
const RETRY: u64 = 1_000_000;

/// A common allowance of retries, fed by calls that succeed and a little by time. Cloning it gives
/// another handle to the same allowance.
///
/// When all is well there is one retry for every so many successes. When every call errors, only
/// those per second remain, however many callers there are. It begins with all it can save.
///
/// After Finagle's `RetryBudget` and the retry throttling of gRPC (proposal A6).
///
/// ```
/// use taskloom_flow::RetryBudget;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// // A retry for every tenth success, one a second in any case, at most two saved up.
/// let budget = RetryBudget::new(0.1, 1, 2);
/// assert!(budget.try_spend() && budget.try_spend());
/// assert!(!budget.try_spend());
/// for _ in 0..10 {
///     budget.succeeded();
/// }
/// assert!(budget.try_spend());
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct RetryBudget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    per_success: u64,
    n_per_second: u32,
    saved_max: u64,
    state: Mutex<State>,
}

/// In millionths of a retry.
#[derive(Debug)]
struct State {
    saved: u64,
    /// What time has brought is in `saved` up to here.
    counted_until: Instant,
}

impl RetryBudget {
    /// An allowance of `ratio` retries for each success (0.1: one for every ten), `n_per_second`
    /// more in any case, and at most `n_saved_max` at once.
    ///
    /// # Panics
    /// When `ratio` is not from 0 to 1000, or `n_saved_max` is 0: nobody could ever retry.
    #[must_use]
    pub fn new(ratio: f64, n_per_second: u32, n_saved_max: u32) -> Self {
        assert!((0.0..=1000.0).contains(&ratio), "a ratio of {ratio} is not from 0 to 1000");
        assert!(
            0 < n_saved_max,
            "nobody can spend from a budget that saves nothing; save 1 or more"
        );
        // Through `Duration`, whose conversion checks and rounds.
        let per_success = Duration::from_secs_f64(ratio).as_micros();
        let per_success = u64::try_from(per_success).expect("the ratio was checked");
        let saved_max = u64::from(n_saved_max) * RETRY;
        let state = Mutex::new(State { saved: saved_max, counted_until: Instant::now() });
        RetryBudget { shared: Arc::new(Shared { per_success, n_per_second, saved_max, state }) }
    }

    /// Tells of a call that succeeded. [`Retry::run`](crate::Retry::run) does so by itself.
    pub fn succeeded(&self) {
        self.give(self.shared.per_success);
    }

    /// Takes one retry off the allowance; `false` when none is left.
    #[must_use = "without an allowance there is no retry"]
    pub fn try_spend(&self) -> bool {
        let now = Instant::now();
        let mut state = self.shared.state.lock();
        self.count_time(&mut state, now);
        let Some(saved) = state.saved.checked_sub(RETRY) else { return false };
        state.saved = saved;
        true
    }

    /// How many retries could be spent now.
    #[must_use]
    pub fn n_saved(&self) -> u32 {
        let now = Instant::now();
        let mut state = self.shared.state.lock();
        self.count_time(&mut state, now);
        u32::try_from(state.saved / RETRY).expect("it is at most `n_saved_max`")
    }

    /// Takes one retry like `try_spend`; it is given back unless it is made.
    pub(super) fn reserve(&self) -> Option<Reserved<'_>> {
        self.try_spend().then(|| Reserved { budget: self })
    }

    fn give(&self, millionths: u64) {
        let mut state = self.shared.state.lock();
        state.saved = self.shared.saved_max.min(state.saved + millionths);
    }

    fn count_time(&self, state: &mut State, now: Instant) {
        let passed = now.saturating_duration_since(state.counted_until).as_micros();
        // One retry is a million: so many a second are as many in a microsecond.
        let brought = passed.saturating_mul(u128::from(self.shared.n_per_second));
        if brought == 0 {
            return; // What is under a microsecond is counted later.
        }
        let room = self.shared.saved_max - state.saved;
        state.saved += u64::try_from(brought).unwrap_or(u64::MAX).min(room);
        state.counted_until = now;
    }
}

/// A retry that was allowed and not made yet; dropping it gives it back.
pub(super) struct Reserved<'a> {
    budget: &'a RetryBudget,
}

impl Reserved<'_> {
    /// The retry is made.
    pub(super) fn spend(self) {
        std::mem::forget(self);
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.budget.give(RETRY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[tokio::test(start_paused = true)]
    async fn time_brings_its_share_and_no_more_than_can_be_saved() {
        let budget = RetryBudget::new(0.0, 2, 3);
        let n_spent = || (0..100).take_while(|_| budget.try_spend()).count();
        assert_eq!(n_spent(), 3);
        for expected in [0, 1, 0, 1] {
            tokio::time::advance(Duration::from_millis(250)).await;
            assert_eq!(n_spent(), expected);
        }
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!((budget.n_saved(), n_spent()), (3, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn successes_bring_their_share() {
        let budget = RetryBudget::new(0.3, 0, 2);
        assert!(budget.try_spend() && budget.clone().try_spend() && !budget.try_spend());
        (0..3).for_each(|_| budget.succeeded());
        assert!(!budget.try_spend());
        budget.succeeded();
        assert!(budget.try_spend() && !budget.try_spend());
        (0..1000).for_each(|_| budget.succeeded());
        assert_eq!(budget.n_saved(), 2);
    }

    #[test]
    #[should_panic(expected = "save 1 or more")]
    fn a_budget_that_saves_nothing_is_a_mistake() {
        drop(RetryBudget::new(0.1, 1, 0));
    }

    #[test]
    #[should_panic(expected = "not from 0 to 1000")]
    fn a_ratio_below_zero_is_a_mistake() {
        drop(RetryBudget::new(-0.1, 1, 1));
    }

    proptest! {
        #[test]
        fn retries_never_exceed_their_share(
            percent in 0_u32..200,
            n_per_second in 0_u32..20,
            n_saved_max in 1_u32..20,
            steps in proptest::collection::vec((0_u64..300, 0_u32..4, 0_u32..6), 1..100),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time().start_paused(true).build().unwrap();
            let exceeded = runtime.block_on(async {
                let ratio = f64::from(percent) / 100.0;
                let budget = RetryBudget::new(ratio, n_per_second, n_saved_max);
                let (began, mut n_successes, mut n_spent) = (Instant::now(), 0, 0);
                for (millis, n_succeeded, n_tries) in steps {
                    tokio::time::advance(Duration::from_millis(millis)).await;
                    (0..n_succeeded).for_each(|_| budget.succeeded());
                    n_successes += n_succeeded;
                    n_spent += (0..n_tries).filter(|_| budget.try_spend()).count();
                    let share = f64::from(n_saved_max)
                        + f64::from(percent * n_successes) / 100.0
                        + f64::from(n_per_second) * began.elapsed().as_secs_f64();
                    let n = f64::from(u32::try_from(n_spent).unwrap());
                    if share + 1e-6 < n {
                        return Some((n, share));
                    }
                }
                None
            });
            prop_assert_eq!(exceeded, None);
        }
    }
}
