//! What a retry promises: it stops for the right reason, at the right time, and loses nothing.

use std::cell::Cell;

use parking_lot::Mutex;

use super::*;
use crate::TaskGroup;
use crate::testing::{at_every_await_point, cancel_after};

const SECOND: Duration = Duration::from_secs(1);

/// A delay of 1, 2, 4 … up to 60 seconds.
fn retry() -> Retry<&'static str> {
    Retry::new(Backoff::new(SECOND, 2.0, SECOND * 60, Jitter::None).unwrap())
}

/// Runs an operation that errors `n_errors` times with "no luck".
async fn run(retry: &Retry<&'static str>, n_errors: u32) -> Result<u32, RetryError<&'static str>> {
    let op = async |n| if n <= n_errors { Err("no luck") } else { Ok(n) };
    retry.run(op).await
}

fn gave_up(stop: RetryStop, n_attempts: u32, secs: u64) -> Result<u32, RetryError<&'static str>> {
    Err(RetryError { stop, error: "no luck", n_attempts, elapsed: Duration::from_secs(secs) })
}

#[tokio::test(start_paused = true)]
async fn it_tries_until_it_succeeds_with_the_delays_of_the_backoff() {
    let began = Instant::now();
    assert_eq!(run(&retry(), 0).await, Ok(1));
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(run(&retry().n_attempts_max(4), 3).await, Ok(4));
    assert_eq!(began.elapsed(), SECOND * (1 + 2 + 4));
}

#[tokio::test(start_paused = true)]
async fn it_says_why_it_stopped() {
    let stopped = run(&retry(), 9).await;
    assert_eq!(stopped, gave_up(RetryStop::AttemptsSpent, 3, 3));
    let text = stopped.unwrap_err().to_string();
    assert_eq!(text, "gave up after 3 attempts in 3s: the attempts are spent");
    assert_eq!(run(&retry().n_attempts_max(0), 9).await, gave_up(RetryStop::AttemptsSpent, 1, 0));
    let picky = retry().when(|error| *error != "no luck");
    assert_eq!(run(&picky, 9).await, gave_up(RetryStop::Permanent, 1, 0));
    let poor = retry().budget(&RetryBudget::new(0.0, 0, 1));
    assert_eq!(run(&poor, 9).await, gave_up(RetryStop::BudgetSpent, 2, 1));
}

#[tokio::test(start_paused = true)]
async fn no_wait_begins_that_would_pass_the_time() {
    let patient = |millis| retry().n_attempts_max(9).time_max(Duration::from_millis(millis));
    assert_eq!(run(&patient(7000), 9).await, gave_up(RetryStop::TimeSpent, 4, 7));
    assert_eq!(run(&patient(6999), 9).await, gave_up(RetryStop::TimeSpent, 3, 3));
    assert_eq!(run(&patient(0), 9).await, gave_up(RetryStop::TimeSpent, 1, 0));
    // The time of the attempts counts too.
    let patient = patient(2000);
    let slow = patient.run(async |_| {
        tokio::time::sleep(SECOND * 2).await;
        Err::<(), _>("no luck")
    });
    assert_eq!(slow.await.unwrap_err().n_attempts, 1);
}

#[tokio::test(start_paused = true)]
async fn a_hint_takes_the_place_of_a_delay_up_to_a_maximum() {
    let began = Instant::now();
    let hinted = retry().n_attempts_max(4).hint_max(SECOND * 20);
    let hinted = hinted.hint(|error| error.parse().ok().map(Duration::from_secs));
    let errors = ["7", "3600", "none"];
    let ran = hinted.run(async |n: u32| {
        errors.get(usize::try_from(n).unwrap() - 1).map_or(Ok(n), |error| Err(*error))
    });
    assert_eq!(ran.await, Ok(4));
    assert_eq!(began.elapsed(), SECOND * (7 + 20 + 1), "the backoff has not gone on meanwhile");
}

#[tokio::test(start_paused = true)]
async fn each_wait_is_told_of() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = Arc::clone(&told);
    let retry = retry().notify(move |notice| {
        listener.lock().push((notice.attempt, *notice.error, notice.delay.as_secs()));
    });
    run(&retry, 9).await.unwrap_err();
    assert_eq!(*told.lock(), [(1, "no luck", 1), (2, "no luck", 2)]);
}

#[tokio::test(start_paused = true)]
async fn one_seed_is_one_history() {
    let elapsed = async |seed| {
        let retry = Retry::default().n_attempts_max(6).seed(seed);
        run(&retry, 9).await.unwrap_err().elapsed
    };
    assert_eq!(elapsed(1).await, elapsed(1).await);
    assert_ne!(elapsed(1).await, elapsed(2).await);
}

#[tokio::test(start_paused = true)]
async fn without_a_bound_it_tries_on() {
    let endless = Retry::new(Backoff::none()).n_attempts_max(u32::MAX);
    assert_eq!(run(&endless, 5000).await, Ok(5001));
}

#[tokio::test(start_paused = true)]
async fn an_outage_makes_no_storm_of_retries() {
    let budget = RetryBudget::new(0.1, 1, 10);
    let retry = Retry::new(Backoff::none()).n_attempts_max(5).budget(&budget);
    let mut n_attempts = 0;
    for _ in 0..1000 {
        n_attempts += run(&retry, 9).await.unwrap_err().n_attempts;
    }
    assert_eq!(n_attempts, 1010, "1000 calls and what was saved up");
    for _ in 0..100 {
        run(&retry, 0).await.unwrap();
    }
    assert_eq!(budget.n_saved(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_run_dropped_at_any_point_gives_back_the_retry_it_did_not_make() {
    let n_points = at_every_await_point(async |n_polls| {
        let budget = RetryBudget::new(0.0, 0, 5);
        let retry = retry().budget(&budget);
        let n_begun = Cell::new(0);
        let running = retry.run(async |n| {
            n_begun.set(n);
            tokio::task::yield_now().await;
            Err::<(), _>("no luck")
        });
        let ended = cancel_after(n_polls, running).await;
        assert_eq!(budget.n_saved(), 6 - n_begun.get(), "at {n_polls}");
        ended.is_some()
    });
    assert_eq!(n_points.await, 5, "three attempts and two waits");
}

#[tokio::test]
async fn a_run_moves_to_a_routine_with_what_it_borrows() {
    let mut group = TaskGroup::isolated();
    let retry = Arc::new(Retry::new(Backoff::none()));
    let name = String::from("page");
    let shared = Arc::clone(&retry);
    group.spawn("borrowing", async move {
        let ran = shared.run(async |n: u32| {
            tokio::task::yield_now().await;
            if n < 3 { Err(name.as_str().len()) } else { Ok(n) }
        });
        assert_eq!(ran.await, Ok(3));
    });
    group.spawn("moving", async move {
        let ran = retry.run(|n| async move { if n < 2 { Err(0) } else { Ok(n) } });
        assert_eq!(ran.await, Ok(2));
    });
    while let Some(ended) = group.join_next().await {
        assert!(ended.failure().is_none(), "{ended:?}");
    }
}
