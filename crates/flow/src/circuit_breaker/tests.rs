//! What a circuit breaker promises: when it opens and closes, and that no call disturbs it late.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::FutureExt;
use tokio::sync::oneshot;
use tokio::time::{advance, sleep};

use super::*;
use crate::testing::{at_every_await_point, cancel_after};
use crate::{Backoff, Jitter, TaskGroup, catch_panic};

type Breaker = CircuitBreaker<&'static str>;

const OPEN_FOR: Duration = Duration::from_secs(10);

fn rules() -> BreakerRules {
    BreakerRules {
        trip: BreakerTrip::Consecutive { n_failures: 2 },
        open_for: Backoff::constant(OPEN_FOR),
        ..BreakerRules::default()
    }
}

fn breaker(rules: BreakerRules) -> Breaker {
    CircuitBreaker::new(rules).unwrap()
}

async fn succeed(breaker: &Breaker) -> Result<(), BreakerError<&'static str>> {
    breaker.call(async { Ok(()) }).await
}

async fn fail(breaker: &Breaker) {
    let failed = breaker.call(async { Err::<(), _>("no luck") }).await;
    assert_eq!(failed, Err(BreakerError::Failed("no luck")));
}

/// A breaker that has just tripped.
async fn tripped(rules: BreakerRules) -> Breaker {
    let breaker = breaker(rules);
    fail(&breaker).await;
    fail(&breaker).await;
    check_state(&breaker, BreakerState::Open);
    breaker
}

async fn half_open(rules: BreakerRules) -> Breaker {
    let breaker = tripped(rules).await;
    advance(OPEN_FOR).await;
    check_state(&breaker, BreakerState::HalfOpen);
    breaker
}

/// A call under way that ends when it is told how.
fn begin(
    breaker: &Breaker,
) -> (oneshot::Sender<bool>, impl Future<Output = Result<(), BreakerError<&'static str>>> + Unpin) {
    let (tell, told) = oneshot::channel();
    let mut call =
        Box::pin(breaker.call(async { if told.await.unwrap() { Ok(()) } else { Err("no luck") } }));
    assert!(call.as_mut().now_or_never().is_none(), "the call was let through");
    (tell, call)
}

#[track_caller]
fn check_state(breaker: &Breaker, expected: BreakerState) {
    assert_eq!(breaker.state(), expected);
    assert_eq!(*breaker.changes().borrow(), expected);
}

#[track_caller]
fn check_refused(breaker: &Breaker, retry_after: Option<Duration>) {
    let never = async { unreachable!("a refused call is not polled") };
    let refused = breaker.call::<()>(never).now_or_never();
    assert_eq!(refused, Some(Err(BreakerError::Open { retry_after })));
}

#[tokio::test(start_paused = true)]
async fn it_opens_on_failures_and_closes_on_a_probe_that_succeeds() {
    let breaker = tripped(rules()).await;
    check_refused(&breaker, Some(OPEN_FOR));
    advance(OPEN_FOR - Duration::from_millis(1)).await;
    check_refused(&breaker, Some(Duration::from_millis(1)));
    advance(Duration::from_millis(1)).await;
    assert_eq!(succeed(&breaker).await, Ok(()));
    check_state(&breaker, BreakerState::Closed);
    fail(&breaker).await;
    check_state(&breaker, BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_fails_opens_it_again_for_longer() {
    let [first, max] = [1, 4].map(Duration::from_secs);
    let open_for = Backoff::new(first, 2.0, max, Jitter::None).unwrap();
    let breaker = tripped(BreakerRules { open_for, ..rules() }).await;
    for secs in [1, 2, 4, 4] {
        let open = Duration::from_secs(secs);
        check_refused(&breaker, Some(open));
        advance(open).await;
        fail(&breaker).await;
    }
    advance(max).await;
    succeed(&breaker).await.unwrap();
    fail(&breaker).await;
    fail(&breaker).await;
    check_refused(&breaker, Some(first));
    assert_eq!(breaker.stats().n_trips, 6);
}

#[tokio::test(start_paused = true)]
async fn the_time_it_is_open_is_jittered_by_its_seed() {
    let open_for = Backoff::new(OPEN_FOR, 1.0, OPEN_FOR, Jitter::Equal).unwrap();
    let retry_after = async |seed| {
        let breaker = tripped(BreakerRules { open_for, seed: Some(seed), ..rules() }).await;
        match succeed(&breaker).await {
            Err(BreakerError::Open { retry_after }) => retry_after.unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert!(OPEN_FOR / 2 <= retry_after(1).await && retry_after(1).await < OPEN_FOR);
    assert_eq!(retry_after(1).await, retry_after(1).await);
    assert_ne!(retry_after(1).await, retry_after(2).await);
}

#[tokio::test(start_paused = true)]
async fn a_share_of_failures_opens_it() {
    let trip = BreakerTrip::Rate { failed_share: 0.5, n_window: 10, n_calls_min: 4 };
    let breaker = breaker(BreakerRules { trip, ..rules() });
    succeed(&breaker).await.unwrap();
    succeed(&breaker).await.unwrap();
    fail(&breaker).await;
    assert_eq!(breaker.stats().failed_share, Some(1.0 / 3.0));
    check_state(&breaker, BreakerState::Closed);
    fail(&breaker).await;
    check_state(&breaker, BreakerState::Open);
    assert_eq!(breaker.stats().failed_share, None, "it begins anew");
}

#[tokio::test(start_paused = true)]
async fn a_slow_call_fails_even_when_it_succeeds() {
    let slow_after = Some(Duration::from_secs(1));
    let breaker = breaker(BreakerRules { slow_after, ..rules() });
    for millis in [1000, 999, 1000, 1000] {
        let call = breaker.call(async {
            sleep(Duration::from_millis(millis)).await;
            Ok(millis)
        });
        assert_eq!(call.await, Ok(millis));
    }
    check_state(&breaker, BreakerState::Open);
    let stats = breaker.stats();
    assert_eq!((stats.n_slow, stats.n_failed, stats.n_succeeded), (3, 3, 1));
}

#[tokio::test(start_paused = true)]
async fn errors_that_do_not_count_are_answers() {
    let breaker = breaker(rules()).counts(|error| *error != "not found");
    fail(&breaker).await;
    let failed = breaker.call(async { Err::<(), _>("not found") }).await;
    assert_eq!(failed, Err(BreakerError::Failed("not found")));
    fail(&breaker).await;
    check_state(&breaker, BreakerState::Closed);
    fail(&breaker).await;
    check_state(&breaker, BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn no_more_probes_are_let_through_than_allowed() {
    let breaker = half_open(BreakerRules { n_probes: 2, n_successes: 3, ..rules() }).await;
    let (first, first_call) = begin(&breaker);
    let (_second, second_call) = begin(&breaker);
    check_refused(&breaker, None);
    first.send(true).unwrap();
    first_call.await.unwrap();
    succeed(&breaker).await.unwrap();
    check_state(&breaker, BreakerState::HalfOpen);
    drop(second_call);
    succeed(&breaker).await.unwrap();
    check_state(&breaker, BreakerState::Closed);
    assert_eq!(breaker.stats().n_dropped, 1);
}

#[tokio::test(start_paused = true)]
async fn a_late_outcome_does_not_disturb_the_state_after() {
    for is_success in [true, false] {
        let closed = breaker(rules());
        let (late, late_call) = begin(&closed);
        fail(&closed).await;
        fail(&closed).await;
        advance(OPEN_FOR).await;
        let (_probe, _probe_call) = begin(&closed);
        late.send(is_success).unwrap();
        assert_eq!(late_call.await.is_ok(), is_success);
        check_state(&closed, BreakerState::HalfOpen);
        check_refused(&closed, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_probe_does_not_disturb_the_probes_after() {
    let breaker = half_open(BreakerRules { n_probes: 2, ..rules() }).await;
    let (late, late_call) = begin(&breaker);
    let (_dropped, dropped_call) = begin(&breaker);
    // The only way left to a new generation.
    breaker.reset();
    fail(&breaker).await;
    fail(&breaker).await;
    advance(OPEN_FOR).await;
    let (_first, _first_call) = begin(&breaker);
    let (_second, _second_call) = begin(&breaker);
    late.send(true).unwrap();
    late_call.await.unwrap();
    drop(dropped_call);
    check_state(&breaker, BreakerState::HalfOpen);
    check_refused(&breaker, None);
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_at_any_point_counts_as_neither_and_frees_its_place() {
    let n_points = at_every_await_point(async |n_polls| {
        let breaker = half_open(rules()).await;
        let call = breaker.call(async {
            tokio::task::yield_now().await;
            sleep(Duration::from_secs(1)).await;
            Ok(())
        });
        let ended = cancel_after(n_polls, call).await;
        let stats = breaker.stats();
        assert_eq!(stats.n_dropped, u64::from(ended.is_none()));
        assert_eq!(stats.n_failed, 2, "as many as it took to trip");
        succeed(&breaker).await.unwrap();
        check_state(&breaker, BreakerState::Closed);
        ended.is_some()
    });
    assert_eq!(n_points.await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failure_and_a_drop_by_another_panic_is_none() {
    let breaker = breaker(rules());
    for _ in 0..2 {
        let panics = async { panic!("no luck") };
        let panicked = catch_panic(breaker.call::<()>(panics)).await.unwrap_err();
        assert_eq!(panicked.message, "no luck");
    }
    check_state(&breaker, BreakerState::Open);
    breaker.reset();
    let owner = async {
        let _call = begin(&breaker);
        panic!("of the owner");
    };
    catch_panic(owner).await.unwrap_err();
    let stats = breaker.stats();
    assert_eq!((stats.n_failed, stats.n_dropped), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn forced_it_stays_until_a_reset() {
    let breaker = breaker(rules());
    breaker.force_open();
    advance(OPEN_FOR * 100).await;
    check_refused(&breaker, None);
    breaker.force_close();
    for _ in 0..5 {
        fail(&breaker).await;
    }
    check_state(&breaker, BreakerState::Closed);
    assert!(breaker.stats().is_forced);
    breaker.reset();
    assert!(!breaker.stats().is_forced);
    fail(&breaker).await;
    check_state(&breaker, BreakerState::Closed);
    fail(&breaker).await;
    check_state(&breaker, BreakerState::Open);
    breaker.reset();
    succeed(&breaker).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn changes_are_told() {
    let breaker = breaker(rules());
    let mut changes = breaker.changes();
    breaker.reset();
    assert!(!changes.has_changed().unwrap(), "closed it was before");
    fail(&breaker).await;
    fail(&breaker).await;
    changes.changed().await.unwrap();
    assert_eq!(*changes.borrow_and_update(), BreakerState::Open);
    advance(OPEN_FOR).await;
    succeed(&breaker).await.unwrap();
    changes.changed().await.unwrap();
    assert_eq!(*changes.borrow_and_update(), BreakerState::Closed);
}

/// Many routines on several threads probe at once, and the breaker stays half-open.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_never_exceed_the_probes() {
    const N_PROBES: u32 = 3;
    let breaker = Arc::new(breaker(BreakerRules {
        trip: BreakerTrip::Consecutive { n_failures: 1 },
        open_for: Backoff::none(),
        n_probes: N_PROBES,
        n_successes: u32::MAX,
        ..rules()
    }));
    fail(&breaker).await;
    let n_probing = Arc::new(AtomicU32::new(0));
    let mut group = TaskGroup::isolated();
    for seed in 0..16 {
        let (breaker, n_probing) = (Arc::clone(&breaker), Arc::clone(&n_probing));
        group.spawn("caller", async move {
            let mut random = fastrand::Rng::with_seed(seed);
            for _ in 0..500 {
                let n_yields = random.u32(0..4);
                let call = breaker.call(async {
                    let n = n_probing.fetch_add(1, Ordering::SeqCst);
                    assert!(n < N_PROBES, "{n} others are under way");
                    for _ in 0..n_yields {
                        tokio::task::yield_now().await;
                    }
                    n_probing.fetch_sub(1, Ordering::SeqCst);
                    Ok::<_, &'static str>(())
                });
                call.await.ok();
                tokio::task::yield_now().await;
            }
        });
    }
    while let Some(ended) = group.join_next().await {
        assert!(ended.failure().is_none(), "{ended:?}");
    }
    let stats = breaker.stats();
    assert_eq!(stats.n_succeeded + stats.n_refused, 16 * 500);
    assert!(matches!(breaker.state.lock().phase, Phase::HalfOpen { n_probing: 0, .. }));
}
