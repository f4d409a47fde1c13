//! Two handles on one file, as two processes have them: they share the work, wake each other, and
//! take over what a dead one held.
#![cfg(feature = "sqlite")]
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use taskloom_model::{JobId, NodeId, Outcome, Refusal, Roll, StateName, Time};
use taskloom_store::sqlite::{LEASE, SqliteOptions, SqliteStore, Synchronous};
use taskloom_store::{
    Beat, Claimed, Clock, Demand, Finish, Judge, ManualClock, NewJob, NewNode, Queues, Store,
};

/// Tells a second of its own while nobody may write to the file but the one who asks.
#[derive(Debug)]
struct LockClock(PathBuf);

impl LockClock {
    const FREE: Time = Time::from_millis(1_700_000_000_000);
    const LOCKED: Time = Time::from_millis(1_700_000_001_000);
}

impl Clock for LockClock {
    fn now(&self) -> Time {
        let file = rusqlite::Connection::open(&self.0).unwrap();
        file.busy_timeout(Duration::ZERO).unwrap();
        match file.execute_batch("BEGIN IMMEDIATE") {
            Ok(()) => LockClock::FREE,
            Err(_) => LockClock::LOCKED,
        }
    }
}

fn clock() -> ManualClock {
    ManualClock::at(Time::from_millis(1_700_000_000_000))
}

fn open(folder: &Path, clock: &ManualClock) -> SqliteStore {
    let options = SqliteOptions { synchronous: Synchronous::Normal, ..SqliteOptions::default() };
    SqliteStore::open(folder.join("jobs.db"), options, Arc::new(clock.clone())).unwrap()
}

async fn register(store: &SqliteStore) -> NodeId {
    store.register(NewNode { name: "n".into(), pid: 1, tasks: Vec::new() }).await.unwrap()
}

async fn submit(store: &SqliteStore, n: usize) -> BTreeSet<JobId> {
    let accepted = store.submit(vec![NewJob::new("echo", "{}"); n]).await.unwrap();
    accepted.iter().map(|it| it.id).collect()
}

async fn claim(store: &SqliteStore, node: NodeId, n: usize) -> Vec<Claimed> {
    let tasks: Arc<[Arc<str>]> = [Arc::from("echo")].into();
    let demand = Demand { queues: Queues::Except(Arc::from([])), tasks, n };
    store.claim(node, vec![demand]).await.unwrap()
}

fn succeeded(claimed: &Claimed) -> Finish {
    Finish {
        id: claimed.id,
        fence: claimed.fence,
        outcome: Outcome::Succeeded,
        roll: Roll(0.0),
        started: Time::default(),
        result: Some("1".into()),
        error: None,
        logs: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_a_commit_is_read_when_nobody_else_can_write_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jobs.db");
    let clock = Arc::new(LockClock(file.clone()));
    let store = SqliteStore::open(file, SqliteOptions::default(), clock.clone()).unwrap();
    assert_eq!(clock.now(), LockClock::FREE);
    let accepted = store.submit(vec![NewJob::new("echo", "{}")]).await.unwrap();
    let view = store.get(vec![accepted[0].id]).await.unwrap().remove(0).unwrap();
    assert_eq!(view.created, LockClock::LOCKED);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_one_are_claimed_by_both_and_none_twice() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), clock());
    let (one, other) = (open(folder.path(), &clock), open(folder.path(), &clock));
    let submitted = submit(&one, 400).await;
    let (node, other_node) = (register(&one).await, register(&other).await);
    let mut claimed = Vec::new();
    loop {
        let both = futures::join!(claim(&one, node, 7), claim(&other, other_node, 5));
        let n = both.0.len() + both.1.len();
        for (store, node, claims) in [(&one, node, both.0), (&other, other_node, both.1)] {
            claimed.extend(claims.iter().map(|it| it.id));
            let ended = claims.iter().map(succeeded).collect();
            let finished = store.finish(node, ended, Vec::new()).await.unwrap();
            assert!(finished.outcomes.iter().all(|it| *it == Ok(StateName::Succeeded)));
        }
        if n == 0 {
            break;
        }
    }
    assert_eq!(claimed.len(), 400, "none is claimed twice");
    assert_eq!(claimed.into_iter().collect::<BTreeSet<_>>(), submitted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_one_wakes_the_other() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), clock());
    let (one, other) = (open(folder.path(), &clock), open(folder.path(), &clock));
    let node = register(&other).await;
    let mut notices = other.notices();
    loop {
        // What was told before the submit must not be what wakes.
        notices.ready.borrow_and_update();
        notices.changed.borrow_and_update();
        if claim(&other, node, 9).await.is_empty() {
            break;
        }
    }
    submit(&one, 3).await;
    let mut claimed = Vec::new();
    let deadline = Duration::from_secs(30);
    while claimed.len() < 3 {
        let woken = tokio::time::timeout(deadline, notices.ready.changed());
        woken.await.expect("the other process is told").unwrap();
        claimed.extend(claim(&other, node, 9).await);
    }
    tokio::time::timeout(deadline, notices.changed.changed()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_of_a_dead_process_are_rescued_at_once_and_those_of_a_live_one_are_not() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), clock());
    let (one, other) = (open(folder.path(), &clock), open(folder.path(), &clock));
    submit(&one, 3).await;
    let node = register(&one).await;
    let claimed = claim(&one, node, 3).await;
    assert_eq!(other.rescue(Judge::of_all(None)).await.unwrap(), [], "its lock is held");

    drop(one);
    let rescued = other.rescue(Judge::of_all(None)).await.unwrap();
    assert_eq!(rescued.iter().map(|it| (it.node, it.n_ready)).collect::<Vec<_>>(), [(node, 3)]);
    let views = other.get(claimed.iter().map(|it| it.id).collect()).await.unwrap();
    for view in views.into_iter().flatten() {
        assert_eq!((view.state, view.attempts, view.crashes), (StateName::Ready, 0, 1));
    }
    assert_eq!(other.rescue(Judge::of_all(None)).await.unwrap(), [], "once");
    assert!(other.nodes().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_silent_too_long_learns_that_it_lost_everything() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), clock());
    let (one, other) = (open(folder.path(), &clock), open(folder.path(), &clock));
    submit(&one, 2).await;
    let node = register(&one).await;
    let claimed = claim(&one, node, 2).await;
    clock.advance(LEASE);
    let other_node = register(&other).await;
    assert_eq!(other.rescue(Judge::of_all(Some(other_node))).await.unwrap().len(), 1);
    let taken = claim(&other, other_node, 1).await;

    let ended = claimed.iter().map(succeeded).collect();
    let outcomes = one.finish(node, ended, Vec::new()).await.unwrap().outcomes;
    let current = taken[0].fence;
    assert_eq!(outcomes, [Err(Refusal::StaleFence { current }), Err(Refusal::AlreadyFinished)]);
    assert!(claim(&one, node, 1).await.is_empty(), "a lost node gets no jobs");
    assert!(one.heartbeat(Beat { node, signs: Vec::new() }).await.unwrap().evicted);
    let node = register(&one).await;
    assert_eq!(claim(&one, node, 9).await.len(), 1);
}
