//! Cancelling: before a job begins, while it runs, and after it has ended.

use std::time::Duration;

use serde_json::{Value, json};
use taskloom::testing::TestSystem;
use taskloom::{CancelReason, Ctx, JobError, JobHandle, Refusal, StateName, TaskError};
use taskloom_store::Changed;

use crate::support::{
    Block, Body, Counter, OnDrop, Place, block, body, echo, in_memory, outcomes, soon, view,
};

async fn check_cancelled(handle: JobHandle<Value>) {
    let error = soon(handle.clone().into_future()).await.unwrap_err();
    assert!(matches!(error, JobError::Cancelled { .. }), "{error}");
    assert_eq!(view(&handle).await.state, StateName::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_has_not_begun_is_cancelled_at_once() {
    let system = TestSystem::start().await.unwrap().task(Body(echo));
    let ready = system.submit(body(0)).await.unwrap();
    let delayed = system.submit(body(1).delay("1h")).await.unwrap();
    let blocked = system.submit(body(2).after(&delayed)).await.unwrap();
    assert_eq!(ready.cancel().await.unwrap(), StateName::Cancelled);
    assert_eq!(delayed.cancel().await.unwrap(), StateName::Cancelled);
    check_cancelled(blocked).await;
    system.run_all().await.unwrap();
    assert!(outcomes(&system, &ready).await.is_empty(), "it never ran");
    assert_eq!(ready.cancel().await.unwrap(), StateName::Cancelled, "a second time is no error");
}

#[tokio::test(start_paused = true)]
async fn what_has_ended_stays_as_it_is() {
    let system = TestSystem::start().await.unwrap().task(Body(echo));
    let handle = system.submit(body(0)).await.unwrap();
    system.run_all().await.unwrap();
    let changed = system.cancel(vec![handle.id()]).await.unwrap();
    let refusal = Refusal::WrongState { state: StateName::Succeeded };
    assert_eq!(changed, [Changed::Refused(refusal)]);
    assert_eq!(handle.await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_ignores_the_wish_is_dropped_after_the_grace() {
    let (begun, dropped) = (Counter::new(), Counter::new());
    let (on_begin, on_drop) = (begun.clone(), dropped.clone());
    let task = Body(move |_ctx, _args| {
        let guard = OnDrop(on_drop.clone());
        on_begin.add();
        async move {
            let _guard = guard;
            std::future::pending().await
        }
    });
    let builder = in_memory().grace(Duration::from_secs(3)).task(task);
    let system = builder.start().await.unwrap();
    let handle = system.submit(body(0)).await.unwrap();
    begun.reach(1).await;
    let changed = system.cancel(vec![handle.id()]).await.unwrap();
    assert_eq!(changed, [Changed::Now(StateName::Running)], "it runs on until it has ended");
    let asked = tokio::time::Instant::now();
    dropped.reach(1).await;
    let after = asked.elapsed();
    assert!(Duration::from_secs(3) <= after && after < Duration::from_secs(4), "{after:?}");
    check_cancelled(handle.clone()).await;
    assert_eq!(outcomes(&system, &handle).await, ["cancelled"]);
}

#[tokio::test]
async fn a_body_that_listens_ends_by_itself_and_its_job_is_cancelled() {
    let (begun, tidied) = (Counter::new(), Counter::new());
    let (on_begin, on_end) = (begun.clone(), tidied.clone());
    let task = Body(move |ctx: Ctx, _args| {
        on_begin.add();
        let tidied = on_end.clone();
        async move {
            ctx.cancelled().await;
            assert_eq!(ctx.cancel_reason(), Some(CancelReason::Requested));
            tidied.add();
            Err(TaskError::cancelled())
        }
    });
    let place = Place::new();
    let system = place.open().grace(Duration::from_secs(60)).task(task).start().await.unwrap();
    let handles = system.submit((body(0), body(1))).await.unwrap();
    begun.reach(2).await;
    // The first way tells this node at once, the second one lets its heartbeat find out.
    system.cancel(vec![handles.0.id()]).await.unwrap();
    handles.1.cancel().await.unwrap();
    check_cancelled(handles.0).await;
    check_cancelled(handles.1).await;
    assert_eq!(tidied.get(), 2);
    system.drain().await.unwrap();
}

#[tokio::test]
async fn another_process_can_cancel_what_runs_here() {
    let begun = Counter::new();
    let on_begin = begun.clone();
    let task = Body(move |ctx: Ctx, _args| {
        on_begin.add();
        async move {
            ctx.cancelled().await;
            Err(TaskError::cancelled())
        }
    });
    let place = Place::new();
    let system = place.open().task(task).start().await.unwrap();
    let handle = system.submit(body(0)).await.unwrap();
    begun.reach(1).await;
    let other = place.open().connect().await.unwrap();
    other.job::<Value>(handle.id()).cancel().await.unwrap();
    check_cancelled(handle).await;
    system.drain().await.unwrap();
}

#[tokio::test]
async fn a_blocking_body_is_asked_to_end() {
    let begun = Counter::new();
    let on_begin = begun.clone();
    let task = Block(move |ctx: &Ctx, _args| {
        on_begin.add();
        futures::executor::block_on(ctx.cancelled());
        assert!(ctx.is_cancelled());
        Err(TaskError::cancelled())
    });
    let place = Place::new();
    let system = place.open().blocking_task(task).start().await.unwrap();
    let handle = system.submit(block(0)).await.unwrap();
    begun.reach(1).await;
    system.cancel(vec![handle.id()]).await.unwrap();
    check_cancelled(handle).await;
    system.drain().await.unwrap();
}

#[tokio::test]
async fn a_cancel_wins_over_the_retry_of_an_errored_attempt() {
    let begun = Counter::new();
    let on_begin = begun.clone();
    let task = Body(move |ctx: Ctx, _args| {
        on_begin.add();
        async move {
            ctx.cancelled().await;
            Err::<Value, _>(TaskError::new("the line went dead"))
        }
    });
    let system = in_memory().task(task).start().await.unwrap();
    let handle = system.submit(body(json!({})).max_attempts(9)).await.unwrap();
    begun.reach(1).await;
    system.cancel(vec![handle.id()]).await.unwrap();
    check_cancelled(handle).await;
    assert_eq!(begun.get(), 1);
}
