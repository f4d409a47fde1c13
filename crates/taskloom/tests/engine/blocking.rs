//! Blocking tasks: beside the async ones, and never in their way.

use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Barrier};

use parking_lot::Mutex;
use serde_json::{Value, json};
use taskloom::{Ctx, FailReason, StateName, TaskError};

use crate::support::{
    Block, Body, Counter, Crowd, Place, block, echo, error_code, in_memory, numbers, outcomes,
    soon, view,
};

#[tokio::test]
async fn a_stuck_blocking_body_holds_up_no_async_one() {
    let (release, released) = sync_channel::<()>(1);
    let (begun, released) = (Counter::new(), Mutex::new(released));
    let on_begin = begun.clone();
    let stuck = Block(move |_ctx: &Ctx, args| {
        on_begin.add();
        released.lock().recv()?;
        Ok(args)
    });
    let place = Place::new();
    let builder = place.open().max_workers(4).blocking_workers(1);
    let system = builder.task(Body(echo)).blocking_task(stuck).start().await.unwrap();
    let handles = system.submit([block("stuck"), block("behind it")]).await.unwrap();
    begun.reach(1).await;
    let others = system.submit(numbers(100)).await.unwrap();
    assert_eq!(soon(system.gather(others)).await.unwrap().len(), 100);
    assert_eq!(view(&handles[0]).await.state, StateName::Running);
    release.send(()).unwrap();
    begun.reach(2).await;
    release.send(()).unwrap();
    assert_eq!(soon(system.gather(handles)).await.unwrap(), ["stuck", "behind it"]);
    system.drain().await.unwrap();
}

#[tokio::test]
async fn blocking_bodies_run_side_by_side_up_to_their_slots() {
    let (meeting, crowd) = (Arc::new(Barrier::new(3)), Crowd::default());
    let of_bodies = crowd.clone();
    let task = Block(move |_ctx: &Ctx, args| {
        of_bodies.enter();
        meeting.wait();
        of_bodies.leave();
        Ok(args)
    });
    let system = in_memory().blocking_workers(3).blocking_task(task).start().await.unwrap();
    let handles = system.submit((0..30).map(block).collect::<Vec<_>>()).await.unwrap();
    let results = soon(system.gather(handles)).await.unwrap();
    assert_eq!(results, (0..30).map(Value::from).collect::<Vec<_>>());
    assert_eq!(crowd.max(), 3);
}

#[tokio::test]
async fn a_blocking_panic_is_an_errored_attempt_and_the_thread_lives_on() {
    let task = Block(|_ctx: &Ctx, args: Value| {
        assert!(args != json!("bad"), "these arguments are {args}");
        Ok(args)
    });
    let system = in_memory().blocking_workers(1).blocking_task(task).start().await.unwrap();
    let bad = system.submit(block("bad").max_attempts(1)).await.unwrap();
    let good = system.submit(block("good")).await.unwrap();
    assert_eq!(soon(good.into_future()).await.unwrap(), "good");
    assert_eq!(error_code(&bad).await.as_deref(), Some("task.panic"));
    let error = view(&bad).await.error.unwrap();
    assert!(error.message.contains("these arguments are \"bad\""), "{}", error.message);
    assert!(error.backtrace.is_some());
}

#[tokio::test]
async fn a_blocking_body_learns_of_its_timeout_and_keeps_its_slot_until_it_returns() {
    let task = Block(|ctx: &Ctx, _args| {
        futures::executor::block_on(ctx.cancelled());
        Err::<Value, _>(TaskError::new("it took too long"))
    });
    let system = in_memory().blocking_workers(1).blocking_task(task).start().await.unwrap();
    let invocation = block(0).timeout("30ms").max_attempts(1);
    let handle = system.submit(invocation).await.unwrap();
    soon(handle.clone().into_future()).await.unwrap_err();
    assert_eq!(outcomes(&system, &handle).await, ["timed_out"]);
    assert_eq!(view(&handle).await.reason, Some(FailReason::Exhausted));
}
