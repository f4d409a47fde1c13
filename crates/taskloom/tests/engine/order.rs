//! Which job begins next, and how many run at once.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use taskloom::{Ctx, Invocation};

use crate::support::{Body, Counter, Crowd, Gate, Place, body, in_memory, numbers, soon};

/// Runs invocations on one slot, once all are accepted, and gives their arguments as they begin.
async fn order_of(invocations: Vec<Invocation<Value>>) -> Vec<Value> {
    let (begun, gate) = (Arc::new(Mutex::new(Vec::new())), Gate::closed());
    let n_begun = Counter::new();
    let (noted, opened, on_begin) = (Arc::clone(&begun), gate.clone(), n_begun.clone());
    let task = Body(move |_ctx, args: Value| {
        let gate = opened.clone();
        noted.lock().push(args);
        on_begin.add();
        async move {
            gate.opened().await;
            Ok(json!(null))
        }
    });
    let system = in_memory().max_workers(1).task(task).start().await.unwrap();
    let first = system.submit(body("first")).await.unwrap();
    n_begun.reach(1).await;
    let handles = system.submit(invocations).await.unwrap();
    gate.open();
    soon(first.into_future()).await.unwrap();
    soon(system.gather(handles)).await.unwrap();
    let mut begun = std::mem::take(&mut *begun.lock());
    assert_eq!(begun.remove(0), "first");
    begun
}

#[tokio::test]
async fn jobs_of_one_priority_begin_in_the_order_of_their_submits() {
    assert_eq!(order_of(numbers(200)).await, (0..200).map(Value::from).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_higher_priority_always_begins_first() {
    let levels = [0, 9, 4, 4, 0, 9, 1];
    let invocations = levels.iter().enumerate().map(|(n, &level)| body(n).priority(level));
    assert_eq!(order_of(invocations.collect()).await, [1, 5, 2, 3, 6, 0, 4].map(Value::from));
}

#[tokio::test]
async fn priority_holds_over_queues_that_share_their_slots() {
    let invocations =
        vec![body(0).queue("a"), body(1).queue("b").priority(1), body(2).queue("c").priority(2)];
    assert_eq!(order_of(invocations).await, [2, 1, 0].map(Value::from));
}

#[tokio::test(start_paused = true)]
async fn no_queue_has_more_attempts_at_once_than_slots() {
    let crowds = [Crowd::default(), Crowd::default()];
    let of_bodies = crowds.clone();
    let task = Body(move |ctx: Ctx, args: Value| {
        let crowd = of_bodies[usize::from(ctx.queue() == "web")].clone();
        async move {
            crowd.enter();
            tokio::time::sleep(Duration::from_millis(10)).await;
            crowd.leave();
            Ok(args)
        }
    });
    let builder = in_memory().max_workers(5).queue("web", 2).task(task);
    let system = builder.start().await.unwrap();
    let invocations = (0..120).map(|n| if n % 2 == 0 { body(n).queue("web") } else { body(n) });
    let handles = system.submit(invocations.collect::<Vec<_>>()).await.unwrap();
    soon(system.gather(handles)).await.unwrap();
    assert_eq!(crowds.map(|it| it.max()), [5, 2]);
    system.drain().await.unwrap();
}

#[tokio::test]
async fn a_full_queue_does_not_hold_up_the_others() {
    let gate = Gate::closed();
    let opened = gate.clone();
    let task = Body(move |ctx: Ctx, args: Value| {
        let gate = opened.clone();
        async move {
            if ctx.queue() == "web" {
                gate.opened().await;
            }
            Ok(args)
        }
    });
    let place = Place::new();
    let builder = place.open().max_workers(2).queue("web", 2).task(task);
    let system = builder.start().await.unwrap();
    let stuck: Vec<_> = (0..20).map(|n| body(n).queue("web").priority(9)).collect();
    let stuck = system.submit(stuck).await.unwrap();
    let others = system.submit(numbers(20)).await.unwrap();
    soon(system.gather(others)).await.unwrap();
    gate.open();
    soon(system.gather(stuck)).await.unwrap();
    system.drain().await.unwrap();
}
