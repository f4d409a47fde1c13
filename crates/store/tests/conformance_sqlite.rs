//! The conformance suite on SQLite, in memory and in a file. A failure prints its seed and step.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::sync::Arc;

use taskloom_model::Time;
use taskloom_store::conformance::{Summary, lockstep, long_chain, many_deadlines};
use taskloom_store::sqlite::{SqliteOptions, SqliteStore, Synchronous};
use taskloom_store::{ManualClock, Store};

fn clock() -> ManualClock {
    ManualClock::at(Time::from_millis(1_700_000_000_000))
}

fn in_memory(clock: &ManualClock) -> Arc<dyn Store> {
    let store = SqliteStore::in_memory(SqliteOptions::default(), Arc::new(clock.clone()));
    Arc::new(store.unwrap())
}

async fn check_in_memory(seed: u64) -> Summary {
    let clock = clock();
    lockstep(in_memory(&clock), clock, seed, 300).await.unwrap_or_else(|broken| panic!("{broken}"))
}

async fn check_in_a_file(seed: u64) -> Summary {
    let (folder, clock) = (tempfile::tempdir().unwrap(), clock());
    let options = SqliteOptions { synchronous: Synchronous::Normal, ..SqliteOptions::default() };
    let path = folder.path().join("jobs.db");
    let store = SqliteStore::open(path, options, Arc::new(clock.clone())).unwrap();
    lockstep(Arc::new(store), clock, seed, 300).await.unwrap_or_else(|broken| panic!("{broken}"))
}

#[track_caller]
fn check_all_happened(sum: &Summary) {
    let Summary { n_jobs, n_duplicates, n_claims, n_finishes, .. } = *sum;
    let Summary { n_refusals, n_promoted, n_rescued, n_pruned, n_events, .. } = *sum;
    let all = [n_jobs, n_duplicates, n_claims, n_finishes, n_refusals, n_promoted, n_rescued];
    assert!(all.iter().chain(&[n_pruned, n_events]).all(|it| 0 < *it), "an idle suite: {sum:?}");
}

async fn check_seeds_in_memory(seeds: std::ops::Range<u64>) {
    let mut sum = Summary::default();
    for seed in seeds {
        sum += check_in_memory(seed).await;
    }
    check_all_happened(&sum);
}

#[tokio::test]
async fn sqlite_in_memory_and_the_model_stay_in_lockstep() {
    check_seeds_in_memory(0..30).await;
}

#[tokio::test]
async fn sqlite_in_memory_and_the_model_stay_in_lockstep_for_other_seeds() {
    check_seeds_in_memory(30..60).await;
}

#[tokio::test]
async fn sqlite_in_a_file_and_the_model_stay_in_lockstep() {
    let mut sum = Summary::default();
    for seed in 1_000..1_006 {
        sum += check_in_a_file(seed).await;
    }
    check_all_happened(&sum);
}

#[tokio::test]
async fn the_end_of_a_job_reaches_the_last_of_a_long_chain() {
    long_chain(&*in_memory(&clock())).await.unwrap();
}

#[tokio::test]
async fn more_deadlines_than_one_call_takes_are_all_kept() {
    let clock = clock();
    many_deadlines(&*in_memory(&clock), &clock).await.unwrap();
}
