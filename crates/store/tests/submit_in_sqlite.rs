//! Submitting on the application's own connection to the file: what commits is accepted, what is
//! rolled back never was, and the nodes on the file go on as if another process had committed.
#![cfg(feature = "sqlite")]
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};
use taskloom_model::{EventKind, JobId, NodeId, Outcome, Roll, Rules, StateName, Time};
use taskloom_store::sqlite::{SqliteOptions, SqliteStore, Synchronous, submit_in};
use taskloom_store::{
    Claimed, Demand, EventCursor, Finish, ManualClock, NewJob, NewNode, Queues, Store, StoreError,
};

const NOW: Time = Time::from_millis(1_700_000_000_000);
const PATIENCE: Duration = Duration::from_secs(60);

fn open(folder: &Path) -> SqliteStore {
    let options = SqliteOptions { synchronous: Synchronous::Normal, ..SqliteOptions::default() };
    SqliteStore::open(folder.join("jobs.db"), options, Arc::new(ManualClock::at(NOW))).unwrap()
}

/// The application's connection, with a table of its own.
fn connect(folder: &Path) -> Connection {
    let app = Connection::open(folder.join("jobs.db")).unwrap();
    app.busy_timeout(PATIENCE).unwrap();
    app.pragma_update(None, "synchronous", "normal").unwrap();
    app.execute_batch("CREATE TABLE IF NOT EXISTS orders (n INTEGER)").unwrap();
    app
}

fn job() -> NewJob {
    NewJob::new("echo", "{}")
}

async fn states(store: &SqliteStore, ids: &[JobId]) -> Vec<Option<StateName>> {
    let views = store.get(ids.to_vec()).await.unwrap();
    views.iter().map(|it| it.as_ref().map(|it| it.state)).collect()
}

async fn register(store: &SqliteStore) -> NodeId {
    store.register(NewNode { name: "n".into(), pid: 1, tasks: Vec::new() }).await.unwrap()
}

async fn claim(store: &SqliteStore, node: NodeId, n: usize) -> Vec<Claimed> {
    let tasks: Arc<[Arc<str>]> = [Arc::from("echo"), Arc::from("new")].into();
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
async fn a_commit_accepts_and_a_rollback_never_was() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut app = connect(folder.path());
    let first = store.submit(vec![job()]).await.unwrap()[0].id;
    let jobs = [
        NewJob { delay: Some(Duration::from_secs(5)), ..job() },
        NewJob { unique: Some("u".into()), ..NewJob::new("new", "{}") },
        NewJob { unique: Some("u".into()), after: vec![first], ..job() },
        NewJob { after: vec![first], ..job() },
    ];
    for commits in [false, true] {
        let tx = app.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        tx.execute("INSERT INTO orders VALUES (1)", []).unwrap();
        let mut accepted = submit_in(&tx, &jobs[..2], NOW).unwrap();
        accepted.extend(submit_in(&tx, &jobs[2..], NOW).unwrap());
        let ids: Vec<JobId> = accepted.iter().map(|it| it.id).collect();
        assert_eq!((ids[2], accepted[2].duplicate), (ids[1], true));
        assert_eq!(states(&store, &ids).await, [None; 4]);
        if !commits {
            tx.rollback().unwrap();
            assert_eq!(states(&store, &ids).await, [None; 4]);
            continue;
        }
        tx.commit().unwrap();
        let expected = [StateName::Delayed, StateName::Ready, StateName::Ready, StateName::Blocked];
        assert_eq!(states(&store, &ids).await, expected.map(Some));
    }
    assert_eq!(store.verify().await.unwrap(), []);
    let counts = store.counts().await.unwrap();
    assert_eq!(counts.iter().map(|it| it.n).sum::<u64>(), 4);
    let events = store.events(EventCursor::START, 99).await.unwrap().events;
    assert_eq!(events.iter().map(|it| it.kind).collect::<Vec<_>>(), [EventKind::JobSubmitted; 4]);
    // The store counts on from where the application's transaction has left it.
    let last = store.submit(vec![job()]).await.unwrap()[0].id;
    assert_eq!(last.key(), 5);
    assert_eq!(store.verify().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_call_leaves_the_transaction_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut app = connect(folder.path());
    let tx = app.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    let kept = submit_in(&tx, &[job()], NOW).unwrap()[0].id;
    let gone = JobId::compose(NOW, 1, 9);
    for (refused, code) in [
        (NewJob { after: vec![gone], ..job() }, "store.unknown_dependency"),
        (NewJob { key: Some(String::new()), ..job() }, "store.empty"),
        (NewJob::new("echo", "{"), "store.args"),
        (NewJob::new("echo", format!("{:?}", "x".repeat(1024 * 1024))), "store.too_large"),
    ] {
        assert_eq!(submit_in(&tx, &[job(), refused], NOW).unwrap_err().code(), code);
    }
    // What fails in the middle is taken back, too.
    let fails = "CREATE TEMP TRIGGER fails BEFORE INSERT ON main.deadlines \
         BEGIN SELECT raise(ABORT, 'no'); END";
    tx.execute_batch(fails).unwrap();
    let rules = Rules { deadline: Some(NOW), ..Rules::default() };
    let refused = submit_in(&tx, &[job(), NewJob { rules, ..job() }], NOW).unwrap_err();
    assert_eq!(refused.code(), "store.database");
    tx.commit().unwrap();
    assert_eq!(states(&store, &[kept]).await, [Some(StateName::Ready)]);
    assert_eq!(store.counts().await.unwrap()[0].n, 1);
    assert_eq!(store.verify().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_may_not_write_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let _store = open(folder.path());
    let mut app = connect(folder.path());
    let deferred = |it: Result<_, StoreError>| matches!(it, Err(StoreError::Deferred));
    assert!(deferred(submit_in(&app, &[job()], NOW)), "no transaction at all");
    let tx = app.transaction().unwrap();
    assert!(deferred(submit_in(&tx, &[job()], NOW)), "nothing done yet");
    tx.query_row("SELECT count(*) FROM orders", [], |_| Ok(())).unwrap();
    assert!(deferred(submit_in(&tx, &[job()], NOW)), "it has read");
    tx.execute("INSERT INTO orders VALUES (1)", []).unwrap();
    submit_in(&tx, &[job()], NOW).expect("it has written, so it can");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_store_of_this_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut app = connect(folder.path());
    let tx = app.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    assert_eq!(submit_in(&tx, &[job()], NOW).unwrap_err().code(), "store.foreign");
    drop(tx);
    std::fs::remove_file(folder.path().join("jobs.db")).unwrap();
    drop(open(folder.path()));
    let mut app = connect(folder.path());
    for (version, code) in [(99, "store.newer_schema"), (0, "store.foreign")] {
        app.pragma_update(None, "user_version", version).unwrap();
        let tx = app.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        assert_eq!(submit_in(&tx, &[job()], NOW).unwrap_err().code(), code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_the_application_wakes_the_nodes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let node = register(&store).await;
    let mut app = connect(folder.path());
    let mut ready = store.notices().ready;
    loop {
        ready.borrow_and_update();
        if claim(&store, node, 9).await.is_empty() {
            break;
        }
    }
    let tx = app.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    // A lane that the node has never heard of.
    let id = submit_in(&tx, &[NewJob::new("new", "{}")], NOW).unwrap()[0].id;
    tx.commit().unwrap();
    loop {
        tokio::time::timeout(PATIENCE, ready.changed()).await.expect("it is told").unwrap();
        if let [claimed] = &claim(&store, node, 9).await[..] {
            assert_eq!(claimed.id, id);
            return;
        }
    }
}

/// Submits in 300 transactions of its own, some of which it takes back.
fn submit_much(folder: &Path) -> BTreeSet<JobId> {
    let mut app = connect(folder);
    let mut accepted = BTreeSet::new();
    let mut last = None;
    for n in 0..300 {
        let tx = app.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        tx.execute("INSERT INTO orders VALUES (?1)", [n]).unwrap();
        let unique = (n % 3 == 0).then(|| format!("{}", n % 7));
        let delay = (n % 5 == 0).then_some(Duration::ZERO);
        let jobs = [job(), NewJob { unique, delay, after: last.into_iter().collect(), ..job() }];
        let submitted = submit_in(&tx, &jobs, NOW).unwrap();
        if n % 10 == 9 {
            tx.rollback().unwrap();
            continue;
        }
        tx.commit().unwrap();
        last = Some(submitted[0].id);
        accepted.extend(submitted.iter().filter(|it| !it.duplicate).map(|it| it.id));
    }
    accepted
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_under_load_and_the_application_lose_nothing_and_do_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (open(folder.path()), open(folder.path()));
    connect(folder.path());
    let path = folder.path().to_owned();
    let submitting = tokio::task::spawn_blocking(move || submit_much(&path));
    let (node, other_node) = (register(&one).await, register(&other).await);
    let (mut done, mut own) = (Vec::new(), BTreeSet::new());
    loop {
        let is_last = submitting.is_finished();
        let both = futures::join!(claim(&one, node, 9), claim(&other, other_node, 9));
        let n = both.0.len() + both.1.len();
        for (store, node, claims) in [(&one, node, both.0), (&other, other_node, both.1)] {
            done.extend(claims.iter().map(|it| it.id));
            let ended = claims.iter().map(succeeded).collect();
            let finished = store.finish(node, ended, Vec::new()).await.unwrap();
            assert!(finished.outcomes.iter().all(|it| *it == Ok(StateName::Succeeded)));
        }
        if own.len() < 200 {
            own.extend(one.submit(vec![job(); 2]).await.unwrap().iter().map(|it| it.id));
        } else if is_last && n == 0 {
            break;
        }
    }
    let mut accepted = submitting.await.unwrap();
    accepted.extend(own);
    assert_eq!(done.len(), accepted.len(), "none is done twice");
    assert_eq!(done.into_iter().collect::<BTreeSet<_>>(), accepted);
    assert_eq!(one.verify().await.unwrap(), []);
}
