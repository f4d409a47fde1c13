//! The conformance suite on PostgreSQL: a private server for all tests, a database for each. A
//! failure prints its seed and step.
#![cfg(all(unix, feature = "postgres"))]
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::sync::{Arc, Mutex, Weak};

use taskloom_model::Time;
use taskloom_store::conformance::{
    Durability, PrivateServer, Summary, lockstep, long_chain, many_deadlines,
};
use taskloom_store::postgres::{PostgresOptions, PostgresStore};
use taskloom_store::{ManualClock, Store};

/// The server of this binary: it lives as long as a test that uses it.
fn server() -> Arc<PrivateServer> {
    static SERVER: Mutex<Weak<PrivateServer>> = Mutex::new(Weak::new());
    let mut known = SERVER.lock().unwrap();
    if let Some(server) = known.upgrade() {
        return server;
    }
    let started = PrivateServer::start(&std::env::temp_dir(), Durability::None);
    let server = Arc::new(started.unwrap_or_else(|why| panic!("{why}")));
    *known = Arc::downgrade(&server);
    server
}

fn clock() -> ManualClock {
    ManualClock::at(Time::from_millis(1_700_000_000_000))
}

fn open(url: &str, clock: &ManualClock) -> Arc<dyn Store> {
    let clock = Some(Arc::new(clock.clone()) as Arc<dyn taskloom_store::Clock>);
    let options = PostgresOptions { clock, ..PostgresOptions::default() };
    Arc::new(PostgresStore::open(url, options).unwrap())
}

async fn check_seed(server: &PrivateServer, seed: u64) -> Summary {
    let clock = clock();
    let store = open(&server.database().unwrap(), &clock);
    lockstep(store, clock, seed, 300).await.unwrap_or_else(|broken| panic!("{broken}"))
}

async fn check_seeds(seeds: std::ops::Range<u64>) {
    let server = server();
    let mut sum = Summary::default();
    for seed in seeds {
        sum += check_seed(&server, seed).await;
    }
    let Summary { n_jobs, n_duplicates, n_claims, n_finishes, .. } = sum;
    let Summary { n_refusals, n_promoted, n_rescued, n_pruned, n_events, .. } = sum;
    let all = [n_jobs, n_duplicates, n_claims, n_finishes, n_refusals, n_promoted, n_rescued];
    assert!(all.iter().chain(&[n_pruned, n_events]).all(|it| 0 < *it), "an idle suite: {sum:?}");
}

#[tokio::test]
async fn postgres_and_the_model_stay_in_lockstep() {
    check_seeds(0..6).await;
}

#[tokio::test]
async fn postgres_and_the_model_stay_in_lockstep_for_other_seeds() {
    check_seeds(33..39).await;
}

#[tokio::test]
async fn the_end_of_a_job_reaches_the_last_of_a_long_chain() {
    let server = server();
    long_chain(&*open(&server.database().unwrap(), &clock())).await.unwrap();
}

#[tokio::test]
async fn more_deadlines_than_one_call_takes_are_all_kept() {
    let (server, clock) = (server(), clock());
    many_deadlines(&*open(&server.database().unwrap(), &clock), &clock).await.unwrap();
}
