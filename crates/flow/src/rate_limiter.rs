//! Rate limiting by the generic cell rate algorithm (GCRA): one moment says it all.
//!
//! # Invariants
//! - In any span `t`, at most `burst + t / interval` calls are let through.
//! - Calls are let through in the order they came.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::Rate;

/// Spaces calls out to a rate, in the order they came; up to `burst` of them pass at once after a
/// quiet time.
///
/// It follows Tokio's clock, paused or not. Tokio's timer ticks in milliseconds, so over about
/// 500 a second the full rate needs a burst of at least what two milliseconds bring.
///
/// ```
/// use taskloom_flow::RateLimiter;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let limiter = RateLimiter::new("10/s".parse().unwrap(), 1);
/// let began = tokio::time::Instant::now();
/// for _ in 0..3 {
///     limiter.acquire().await;
/// }
/// assert_eq!(began.elapsed().as_millis(), 200);
/// # }
/// ```
#[derive(Debug)]
pub struct RateLimiter {
    interval: Duration,
    /// How far ahead of the clock `next` may run: the burst.
    ahead_max: Duration,
    /// One permit, handed on in the order of asking: its holder is the one who waits for time.
    turn: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When a call would be due if all came evenly spaced. Moved by each call let through.
    next: Option<Instant>,
    /// Nothing passes before this moment.
    paused_until: Option<Instant>,
}

impl RateLimiter {
    /// A limiter to `rate`, with up to `burst` calls at once; a burst of 0 counts as 1.
    #[must_use]
    pub fn new(rate: Rate, burst: u32) -> Self {
        let interval = rate.interval();
        let ahead_max = interval.saturating_mul(burst.saturating_sub(1));
        let state = Mutex::default();
        RateLimiter { interval, ahead_max, turn: Semaphore::new(1), state }
    }

    /// Waits until the rate lets one more call through.
    ///
    /// # Cancel safety
    /// Safe: a call that stops waiting gives its place back and takes nothing of the rate.
    pub async fn acquire(&self) {
        let turn = self.turn.acquire().await;
        let _turn = turn.expect("the semaphore is never closed");
        while let Err(at) = self.pass(Instant::now()) {
            tokio::time::sleep_until(at).await;
        }
    }

    /// Lets one call through at `now`, or says when to ask again.
    fn pass(&self, now: Instant) -> Result<(), Instant> {
        let mut state = self.state.lock();
        if let Some(until) = state.paused_until.filter(|it| now < *it) {
            return Err(until);
        }
        let next = state.next.map_or(now, |it| it.max(now));
        if now + self.ahead_max < next {
            return Err(next - self.ahead_max);
        }
        state.next = Some(next + self.interval);
        Ok(())
    }

    /// Lets nothing through for `delay`: what `Retry-After` asks for. The longest pause wins;
    /// delays over a day count as a day.
    pub fn pause_for(&self, delay: Duration) {
        let until = Instant::now() + delay.min(Duration::from_secs(86_400));
        let mut state = self.state.lock();
        state.paused_until = state.paused_until.max(Some(until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TaskGroup;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn limiter(n: u32, burst: u32) -> RateLimiter {
        RateLimiter::new(Rate::new(n, Duration::from_secs(1)).unwrap(), burst)
    }

    async fn millis_of(limiter: &RateLimiter, n_calls: usize) -> Vec<u128> {
        let began = Instant::now();
        let mut passed = Vec::new();
        for _ in 0..n_calls {
            limiter.acquire().await;
            passed.push(began.elapsed().as_millis());
        }
        passed
    }

    #[tokio::test(start_paused = true)]
    async fn calls_are_spaced_evenly_after_the_burst() {
        assert_eq!(millis_of(&limiter(10, 1), 4).await, [0, 100, 200, 300]);
        assert_eq!(millis_of(&limiter(10, 3), 5).await, [0, 0, 0, 100, 200]);
        assert_eq!(millis_of(&limiter(10, 0), 2).await, [0, 100]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_time_saves_up_no_more_than_the_burst() {
        let limiter = limiter(10, 3);
        millis_of(&limiter, 3).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(millis_of(&limiter, 5).await, [0, 0, 0, 100, 200]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_holds_even_those_who_wait_already() {
        let limiter = limiter(10, 1);
        limiter.acquire().await;
        let began = Instant::now();
        let pause = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            limiter.pause_for(Duration::from_secs(2));
            limiter.pause_for(Duration::from_secs(1));
        };
        tokio::join!(limiter.acquire(), pause);
        assert_eq!(began.elapsed().as_millis(), 2050);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_call_gives_its_place_back() {
        let limiter = limiter(1, 1);
        limiter.acquire().await;
        let began = Instant::now();
        let impatient = async {
            tokio::time::timeout(Duration::from_millis(500), limiter.acquire()).await.unwrap_err();
        };
        tokio::join!(biased; impatient, limiter.acquire());
        assert_eq!(began.elapsed().as_millis(), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_pass_in_the_order_they_came() {
        let limiter = Arc::new(limiter(10, 2));
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut group = TaskGroup::new();
        for place in 0..20 {
            let (limiter, order) = (Arc::clone(&limiter), Arc::clone(&order));
            group.spawn("caller", async move {
                limiter.acquire().await;
                order.lock().push(place);
            });
        }
        while group.join_next().await.is_some() {}
        assert_eq!(*order.lock(), (0..20).collect::<Vec<_>>());
    }

    /// When each of `callers` was let through: they come some ms apart, and some give up.
    async fn passes(limiter: RateLimiter, callers: Vec<(u64, Option<u64>)>) -> Vec<Duration> {
        let limiter = Arc::new(limiter);
        let passed = Arc::new(Mutex::new(Vec::new()));
        let began = Instant::now();
        let mut group = TaskGroup::new();
        for (gap, patience) in callers {
            tokio::time::sleep(Duration::from_millis(gap)).await;
            let (limiter, passed) = (Arc::clone(&limiter), Arc::clone(&passed));
            group.spawn("caller", async move {
                let patience = Duration::from_millis(patience.unwrap_or(u64::from(u32::MAX)));
                if tokio::time::timeout(patience, limiter.acquire()).await.is_ok() {
                    passed.lock().push(began.elapsed());
                }
            });
        }
        while group.join_next().await.is_some() {}
        std::mem::take(&mut *passed.lock())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_rate_is_never_exceeded(
            n in 1_u32..200,
            burst in 1_u32..10,
            callers in proptest::collection::vec((0_u64..40, prop::option::of(0_u64..300)), 1..80),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time().start_paused(true).build().unwrap();
            let n_patient = callers.iter().filter(|it| it.1.is_none()).count();
            let passed = runtime.block_on(passes(limiter(n, burst), callers));
            prop_assert!(n_patient <= passed.len());
            let interval = Duration::from_secs(1) / n;
            for (first, from) in passed.iter().enumerate() {
                for (last, to) in passed.iter().enumerate().skip(first) {
                    let n_passed = u32::try_from(last - first + 1).unwrap();
                    let least = interval * n_passed.saturating_sub(burst);
                    prop_assert!(least <= *to - *from, "{n_passed} passed in {:?}", *to - *from);
                }
            }
        }
    }
}
