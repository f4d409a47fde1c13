//! Nodes that die, nodes that are taken for dead, and nodes that share a file.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use taskloom::{
    CancelReason, Clock, Ctx, FailReason, JobHandle, StateName, Store, TaskError, TaskSystem,
};
use taskloom_store::Judge;
use taskloom_store::sqlite::{SqliteOptions, SqliteStore};

use crate::support::{
    Body, Counter, Gate, Place, body, echo, numbers, outcomes, soon, until, view,
};

/// A system whose bodies never end, with one attempt under way.
async fn stuck_system(place: &Place, begun: &Counter) -> TaskSystem {
    let on_begin = begun.clone();
    let task = Body(move |_ctx, _args| {
        on_begin.add();
        std::future::pending()
    });
    place.open().task(task).start().await.unwrap()
}

/// Drops a system without a drain, as a crash would, and returns once its lock is free.
async fn crash(system: TaskSystem) {
    let store = Arc::downgrade(system.store());
    drop(system);
    soon(async {
        while 0 < store.strong_count() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_crashed_node_loses_its_jobs_to_the_next_one_within_a_second() {
    let (place, begun) = (Place::new(), Counter::new());
    let system = stuck_system(&place, &begun).await;
    let id = system.submit(body("survives")).await.unwrap().id();
    begun.reach(1).await;
    crash(system).await;
    let began = Instant::now();
    let system = place.open().task(Body(echo)).start().await.unwrap();
    let handle: JobHandle<Value> = system.job(id);
    assert_eq!(soon(handle.clone().into_future()).await.unwrap(), "survives");
    let took = began.elapsed();
    println!("rescued and finished {took:?} after the start");
    // One look of the rescue loop more, in case the lock was not yet free at the start.
    assert!(took < Duration::from_secs(2), "{took:?}");
    let view = view(&handle).await;
    assert_eq!((view.crashes, view.attempts), (1, 1), "a crash is not a failure");
    assert_eq!(outcomes(&system, &handle).await, ["lost", "succeeded"]);
    assert_eq!(system.store().nodes().await.unwrap().len(), 1);
    system.drain().await.unwrap();
}

#[tokio::test]
async fn three_crashes_quarantine_a_job_and_a_retry_frees_it() {
    let (place, begun) = (Place::new(), Counter::new());
    let mut id = None;
    for n in 1..=3 {
        let system = stuck_system(&place, &begun).await;
        if id.is_none() {
            id = Some(system.submit(body("poison").max_attempts(1)).await.unwrap().id());
        }
        begun.reach(n).await;
        crash(system).await;
    }
    let system = place.open().task(Body(echo)).start().await.unwrap();
    let handle: JobHandle<Value> = system.job(id.unwrap());
    let failed = until(system.store(), handle.id(), |it| it.state.is_ended()).await;
    assert_eq!((failed.state, failed.reason), (StateName::Failed, Some(FailReason::Quarantined)));
    assert_eq!(failed.crashes, 3);
    assert_eq!(outcomes(&system, &handle).await, ["lost"; 3]);
    system.retry(vec![handle.id()]).await.unwrap();
    assert_eq!(soon(handle.clone().into_future()).await.unwrap(), "poison");
    assert_eq!(view(&handle).await.crashes, 0);
    system.drain().await.unwrap();
}

/// A clock a minute ahead: every node has missed its heartbeats for longer than its lease.
#[derive(Debug)]
struct Ahead;

impl Clock for Ahead {
    fn now(&self) -> taskloom::Time {
        taskloom::SystemClock.now() + Duration::from_secs(60)
    }
}

#[tokio::test]
async fn a_node_taken_for_dead_tells_its_tasks_and_registers_again() {
    let (place, begun, refused) = (Place::new(), Counter::new(), Counter::new());
    let (on_begin, on_lost) = (begun.clone(), refused.clone());
    let task = Body(move |ctx: Ctx, _args| {
        let (is_first, on_lost) = (on_begin.add() == 1, on_lost.clone());
        async move {
            if !is_first {
                return Ok(json!("the second attempt"));
            }
            ctx.cancelled().await;
            assert_eq!(ctx.cancel_reason(), Some(CancelReason::LeaseLost));
            on_lost.add();
            Ok(json!("too late"))
        }
    });
    let system = place.open().task(task).start().await.unwrap();
    let before = system.store().nodes().await.unwrap()[0].id;
    let handle = system.submit(body(0)).await.unwrap();
    begun.reach(1).await;
    let other = SqliteStore::open(place.path(), SqliteOptions::default(), Arc::new(Ahead)).unwrap();
    let rescued = other.rescue(Judge::of_all(None)).await.unwrap();
    assert_eq!(rescued.iter().map(|it| it.n_ready).sum::<usize>(), 1);
    refused.reach(1).await;
    assert_eq!(soon(handle.clone().into_future()).await.unwrap(), "the second attempt");
    assert_eq!(outcomes(&system, &handle).await, ["lost", "succeeded"]);
    let nodes = system.store().nodes().await.unwrap();
    assert!(nodes.len() == 1 && nodes[0].id != before, "{nodes:?}");
    soon(system.drain()).await.unwrap();
}

/// Who runs which job now, and who ran it how often, over two systems of one file.
#[derive(Default)]
struct Shared {
    running: Mutex<HashMap<u64, usize>>,
    n_runs: Mutex<HashMap<u64, Vec<usize>>>,
}

async fn sharing_system(
    place: &Place,
    which: usize,
    shared: &Arc<Shared>,
    both: &[Gate; 2],
) -> TaskSystem {
    let (shared, both) = (Arc::clone(shared), both.clone());
    let task = Body(move |_ctx, args: Value| {
        let (shared, both) = (Arc::clone(&shared), both.clone());
        async move {
            let n = args.as_u64().unwrap();
            let other = shared.running.lock().insert(n, which);
            if let Some(other) = other {
                return Err(TaskError::permanent(format!("{n} runs on {other} as well")));
            }
            shared.n_runs.lock().entry(n).or_default().push(which);
            both[which].open();
            // Until both systems have a job, none ends: so both take part.
            futures::join!(both[0].opened(), both[1].opened());
            shared.running.lock().remove(&n);
            Ok(args)
        }
    });
    place.open().name(format!("node {which}")).max_workers(5).task(task).start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_systems_on_one_file_share_the_work_and_never_a_job() {
    const N_JOBS: usize = 600;
    let (place, shared) = (Place::new(), Arc::new(Shared::default()));
    let both = [Gate::closed(), Gate::closed()];
    let a = sharing_system(&place, 0, &shared, &both).await;
    let b = sharing_system(&place, 1, &shared, &both).await;
    let mut handles = a.submit(numbers(N_JOBS / 2)).await.unwrap();
    let more: Vec<_> = (N_JOBS / 2..N_JOBS).map(body).collect();
    handles.extend(b.submit(more).await.unwrap());
    let results = soon(a.gather(handles)).await.unwrap();
    assert_eq!(results.len(), N_JOBS);
    let n_runs = shared.n_runs.lock().clone();
    assert_eq!(n_runs.len(), N_JOBS);
    assert!(n_runs.values().all(|it| it.len() == 1), "some job ran twice");
    let on_a = n_runs.values().filter(|it| it[0] == 0).count();
    println!("node 0 ran {on_a} of {N_JOBS} jobs");
    assert!(0 < on_a && on_a < N_JOBS);
    a.drain().await.unwrap();
    b.drain().await.unwrap();
}

#[tokio::test]
async fn a_living_node_rescues_what_another_one_left() {
    let (place, begun) = (Place::new(), Counter::new());
    let dying = stuck_system(&place, &begun).await;
    let id = dying.submit(body(7)).await.unwrap().id();
    begun.reach(1).await;
    let living = place.open().task(Body(echo)).start().await.unwrap();
    crash(dying).await;
    let began = Instant::now();
    assert_eq!(soon(living.job::<Value>(id).into_future()).await.unwrap(), 7);
    println!("rescued and finished {:?} after the crash", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(5));
    living.drain().await.unwrap();
}
