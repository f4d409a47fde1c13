//! A check of a store finds each kind of damage, and none where there is none.
#![cfg(feature = "sqlite")]
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use taskloom_model::Time;
use taskloom_store::sqlite::{SqliteOptions, SqliteStore};
use taskloom_store::{Demand, ManualClock, NewJob, NewNode, Queues, Store};

struct Place {
    _folder: tempfile::TempDir,
    path: PathBuf,
    store: SqliteStore,
}

/// A store with a job in every state.
async fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let clock = ManualClock::at(Time::from_millis(1_700_000_000_000));
    let store = SqliteStore::open(&path, SqliteOptions::default(), Arc::new(clock)).unwrap();
    let job = || NewJob::new("echo", "{}");
    let waits = NewJob { delay: Some(Duration::from_secs(60)), ..job() };
    let unique = NewJob { unique: Some("one".into()), ..job() };
    let jobs = vec![job(), job(), job(), waits, unique];
    let ids: Vec<_> = store.submit(jobs).await.unwrap().iter().map(|it| it.id).collect();
    store.submit(vec![NewJob { after: vec![ids[1]], ..job() }]).await.unwrap();
    store.cancel(vec![ids[2]]).await.unwrap();
    let node = NewNode { name: "here".into(), pid: 1, tasks: vec!["echo".into()] };
    let node = store.register(node).await.unwrap();
    let tasks = Arc::from(["echo".into()]);
    let demand = Demand { queues: Queues::Except(Arc::from([])), tasks, n: 1 };
    assert_eq!(store.claim(node, vec![demand]).await.unwrap().len(), 1);
    Place { _folder: folder, path, store }
}

async fn check_found(damage: &str, expected: &str) {
    let place = place().await;
    assert_eq!(place.store.verify().await.unwrap(), [], "before: {damage}");
    let n = Connection::open(&place.path).unwrap().execute(damage, []).unwrap();
    assert_ne!(n, 0, "no damage done: {damage}");
    let breaches = place.store.verify().await.unwrap();
    let found: Vec<&str> = breaches.iter().map(|it| it.what.as_str()).collect();
    assert!(found.contains(&expected), "{damage}: {found:?}");
}

#[tokio::test]
async fn each_kind_of_damage_is_found() {
    for (damage, expected) in [
        ("DELETE FROM ready", "a job stands nowhere"),
        (
            "INSERT INTO waiting SELECT job, 1, 0, 0, 0, 0, 0 FROM running",
            "a job stands in two places",
        ),
        ("DELETE FROM jobs WHERE id = 1", "something belongs to a job that was never submitted"),
        (
            "UPDATE ready SET rank = rank + 1",
            "a ready job is in another lane than it was submitted to",
        ),
        (
            "UPDATE blocked SET n_unfinished = 2",
            "a blocked job counts other dependencies than it has",
        ),
        ("UPDATE dependencies SET on_job = 3", "a job is blocked by one that has ended"),
        ("UPDATE uniques SET job = 3", "an ended job keeps its unique text or its deadline"),
        ("DELETE FROM nodes", "a running job is held by a node that is not registered"),
        (
            "INSERT INTO attempts SELECT job, fence + 1, 1, 1, 1, 1, 0, NULL FROM running",
            "an attempt has a later fence than its job",
        ),
        ("UPDATE counts SET n = n + 1", "a lane counts other jobs than it has"),
        ("UPDATE events SET body = x'FFFF'", "events overlap or can't be read"),
    ] {
        check_found(damage, expected).await;
    }
}
