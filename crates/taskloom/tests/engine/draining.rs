//! Draining: nothing new begins, and what is given back has lost nothing.

use std::time::Duration;

use serde_json::{Value, json};
use taskloom::{CancelReason, Ctx, StateName, TaskError, TaskSystem};

use crate::support::{
    Block, Body, Counter, Gate, Place, block, body, echo, numbers, outcomes, soon, view,
};

/// A body that counts its beginnings and waits for a gate.
fn waits_for(gate: &Gate, begun: &Counter) -> Body<impl Fn(Ctx, Value) -> Waiting + use<>> {
    let (gate, begun) = (gate.clone(), begun.clone());
    Body(move |_ctx, args| -> Waiting {
        begun.add();
        let gate = gate.clone();
        Box::pin(async move {
            gate.opened().await;
            Ok(args)
        })
    })
}

type Waiting = futures::future::BoxFuture<'static, Result<Value, TaskError>>;

async fn check_given_back(system: &TaskSystem, handle: &taskloom::JobHandle<Value>) {
    let view = view(handle).await;
    assert_eq!((view.state, view.attempts, view.crashes), (StateName::Ready, 0, 0));
    assert_eq!(outcomes(system, handle).await, ["interrupted"]);
}

#[tokio::test]
async fn a_drain_waits_for_what_runs_and_begins_nothing_more() {
    let (gate, begun) = (Gate::closed(), Counter::new());
    let place = Place::new();
    let builder = place.open().max_workers(2).drain_deadline(Duration::from_secs(60));
    let system = builder.task(waits_for(&gate, &begun)).start().await.unwrap();
    let handles = system.submit(numbers(5)).await.unwrap();
    begun.reach(2).await;
    let (drained, late) = tokio::join!(soon(system.drain()), async {
        let late = system.submit(body("late").priority(9)).await.unwrap();
        gate.open();
        late
    });
    drained.unwrap();
    assert_eq!(begun.get(), 2);
    let mut states = Vec::new();
    for handle in &handles {
        states.push(view(handle).await.state);
    }
    states.sort_unstable();
    let (ready, succeeded) = (StateName::Ready, StateName::Succeeded);
    assert_eq!(states, [ready, ready, ready, succeeded, succeeded]);
    let late = view(&late).await;
    assert_eq!((late.state, late.attempts, late.fence.0), (StateName::Ready, 0, 0));
    assert!(system.store().nodes().await.unwrap().is_empty(), "the node has left");
    system.drain().await.unwrap();
}

#[tokio::test]
async fn a_drain_past_its_deadline_gives_running_jobs_back() {
    let (gate, begun) = (Gate::closed(), Counter::new());
    let place = Place::new();
    let builder = place.open().drain_deadline(Duration::ZERO);
    let system = builder.task(waits_for(&gate, &begun)).start().await.unwrap();
    let handles = system.submit(numbers(3)).await.unwrap();
    begun.reach(3).await;
    soon(system.drain()).await.unwrap();
    for handle in &handles {
        check_given_back(&system, handle).await;
    }
    drop(system);
    let system = place.open().task(Body(echo)).start().await.unwrap();
    let handles: Vec<_> = handles.iter().map(|it| system.job::<Value>(it.id())).collect();
    let first = handles[0].clone();
    assert_eq!(soon(system.gather(handles)).await.unwrap(), [0, 1, 2]);
    assert_eq!(view(&first).await.attempts, 1, "the interrupted attempt did not count");
    system.drain().await.unwrap();
}

#[tokio::test]
async fn a_body_hears_of_the_drain_and_may_still_succeed() {
    let begun = Counter::new();
    let on_begin = begun.clone();
    let task = Body(move |ctx: Ctx, args: Value| {
        on_begin.add();
        async move {
            ctx.cancelled().await;
            assert_eq!(ctx.cancel_reason(), Some(CancelReason::Drain));
            if args == json!("saved") { Ok(args) } else { Err(TaskError::new("cut off")) }
        }
    });
    let place = Place::new();
    let builder = place.open().drain_deadline(Duration::ZERO).grace(Duration::from_secs(60));
    let system = builder.task(task).start().await.unwrap();
    let (saved, cut) = system.submit((body("saved"), body("cut"))).await.unwrap();
    begun.reach(2).await;
    soon(system.drain()).await.unwrap();
    assert_eq!(view(&saved).await.state, StateName::Succeeded);
    check_given_back(&system, &cut).await;
}

#[tokio::test]
async fn a_hurried_drain_ends_at_once() {
    check_hurried(async |system| {
        let (drained, ()) = tokio::join!(soon(system.drain()), async { system.hurry() });
        drained.unwrap();
    })
    .await;
}

/// As when a second signal follows so fast that the first has not begun to drain.
#[tokio::test]
async fn a_hurry_before_the_drain_is_not_forgotten() {
    check_hurried(async |system| {
        system.hurry();
        soon(system.drain()).await.unwrap();
    })
    .await;
}

async fn check_hurried(drain: impl AsyncFnOnce(&TaskSystem)) {
    let (gate, begun) = (Gate::closed(), Counter::new());
    let place = Place::new();
    let hour = Duration::from_secs(3600);
    let builder = place.open().drain_deadline(hour).grace(hour);
    let system = builder.task(waits_for(&gate, &begun)).start().await.unwrap();
    let handle = system.submit(body(0)).await.unwrap();
    begun.reach(1).await;
    drain(&system).await;
    check_given_back(&system, &handle).await;
}

#[tokio::test(start_paused = true)]
async fn a_blocking_body_that_ignores_the_drain_is_given_back() {
    let (release, released) = std::sync::mpsc::sync_channel::<()>(1);
    let (begun, released) = (Counter::new(), parking_lot::Mutex::new(released));
    let on_begin = begun.clone();
    let task = Block(move |_ctx: &Ctx, args| {
        on_begin.add();
        released.lock().recv().ok();
        Ok(args)
    });
    let builder = crate::support::in_memory().drain_deadline(Duration::ZERO);
    let system = builder.blocking_task(task).start().await.unwrap();
    let handle = system.submit(block(0)).await.unwrap();
    // The thread is not the runtime's: a paused clock would run past it.
    tokio::time::resume();
    begun.reach(1).await;
    tokio::time::pause();
    system.drain().await.unwrap();
    check_given_back(&system, &handle).await;
    drop(release);
}
