//! A check of a store on PostgreSQL finds each kind of damage, and none where there is none.
#![cfg(all(unix, feature = "postgres"))]
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::sync::Arc;
use std::time::Duration;

use taskloom_model::Time;
use taskloom_store::conformance::{Durability, PrivateServer};
use taskloom_store::postgres::{PostgresOptions, PostgresStore};
use taskloom_store::{Clock, Demand, ManualClock, NewJob, NewNode, Queues, Store};
use tokio_postgres::NoTls;

/// A store with a job in every state.
async fn store(url: &str) -> PostgresStore {
    let clock = Arc::new(ManualClock::at(Time::from_millis(1_700_000_000_000)));
    let clock = Some(clock as Arc<dyn Clock>);
    let options = PostgresOptions { clock, ..PostgresOptions::default() };
    let store = PostgresStore::open(url, options).unwrap();
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
    store
}

async fn check_found(server: &PrivateServer, damage: &str, expected: &str) {
    let url = server.database().unwrap();
    let store = store(&url).await;
    server.psql(url.rsplit('/').next().unwrap(), "SELECT taskloom.submit('echo')").unwrap();
    assert_eq!(store.verify().await.unwrap(), [], "before: {damage}");
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    let damaging = client.execute(damage, &[]);
    tokio::select! {
        _ = connection => unreachable!("the server lives"),
        n = damaging => assert_ne!(n.unwrap(), 0, "no damage done: {damage}"),
    }
    let breaches = store.verify().await.unwrap();
    let found: Vec<&str> = breaches.iter().map(|it| it.what.as_str()).collect();
    assert!(found.contains(&expected), "{damage}: {found:?}");
}

#[tokio::test]
async fn each_kind_of_damage_is_found() {
    let server = PrivateServer::start(&std::env::temp_dir(), Durability::None).unwrap();
    let running = "SELECT job FROM taskloom.hot WHERE state = 3";
    let ended = "SELECT job FROM taskloom.ended";
    for (damage, expected) in [
        ("DELETE FROM taskloom.hot WHERE state = 2", "a job stands nowhere"),
        (
            &*format!(
                "INSERT INTO taskloom.ended (job, at, fence, attempts, crashes, snoozes, state) \
                 SELECT job, 1, 9, 0, 0, 0, 5 FROM ({running}) AS it"
            ),
            "a job stands in two places",
        ),
        (
            "DELETE FROM taskloom.jobs WHERE job = (SELECT max(job) FROM taskloom.jobs)",
            "something belongs to a job that was never submitted",
        ),
        (
            "UPDATE taskloom.hot SET rank = rank + 1 WHERE state = 2",
            "a ready job is in another lane than it was submitted to",
        ),
        (
            "UPDATE taskloom.hot SET n_unfinished = 2 WHERE state = 1",
            "a blocked job counts other dependencies than it has",
        ),
        (
            &*format!("UPDATE taskloom.dependencies SET on_job = ({ended})"),
            "a job is blocked by one that has ended",
        ),
        (
            &*format!("UPDATE taskloom.uniques SET job = ({ended})"),
            "an ended job keeps its unique text or its deadline",
        ),
        ("DELETE FROM taskloom.nodes", "a running job is held by a node that is not registered"),
        (
            &*format!(
                "INSERT INTO taskloom.attempts SELECT job, 99, 1, 1, 1, 1, 0, NULL \
                 FROM ({running}) AS it"
            ),
            "an attempt has a later fence than its job",
        ),
        ("DELETE FROM taskloom.arrivals", "a job that has just arrived is not where such jobs are"),
        (
            "UPDATE taskloom.arrivals SET job = job + 99",
            "something belongs to a job that was never submitted",
        ),
        ("UPDATE taskloom.counts SET n = n + 1", "a lane counts other jobs than it has"),
        // In the part that they were submitted in.
        ("UPDATE taskloom.counts SET part = 1", "a lane counts other jobs than it has"),
    ] {
        check_found(&server, damage, expected).await;
    }
}
