//! When a job is tried, tried again, and given up.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use taskloom::testing::TestSystem;
use taskloom::{
    Backoff, FailReason, Invocation, Jitter, JobError, JobView, RetryPolicy, StateName, TaskError,
    Time, TokioClock,
};

use crate::support::{Body, Counter, OnDrop, attempts, body, echo, outcomes, view};

const SECOND: Duration = Duration::from_secs(1);
/// What a clock of whole milliseconds and a node that starts may add.
const SLACK: Duration = Duration::from_millis(20);

fn exact(max_attempts: u32) -> RetryPolicy {
    let backoff =
        Backoff { delay_first: SECOND, factor: 3.0, delay_max: 5 * SECOND, jitter: Jitter::None };
    RetryPolicy { max_attempts, backoff }
}

/// Runs a body whose attempts say what `says` gives for their number, and looks at the job.
async fn ended(
    says: impl Fn(u32) -> Result<Value, TaskError> + Send + Sync + 'static,
    invocation: Invocation<Value>,
) -> (TestSystem, JobView, Vec<&'static str>, Vec<Duration>) {
    let n = AtomicU32::new(0);
    let task = Body(move |_ctx, _args| {
        let said = says(n.fetch_add(1, Ordering::SeqCst) + 1);
        async move { said }
    });
    let system = TestSystem::start().await.unwrap().task(task);
    let handle = system.submit(invocation).await.unwrap();
    system.run_all().await.unwrap();
    let began: Vec<Time> = attempts(&system, &handle).await.iter().map(|it| it.started).collect();
    let gaps = began.windows(2).map(|it| it[1].since(it[0])).collect();
    let (outcomes, view) = (outcomes(&system, &handle).await, view(&handle).await);
    (system, view, outcomes, gaps)
}

#[track_caller]
fn check_gaps(actual: &[Duration], expected: &[Duration]) {
    let is_close = |(it, at): (&Duration, &Duration)| *at <= *it && *it <= *at + SLACK;
    assert_eq!(actual.len(), expected.len(), "{actual:?}");
    assert!(actual.iter().zip(expected).all(is_close), "{actual:?}, expected {expected:?}");
}

fn fails_until(n: u32) -> impl Fn(u32) -> Result<Value, TaskError> {
    move |it| if it < n { Err(TaskError::new(format!("no {it}"))) } else { Ok(json!(it)) }
}

#[tokio::test(start_paused = true)]
async fn a_delayed_job_begins_at_its_time() {
    let system = TestSystem::start().await.unwrap().task(Body(echo));
    let at = TokioClock::START + 7200 * SECOND;
    let invocations = [body(0).delay("90m"), body(1).run_at(at), body(2)];
    let handles = system.submit(invocations).await.unwrap();
    assert_eq!(view(&handles[0]).await.state, StateName::Delayed);
    system.run_all().await.unwrap();
    for (handle, secs) in handles.iter().zip([5400, 7200, 0]) {
        let late = view(handle).await.started.unwrap().since(TokioClock::START + secs * SECOND);
        assert!(late <= SLACK, "the job of {secs} s was {late:?} late");
        let early = (TokioClock::START + secs * SECOND).since(view(handle).await.started.unwrap());
        assert_eq!(early, Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn an_errored_job_is_tried_again_after_a_growing_delay() {
    let (_, view, outcomes, gaps) = ended(fails_until(4), body(0).retry(exact(5))).await;
    assert_eq!(view.state, StateName::Succeeded);
    assert_eq!((view.attempts, view.result.unwrap().get()), (4, "4"));
    assert_eq!(outcomes, ["errored", "errored", "errored", "succeeded"]);
    check_gaps(&gaps, &[SECOND, 3 * SECOND, 5 * SECOND]);
}

#[tokio::test(start_paused = true)]
async fn retry_after_overrides_the_delay() {
    let says = |it| match it {
        1 => Err(TaskError::new("busy").retry_after(90 * SECOND)),
        2 => Err(TaskError::new("busy").retry_after(Duration::ZERO)),
        _ => Ok(json!(it)),
    };
    let (_, view, _, gaps) = ended(says, body(0).retry(exact(5))).await;
    assert_eq!(view.state, StateName::Succeeded);
    check_gaps(&gaps, &[90 * SECOND, Duration::ZERO]);
}

#[tokio::test(start_paused = true)]
async fn a_permanent_error_fails_the_job_at_once() {
    let says = |_| Err(TaskError::permanent("no such city").code("city.unknown"));
    let (system, view, outcomes, _) = ended(says, body(0)).await;
    assert_eq!((view.state, view.reason), (StateName::Failed, Some(FailReason::Permanent)));
    assert_eq!(outcomes, ["errored"]);
    let error = system.job::<Value>(view.id).await.unwrap_err();
    let JobError::Failed { error: Some(error), .. } = error else { panic!("{error}") };
    assert_eq!((&*error.message, error.code.as_deref()), ("no such city", Some("city.unknown")));
}

#[tokio::test(start_paused = true)]
async fn attempts_run_out() {
    let (_, view, outcomes, _) = ended(fails_until(9), body(0).retry(exact(3))).await;
    assert_eq!((view.state, view.reason), (StateName::Failed, Some(FailReason::Exhausted)));
    assert_eq!(outcomes, ["errored"; 3]);
    assert_eq!(view.error.unwrap().message, "no 3");
}

#[tokio::test(start_paused = true)]
async fn a_snoozed_attempt_does_not_count() {
    let says = |it| if it < 4 { Err(TaskError::snooze(60 * SECOND)) } else { Ok(json!(it)) };
    let (_, view, outcomes, gaps) = ended(says, body(0).max_attempts(1)).await;
    assert_eq!((view.state, view.attempts, view.snoozes), (StateName::Succeeded, 1, 3));
    assert_eq!(outcomes, ["snoozed", "snoozed", "snoozed", "succeeded"]);
    check_gaps(&gaps, &[60 * SECOND; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_the_retries() {
    let deadline = TokioClock::START + 3 * SECOND;
    let invocation = body(0).retry(exact(9)).deadline(deadline);
    let (_, view, outcomes, _) = ended(fails_until(9), invocation).await;
    assert_eq!((view.state, view.reason), (StateName::Failed, Some(FailReason::Deadline)));
    assert_eq!(outcomes, ["errored", "errored"]);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_drops_the_body() {
    let dropped = Counter::new();
    let seen = dropped.clone();
    let task = Body(move |_ctx, _args| {
        let guard = OnDrop(seen.clone());
        async move {
            let _guard = guard;
            std::future::pending().await
        }
    });
    let system = TestSystem::start().await.unwrap().task(task);
    let handle = system.submit(body(0).timeout("10s").retry(exact(2))).await.unwrap();
    system.run_all().await.unwrap();
    assert_eq!(dropped.get(), 2, "both futures are gone");
    let attempts = attempts(&system, &handle).await;
    for it in &attempts {
        assert_eq!(it.outcome, "timed_out");
        assert_eq!(it.error.as_ref().unwrap().code.as_deref(), Some("task.timeout"));
        check_gaps(&[it.ended.since(it.started)], &[10 * SECOND]);
    }
    let view = view(&handle).await;
    assert_eq!((attempts.len(), view.reason), (2, Some(FailReason::Exhausted)));
}

#[tokio::test(start_paused = true)]
async fn an_operator_can_retry_what_has_ended() {
    let (system, view, ..) = ended(fails_until(3), body(0).retry(exact(2))).await;
    assert_eq!(view.state, StateName::Failed);
    system.retry(vec![view.id]).await.unwrap();
    system.run_all().await.unwrap();
    let handle = system.job::<Value>(view.id);
    assert_eq!(outcomes(&system, &handle).await, ["errored", "errored", "succeeded"]);
    assert_eq!(handle.await.unwrap(), 3);
}
