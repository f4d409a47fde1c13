//! What is accepted together, and the ways to wait for it.

use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};
use taskloom::testing::TestSystem;
use taskloom::{Ctx, Error, FailReason, JobError, JobId, StateName, TaskError, TaskSystem};
use tokio::time::Instant;

use crate::support::{Body, Said, body, echo, numbers, outcomes, view};

/// Takes as many seconds as its argument says, and fails when that is odd.
async fn odd_ones_fail(_ctx: Ctx, args: Value) -> Said {
    let secs = args.as_u64().unwrap();
    tokio::time::sleep(Duration::from_secs(secs)).await;
    if secs % 2 == 1 { Err(TaskError::permanent(format!("{secs} is odd"))) } else { Ok(args) }
}

async fn system_of_odd_failures() -> TestSystem {
    TestSystem::start().await.unwrap().task(Body(odd_ones_fail))
}

#[tokio::test(start_paused = true)]
async fn handles_have_the_shape_of_what_was_submitted() {
    let system = TestSystem::start().await.unwrap().task(Body(echo));
    let one = system.submit(body(1)).await.unwrap();
    let (two, three) = system.submit((body(2), body("three"))).await.unwrap();
    let [four, five] = system.submit([body(4), body(5)]).await.unwrap();
    let many = system.submit(vec![body(6), body(7), body(8)]).await.unwrap();
    assert!(system.submit(Vec::<taskloom::Invocation<Value>>::new()).await.unwrap().is_empty());
    system.run_all().await.unwrap();
    assert_eq!(one.await.unwrap(), 1);
    assert_eq!(two.await.unwrap(), 2);
    assert_eq!(three.await.unwrap(), "three");
    assert_eq!(system.gather([four, five]).await.unwrap(), [4, 5]);
    assert_eq!(system.gather(many).await.unwrap(), [6, 7, 8]);
}

#[tokio::test(start_paused = true)]
async fn a_bad_option_lets_none_of_the_batch_in() {
    let system = TestSystem::start().await.unwrap().task(Body(echo));
    for bad in [body(2).priority(10), body(2).delay("soon"), body(2).timeout("10")] {
        let error = system.submit(vec![body(1), bad]).await.unwrap_err();
        assert!(matches!(error, Error::Invocation(_)), "{error}");
    }
    let unknown = JobId::compose(taskloom::Time::default(), 1, 1);
    system.submit((body(1), body(2).after(unknown))).await.unwrap_err();
    system.assert_enqueued("body", 0).await;
}

#[tokio::test(start_paused = true)]
async fn gather_answers_in_the_order_of_the_handles() {
    let system = system_of_odd_failures().await;
    let handles = system.submit([body(30), body(10), body(20)]).await.unwrap();
    system.run_all().await.unwrap();
    assert_eq!(system.gather(handles).await.unwrap(), [30, 10, 20]);
}

#[tokio::test(start_paused = true)]
async fn gather_fails_as_soon_as_one_fails_and_the_others_go_on() {
    let system = system_of_odd_failures().await;
    let handles = system.submit([body(3600), body(3)]).await.unwrap();
    let slow = handles[0].clone();
    let began = Instant::now();
    let (ran, failed) = tokio::join!(system.run_all(), async {
        (system.gather(handles).await.unwrap_err(), began.elapsed())
    });
    ran.unwrap();
    let (error, after) = failed;
    assert!(after < Duration::from_secs(4), "{after:?}");
    assert!(matches!(error, JobError::Failed { reason: FailReason::Permanent, .. }), "{error}");
    assert_eq!(slow.await.unwrap(), 3600);
}

#[tokio::test(start_paused = true)]
async fn gather_settled_tells_of_each() {
    let system = system_of_odd_failures().await;
    let handles = system.submit([body(2), body(1), body(4)]).await.unwrap();
    handles[2].cancel().await.unwrap();
    system.run_all().await.unwrap();
    let settled = system.gather_settled(handles).await.unwrap();
    assert_eq!(*settled[0].as_ref().unwrap(), 2);
    assert!(matches!(settled[1], Err(JobError::Failed { .. })));
    assert!(matches!(settled[2], Err(JobError::Cancelled { .. })));
}

#[tokio::test(start_paused = true)]
async fn as_completed_tells_in_the_order_of_the_ends() {
    let system = system_of_odd_failures().await;
    let handles = system.submit([body(30), body(11), body(20)]).await.unwrap();
    let ids = handles.each_ref().map(taskloom::JobHandle::id);
    let (ran, ended) = tokio::join!(system.run_all(), async {
        let ended = system.as_completed(handles).await.unwrap();
        ended.map(|(handle, result)| (handle.id(), result.is_ok())).collect::<Vec<_>>().await
    });
    ran.unwrap();
    assert_eq!(ended, [(ids[1], false), (ids[2], true), (ids[0], true)]);
}

#[tokio::test(start_paused = true)]
async fn clones_of_a_handle_all_hear_of_the_end() {
    let system = system_of_odd_failures().await;
    let handle = system.submit(body(4)).await.unwrap();
    let late = handle.clone();
    let (ran, a, b) =
        tokio::join!(system.run_all(), handle.clone().into_future(), handle.into_future());
    ran.unwrap();
    assert_eq!((a.unwrap(), b.unwrap()), (json!(4), json!(4)));
    assert_eq!(late.await.unwrap(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_never_was_is_unknown() {
    let system = TestSystem::start().await.unwrap();
    let never = JobId::compose(taskloom::Time::default(), 7, 7);
    let error = system.job::<Value>(never).await.unwrap_err();
    assert!(matches!(error, JobError::Unknown { id } if id == never), "{error}");
    let error = system.job::<Value>(never).cancel().await.unwrap_err();
    assert_eq!(error.code(), "job.unknown");
}

#[tokio::test(start_paused = true)]
async fn a_result_of_another_type_is_an_error_of_its_own() {
    let system = TestSystem::start().await.unwrap().task(Body(echo));
    let handle = system.submit(body("text")).await.unwrap();
    system.run_all().await.unwrap();
    let error = system.job::<u64>(handle.id()).await.unwrap_err();
    assert_eq!(error.code(), "job.result");
}

#[tokio::test(start_paused = true)]
async fn a_unique_text_gives_the_unfinished_job_back() {
    let system = TestSystem::start().await.unwrap().task(Body(echo));
    let first = system.submit(body(1).unique("daily")).await.unwrap();
    let again = system.submit(body(2).unique("daily")).await.unwrap();
    let other = system.submit(body(3).unique("weekly")).await.unwrap();
    let duplicates = [&first, &again, &other].map(taskloom::JobHandle::is_duplicate);
    assert_eq!(duplicates, [false, true, false]);
    assert_eq!(first.id(), again.id());
    system.run_all().await.unwrap();
    assert_eq!(again.await.unwrap(), 1);
    let next = system.submit(body(4).unique("daily")).await.unwrap();
    assert!(!next.is_duplicate(), "the first has ended");
}

#[tokio::test(start_paused = true)]
async fn jobs_wait_for_those_they_depend_on() {
    let system = system_of_odd_failures().await;
    let first = system.submit(body(10)).await.unwrap();
    let second = system.submit(body(20).after(&first)).await.unwrap();
    let third = system.submit(body(0).after(vec![first.id(), second.id()])).await.unwrap();
    assert_eq!(view(&third).await.state, StateName::Blocked);
    assert_eq!(view(&third).await.n_unfinished, Some(2));
    system.run_all().await.unwrap();
    let (first, second, third) = (view(&first).await, view(&second).await, view(&third).await);
    assert_eq!(third.state, StateName::Succeeded);
    assert!(first.ended <= second.started && second.ended <= third.started);
}

#[tokio::test(start_paused = true)]
async fn a_failed_dependency_cancels_unless_the_job_runs_all_the_same() {
    let system = system_of_odd_failures().await;
    let failing = system.submit(body(1)).await.unwrap();
    let cancelled = system.submit(body(2).after(&failing)).await.unwrap();
    let its_own = system.submit(body(2).after(&cancelled)).await.unwrap();
    let running = body(2).after(&failing).run_even_if_dependencies_fail();
    let running = system.submit(running).await.unwrap();
    system.run_all().await.unwrap();
    assert!(matches!(cancelled.await, Err(JobError::Cancelled { .. })));
    assert!(matches!(its_own.await, Err(JobError::Cancelled { .. })));
    assert_eq!(running.await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_connected_system_submits_and_runs_nothing() {
    let system = TaskSystem::open("sqlite::memory:").connect().await.unwrap();
    let handles = system.submit(numbers(3)).await.unwrap();
    assert_eq!(view(&handles[2]).await.state, StateName::Ready);
    assert!(outcomes(&system, &handles[0]).await.is_empty());
    assert_eq!(system.n_running(), 0);
    system.drain().await.unwrap();
}
