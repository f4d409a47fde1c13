//! What a rate limiter promises: never over the rate, in order, and nothing lost by a cancel.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::TaskGroup;
use crate::testing::{at_every_await_point, cancel_after};

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
    let mut group = TaskGroup::isolated();
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

#[tokio::test(start_paused = true)]
async fn nobody_overtakes_those_who_wait() {
    let limiter = limiter(10, 1);
    limiter.acquire().await;
    let mut first = Box::pin(limiter.acquire());
    assert!(futures::poll!(&mut first).is_pending());
    // The first is due now, and has not been polled: it still goes first.
    tokio::time::advance(Duration::from_millis(100)).await;
    let millis = |refused: WouldWait| refused.retry_after.as_millis();
    assert_eq!(limiter.try_acquire().map_err(millis), Err(100));
    let second = async {
        limiter.acquire().await;
        Instant::now()
    };
    let (second, ()) = tokio::join!(biased; second, first);
    assert_eq!(second - limiter.origin, Duration::from_millis(200));
}

#[tokio::test(start_paused = true)]
async fn a_routine_without_budget_keeps_its_place() {
    let limiter = Arc::new(limiter(10, 1));
    limiter.acquire().await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut group = TaskGroup::isolated();
    for (name, is_spent) in [("spent", true), ("fresh", false)] {
        let (limiter, order) = (Arc::clone(&limiter), Arc::clone(&order));
        group.spawn(name, async move {
            // Uses up what Tokio grants a routine between two yields.
            while is_spent && tokio::task::coop::has_budget_remaining() {
                tokio::task::coop::consume_budget().await;
            }
            limiter.acquire().await;
            order.lock().push(name);
        });
    }
    while group.join_next().await.is_some() {}
    assert_eq!(*order.lock(), ["spent", "fresh"]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_when_to_come_back() {
    let limiter = limiter(10, 2);
    let tried = || limiter.try_acquire().map_err(|it| it.retry_after.as_millis());
    assert_eq!([tried(), tried(), tried()], [Ok(()), Ok(()), Err(100)]);
    tokio::time::advance(Duration::from_millis(99)).await;
    assert_eq!(tried(), Err(1));
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!([tried(), tried()], [Ok(()), Err(100)]);
    limiter.pause_for(Duration::from_secs(3));
    assert_eq!(tried(), Err(3000));
}

#[tokio::test(start_paused = true)]
async fn the_wait_told_counts_those_who_wait_and_the_pause() {
    let limiter = limiter(10, 1);
    limiter.acquire().await;
    limiter.pause_for(Duration::from_secs(1));
    let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(limiter.acquire())).collect();
    for call in &mut waiting {
        assert!(futures::poll!(call).is_pending());
    }
    let told = limiter.try_acquire().unwrap_err().retry_after;
    assert_eq!(told.as_millis(), 1300);
    let began = Instant::now();
    tokio::join!(biased; futures::future::join_all(waiting), limiter.acquire());
    assert_eq!(began.elapsed(), told);
}

#[tokio::test(start_paused = true)]
async fn several_pass_together_or_wait_together() {
    let limiter = limiter(10, 4);
    let began = Instant::now();
    limiter.acquire_many(3).await.unwrap();
    assert_eq!(began.elapsed().as_millis(), 0);
    limiter.acquire_many(4).await.unwrap();
    assert_eq!(began.elapsed().as_millis(), 300);
    limiter.acquire_many(1).await.unwrap();
    assert_eq!(began.elapsed().as_millis(), 400);
    limiter.acquire_many(0).await.unwrap();
    assert_eq!(limiter.acquire_many(5).await, Err(OverBurst { n: 5, burst: 4 }));
    assert_eq!(began.elapsed().as_millis(), 400);
}

#[tokio::test(start_paused = true)]
async fn a_wait_over_the_limit_is_refused_at_once() {
    let limiter = limiter(10, 1);
    let began = Instant::now();
    let within = |millis| limiter.acquire_within(Duration::from_millis(millis));
    assert_eq!(within(0).await, Ok(()));
    assert_eq!(within(99).await.unwrap_err().retry_after.as_millis(), 100);
    assert_eq!(began.elapsed().as_millis(), 0, "nobody waited in vain");
    // The second would have to wait for the first.
    let (first, second) = tokio::join!(biased; within(100), within(199));
    assert_eq!((first, second.unwrap_err().retry_after.as_millis()), (Ok(()), 200));
    assert_eq!(began.elapsed().as_millis(), 100);
    assert_eq!(limiter.acquire_within(Duration::MAX).await, Ok(()));
    assert_eq!(began.elapsed().as_millis(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_comes_later_does_not_hold_a_call_over_its_limit() {
    let limiter = limiter(10, 1);
    limiter.acquire().await;
    let began = Instant::now();
    let limited = async {
        let limits = [100, 300].map(|it| limiter.acquire_within(Duration::from_millis(it)));
        for ended in futures::future::join_all(limits).await {
            ended.unwrap_err();
        }
        began.elapsed().as_millis()
    };
    let pause = async { limiter.pause_for(Duration::from_secs(9)) };
    let (elapsed, ()) = tokio::join!(biased; limited, pause);
    assert!(elapsed <= 300, "after {elapsed} ms");
    assert_eq!(limiter.state.lock().n_waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_in_line_behind_a_pause_leaves_at_its_limit() {
    let limiter = limiter(10, 1);
    limiter.acquire().await;
    let began = Instant::now();
    let mut first = Box::pin(limiter.acquire());
    assert!(futures::poll!(&mut first).is_pending());
    let limited = async {
        let left = limiter.acquire_within(Duration::from_millis(200)).await;
        (began.elapsed().as_millis(), left.unwrap_err().retry_after.as_millis())
    };
    let pause = async { limiter.pause_for(Duration::from_secs(9)) };
    let (left, (), ()) = tokio::join!(biased; limited, pause, first);
    assert_eq!(left, (200, 8900), "the pause is left, and the one who came first");
    assert_eq!(began.elapsed().as_millis(), 9000);
}

#[tokio::test(start_paused = true)]
async fn a_rate_of_once_a_year_holds_its_line() {
    let year = Duration::from_secs(366 * 86_400);
    let limiter = RateLimiter::new(Rate::new(1, year).unwrap(), u32::MAX);
    limiter.acquire_many(u32::MAX).await.unwrap();
    let mut waiting: Vec<_> = (0..50).map(|_| Box::pin(limiter.acquire())).collect();
    for call in &mut waiting {
        assert!(futures::poll!(call).is_pending());
    }
    assert_eq!(limiter.acquire_within(year).await.unwrap_err().retry_after, year * 51);
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_at_any_point_takes_no_place_and_nothing_of_the_rate() {
    for n_ahead in 0..3 {
        let n_points = at_every_await_point(async |n_polls| {
            let limiter = limiter(10, 2);
            limiter.acquire_many(2).await.unwrap();
            let ahead = futures::future::join_all((0..n_ahead).map(|_| limiter.acquire()));
            let limited = limiter.acquire_within(Duration::from_secs(60));
            let (_, ended) = tokio::join!(biased; ahead, cancel_after(n_polls, limited));
            let n_passed = n_ahead + u64::from(ended.is_some());
            assert_eq!(limiter.state.lock().n_waiting, 0, "at {n_polls}");
            assert_eq!(limiter.turn.available_permits(), 1, "at {n_polls}");
            limiter.acquire().await;
            let elapsed = limiter.now().as_millis();
            assert_eq!(elapsed, 100 * u128::from(n_passed + 1), "at {n_polls}");
            ended.is_some()
        });
        assert!(0 < n_points.await);
    }
}

#[tokio::test(start_paused = true)]
async fn an_adaptive_limiter_bends_and_recovers_and_a_plain_one_only_pauses() {
    let floor = Rate::new(1, Duration::from_secs(1)).unwrap();
    let (plain, adaptive) = (limiter(10, 1), limiter(10, 1).adaptive(floor));
    for limiter in [&plain, &adaptive] {
        limiter.refused(Some(Duration::from_secs(1)));
        assert_eq!(limiter.try_acquire().unwrap_err().retry_after, Duration::from_secs(1));
    }
    tokio::join!(plain.acquire(), adaptive.acquire());
    assert_eq!(plain.try_acquire().unwrap_err().retry_after.as_millis(), 100);
    assert_eq!(adaptive.try_acquire().unwrap_err().retry_after.as_millis(), 200);
    for _ in 0..20 {
        tokio::time::advance(Duration::from_secs(1)).await;
        adaptive.succeeded();
    }
    assert_eq!(adaptive.interval(), plain.interval());
}

/// When a call was let through: at some moment between the two.
type Span = (Duration, Duration);

/// Fails when more calls than `burst + t / interval` certainly passed in some span `t`.
fn check_rate_kept(passes: &[Span], interval: Duration, burst: u32) -> Result<(), String> {
    let mut by_end = passes.to_vec();
    by_end.sort_by_key(|(_, to)| *to);
    for (from, _) in passes {
        let within = by_end.iter().filter(|it| from <= &it.0);
        for ((_, to), n_passed) in within.zip(1_u32..) {
            let span = *to - *from;
            if span < interval * n_passed.saturating_sub(burst) {
                return Err(format!("{n_passed} passed in {span:?}, by {interval:?} and {burst}"));
            }
        }
    }
    Ok(())
}

/// When each of `callers` was let through: they come some ms apart, and some give up. Each fourth
/// time one comes the other side refuses or is content.
async fn passes(limiter: RateLimiter, callers: Vec<(u64, Option<u64>)>) -> Vec<Span> {
    let limiter = Arc::new(limiter);
    let passed = Arc::new(Mutex::new(Vec::new()));
    let began = Instant::now();
    let mut group = TaskGroup::isolated();
    for (n, (gap, patience)) in callers.into_iter().enumerate() {
        tokio::time::sleep(Duration::from_millis(gap)).await;
        let (limiter, passed) = (Arc::clone(&limiter), Arc::clone(&passed));
        match n % 8 {
            3 => limiter.refused(None),
            7 => limiter.succeeded(),
            _ => {}
        }
        group.spawn("caller", async move {
            let patience = Duration::from_millis(patience.unwrap_or(u64::from(u32::MAX)));
            if tokio::time::timeout(patience, limiter.acquire()).await.is_ok() {
                let now = began.elapsed();
                passed.lock().push((now, now));
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
        burst in 1_u32..40,
        is_adaptive in any::<bool>(),
        callers in proptest::collection::vec((0_u64..40, prop::option::of(0_u64..300)), 1..120),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        let n_patient = callers.iter().filter(|it| it.1.is_none()).count();
        let limiter = limiter(n, burst);
        let floor = if is_adaptive { "1/10s" } else { "200/s" };
        let limiter = limiter.adaptive(floor.parse().unwrap());
        let passed = runtime.block_on(passes(limiter, callers));
        prop_assert!(n_patient <= passed.len());
        let kept = check_rate_kept(&passed, Duration::from_secs(1) / n, burst);
        prop_assert!(kept.is_ok(), "{kept:?}");
    }

    /// The wait told beforehand is the wait there is, for any mixture of those before.
    #[test]
    fn the_wait_told_is_the_wait_there_is(
        n in 1_u32..200,
        burst in 1_u32..40,
        n_before in 0_usize..60,
        pause in 0_u64..1000,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        let limiter = limiter(n, burst);
        let (told, waited) = runtime.block_on(async {
            limiter.pause_for(Duration::from_millis(pause));
            let before = futures::future::join_all((0..n_before).map(|_| limiter.acquire()));
            let last = async {
                let told = limiter.state.lock().would_wait(limiter.now(), 1).retry_after;
                limiter.acquire().await;
                (told, limiter.now())
            };
            tokio::join!(biased; before, last).1
        });
        // The timer rounds each wait up to a millisecond.
        let slack = Duration::from_millis(1 + u64::try_from(n_before).unwrap());
        prop_assert!(told <= waited && waited <= told + slack, "{told:?}, {waited:?}");
    }
}

/// Calls `acquire` from many tasks at once on several threads, and tells when each was let through.
fn passes_of_many<F: Future<Output = ()> + Send>(
    acquire: impl Fn() -> F + Clone + Send + 'static,
) -> Vec<Span> {
    const N_TASKS: usize = 64;
    const N_CALLS: usize = 20;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build();
    runtime.unwrap().block_on(async {
        let passed = Arc::new(Mutex::new(Vec::new()));
        let began = Instant::now();
        let mut group = TaskGroup::isolated();
        for _ in 0..N_TASKS {
            let (acquire, passed) = (acquire.clone(), Arc::clone(&passed));
            group.spawn("caller", async move {
                for _ in 0..N_CALLS {
                    let from = began.elapsed();
                    acquire().await;
                    passed.lock().push((from, began.elapsed()));
                }
            });
        }
        while group.join_next().await.is_some() {}
        let passed = std::mem::take(&mut *passed.lock());
        assert_eq!(passed.len(), N_TASKS * N_CALLS);
        passed
    })
}

const MANY: Duration = Duration::from_micros(100);

#[test]
fn many_threads_never_exceed_the_rate() {
    let waiting = Arc::new(limiter(10_000, 25));
    let passes = passes_of_many(move || {
        let limiter = Arc::clone(&waiting);
        async move { limiter.acquire().await }
    });
    check_rate_kept(&passes, MANY, 25).unwrap();
    let trying = Arc::new(limiter(10_000, 25));
    let passes = passes_of_many(move || {
        let limiter = Arc::clone(&trying);
        async move {
            while limiter.try_acquire().is_err() {
                tokio::task::yield_now().await;
            }
        }
    });
    check_rate_kept(&passes, MANY, 25).unwrap();
}

/// What one writes first: looks when the last call was, sleeps for the rest, and takes its turn.
#[test]
fn a_limiter_that_checks_and_then_sleeps_exceeds_the_rate() {
    let last = Arc::new(Mutex::new(Instant::now()));
    let passes = passes_of_many(move || {
        let last = Arc::clone(&last);
        async move {
            let due = *last.lock() + MANY;
            sleep_until(due).await;
            *last.lock() = Instant::now();
        }
    });
    let exceeded = check_rate_kept(&passes, MANY, 25).unwrap_err();
    assert!(exceeded.contains("passed in"), "{exceeded}");
}
