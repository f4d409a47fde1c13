//! What the SQLite store does when the world around it breaks: wrong files, locks, full disks,
//! damaged pages. Nothing that was accepted is lost, and every error has its code.
#![cfg(feature = "sqlite")]
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use rusqlite::Connection;
use taskloom_model::{JobId, StateName, Time};
use taskloom_store::sqlite::{SqliteOptions, SqliteStore, Synchronous, WriteHold};
use taskloom_store::{
    Demand, EventCursor, Filter, ManualClock, NewJob, NewNode, Page, Queues, Store, StoreError,
};
use tempfile::TempDir;

const FAST: SqliteOptions =
    SqliteOptions { synchronous: Synchronous::Normal, payload_max: taskloom_store::PAYLOAD_MAX };

fn open_with(path: &Path, options: SqliteOptions) -> Result<SqliteStore, StoreError> {
    let clock = ManualClock::at(Time::from_millis(1_700_000_000_000));
    SqliteStore::open(path, options, Arc::new(clock))
}

fn open(path: &Path) -> SqliteStore {
    open_with(path, FAST).unwrap()
}

/// A folder that goes with the test, and a path in it.
fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    (folder, path)
}

fn job() -> NewJob {
    NewJob::new("echo", "{}")
}

async fn submit_one(store: &SqliteStore, job: NewJob) -> Result<JobId, StoreError> {
    Ok(store.submit(vec![job]).await?[0].id)
}

async fn n_jobs(store: &SqliteStore) -> u64 {
    store.counts().await.unwrap().iter().map(|it| it.n).sum()
}

#[track_caller]
fn check_code<T>(answer: Result<T, StoreError>, expected: &str) {
    assert_eq!(answer.err().map(|it| it.code()), Some(expected));
}

// Files that are none of ours.

#[test]
fn a_file_of_a_newer_program_is_refused() {
    let (_folder, path) = place();
    drop(open(&path));
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    check_code(open_with(&path, FAST), "store.newer_schema");
}

#[test]
fn a_database_of_another_program_is_refused_and_left_as_it_is() {
    let (_folder, path) = place();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (it)").unwrap();
    let before = std::fs::read(&path).unwrap();
    check_code(open_with(&path, FAST), "store.foreign");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_as_it_is() {
    let (_folder, path) = place();
    for (garbage, code) in [
        (vec![b'x'; 10_000], "store.foreign"),
        (b"SQLite format 3\0 or so".to_vec(), "store.corrupt"),
    ] {
        std::fs::write(&path, &garbage).unwrap();
        check_code(open_with(&path, FAST), code);
        assert_eq!(std::fs::read(&path).unwrap(), garbage);
    }
}

/// As several processes do that start together; some look while another makes the file.
#[test]
fn a_new_file_may_be_opened_by_many_at_once() {
    for _ in 0..40 {
        let (_folder, path) = place();
        let barrier = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    barrier.wait();
                    open(&path);
                });
            }
        });
    }
}

#[test]
fn a_folder_is_no_file() {
    let folder = tempfile::tempdir().unwrap();
    check_code(open_with(folder.path(), FAST), "store.cant_open");
}

// Refusals.

async fn check_refused_whole(spoil: impl FnOnce(&mut NewJob), expected: &str) {
    let (_folder, path) = place();
    let store = open(&path);
    let mut jobs = vec![job(), job(), job()];
    spoil(&mut jobs[2]);
    check_code(store.submit(jobs).await, expected);
    assert_eq!(n_jobs(&store).await, 0, "none is accepted");
    assert!(store.events(EventCursor::START, 9).await.unwrap().events.is_empty());
    submit_one(&store, job()).await.unwrap();
}

#[tokio::test]
async fn a_batch_is_refused_whole() {
    check_refused_whole(|it| it.args = "{".into(), "store.args").await;
    check_refused_whole(|it| it.args = String::new(), "store.args").await;
    check_refused_whole(|it| it.args = "{} {}".into(), "store.args").await;
    check_refused_whole(|it| it.rules.retry.max_attempts = 0, "store.policy").await;
    check_refused_whole(|it| it.rules.retry.backoff.factor = f64::NAN, "store.policy").await;
    check_refused_whole(|it| it.queue = Arc::from(""), "store.empty").await;
    check_refused_whole(|it| it.unique = Some("u".repeat(256)), "store.too_large").await;
    let unknown = JobId::compose(Time::from_millis(1), 0, 1);
    check_refused_whole(|it| it.after.push(unknown), "store.unknown_dependency").await;
}

#[tokio::test]
async fn arguments_may_be_as_large_as_the_bound_and_no_larger() {
    let (_folder, path) = place();
    let store = open(&path);
    let args = |n_bytes: usize| format!("\"{}\"", "x".repeat(n_bytes - 2));
    let largest = args(taskloom_store::PAYLOAD_MAX);
    let id = submit_one(&store, NewJob::new("echo", largest.clone())).await.unwrap();
    let view = store.get(vec![id]).await.unwrap().remove(0).unwrap();
    assert!(view.args.get() == largest, "the largest arguments come back");
    let larger = NewJob::new("echo", args(taskloom_store::PAYLOAD_MAX + 1));
    check_code(submit_one(&store, larger).await, "store.too_large");
}

// Others at the same file.

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_held_too_long_is_told_and_the_store_goes_on_after_it() {
    let (_folder, path) = place();
    let store = open(&path);
    let held = WriteHold::take(&path).await.unwrap();
    check_code(WriteHold::take(path.with_extension("none")).await, "store.cant_open");
    let answers = join_all((0..10).map(|_| submit_one(&store, job()))).await;
    answers.into_iter().for_each(|it| check_code(it, "store.locked"));
    assert_eq!(n_jobs(&store).await, 0, "readers go on, and nothing was accepted");
    drop(held);
    let id = submit_one(&store, job()).await.unwrap();
    assert!(store.get(vec![id]).await.unwrap()[0].is_some());
    assert_eq!(n_jobs(&store).await, 1, "nothing of the refused calls is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_with_an_old_snapshot_stops_nobody() {
    let (_folder, path) = place();
    let store = open(&path);
    let other = Connection::open(&path).unwrap();
    let count = |of: &Connection| -> u64 {
        of.query_row("SELECT count(*) FROM jobs", [], |row| row.get(0)).unwrap()
    };
    other.execute_batch("BEGIN").unwrap();
    assert_eq!(count(&other), 0);
    let batches = join_all((0..100).map(|_| store.submit(vec![job(); 50]))).await;
    assert!(batches.iter().all(Result::is_ok));
    assert_eq!((count(&other), n_jobs(&store).await), (0, 5_000));
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(count(&other), 5_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_submits_shares_commits() {
    let (_folder, path) = place();
    let store = open_with(&path, SqliteOptions::default()).unwrap();
    let n_before = store.info().n_commits;
    let ids = join_all((0..1_000).map(|_| submit_one(&store, job()))).await;
    let ids: Vec<JobId> = ids.into_iter().map(Result::unwrap).collect();
    let n_commits = store.info().n_commits - n_before;
    assert!(n_commits < 200, "{n_commits} commits for 1000 submits");
    assert!(store.get(ids).await.unwrap().iter().all(Option::is_some));
    assert_eq!(n_jobs(&store).await, 1_000);
}

// Disks.

/// A disk of 4 MiB. Needs the right to mount.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount() -> SmallDisk {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(folder.path());
        let told = mount.output().expect("this test needs the program `mount`");
        let why = String::from_utf8_lossy(&told.stderr).into_owned();
        assert!(told.status.success(), "this test mounts a small disk, so run it as root: {why}");
        SmallDisk(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        std::process::Command::new("umount").arg("-l").arg(self.0.path()).status().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_nothing_and_the_store_goes_on_when_there_is_room() {
    let disk = SmallDisk::mount();
    let (path, filler) = (disk.0.path().join("jobs.db"), disk.0.path().join("filler"));
    std::fs::write(&filler, vec![0; 1 << 20]).unwrap();
    let store = open(&path);
    let mut ids = Vec::new();
    let full = loop {
        let big = NewJob::new("echo", format!("\"{}\"", "x".repeat(20_000)));
        match submit_one(&store, big).await {
            Ok(id) => ids.push(id),
            Err(error) => break error,
        }
    };
    check_code::<()>(Err(full), "store.disk_full");
    assert!(10 < ids.len(), "only {} jobs fitted", ids.len());
    // Refused in the middle of a transaction that also brought a new policy and a new queue.
    let mut other = NewJob::new("other", format!("\"{}\"", "y".repeat(200_000)));
    other.rules.retry.max_attempts = 77;
    other.queue = Arc::from("elsewhere");
    check_code(submit_one(&store, other.clone()).await, "store.disk_full");
    assert_eq!(n_jobs(&store).await, u64::try_from(ids.len()).unwrap());

    std::fs::remove_file(&filler).unwrap();
    ids.push(submit_one(&store, other).await.unwrap());
    check_all_there(&store, &ids).await;
    drop(store);
    check_all_there(&open(&path), &ids).await;
}

async fn check_all_there(store: &SqliteStore, ids: &[JobId]) {
    let views = store.get(ids.to_vec()).await.unwrap();
    assert!(views.iter().all(Option::is_some));
    let last = views.last().unwrap().as_ref().unwrap();
    assert_eq!((&*last.queue, last.max_attempts), ("elsewhere", 77));
    assert_eq!(n_jobs(store).await, u64::try_from(ids.len()).unwrap());
    let events = store.events(EventCursor::START, 10_000).await.unwrap().events;
    assert_eq!(events.iter().map(|it| it.id).collect::<Vec<_>>(), ids, "one event a job");
}

fn demand(n: usize) -> Vec<Demand> {
    let tasks: Arc<[Arc<str>]> = ["echo", "sync"].map(Arc::from).into();
    vec![Demand { queues: Queues::Except(Arc::from([])), tasks, n }]
}

/// Asks for everything. Returns the codes of the errors.
async fn use_all(path: &Path) -> Vec<&'static str> {
    let store = match open_with(path, FAST) {
        Ok(store) => store,
        Err(error) => return vec![error.code()],
    };
    let listed = store.list(Filter::default(), Page { limit: 1_000, before: None }).await;
    let ids: Vec<JobId> =
        listed.as_ref().map(|it| it.jobs.iter().map(|it| it.id).collect()).unwrap_or_default();
    let node = store.register(NewNode { name: "n".into(), pid: 1, tasks: vec![] }).await;
    let mut answers = vec![
        listed.map(drop),
        node.clone().map(drop),
        store.counts().await.map(drop),
        store.events(EventCursor::START, 10_000).await.map(drop),
        submit_one(&store, NewJob::new("echo", "{}")).await.map(drop),
        store.promote().await.map(drop),
        store.cancel(ids).await.map(drop),
    ];
    if let Ok(node) = node {
        answers.push(store.claim(node, demand(2_000)).await.map(drop));
    }
    answers.into_iter().filter_map(Result::err).map(|it| it.code()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_pages_are_told_as_damage() {
    let (_folder, path) = place();
    let store = open(&path);
    store.submit(vec![NewJob::new("echo", "{\"n\": 12345}"); 500]).await.unwrap();
    store.submit(vec![NewJob { delay: Some(Duration::from_secs(9)), ..job() }]).await.unwrap();
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    let n_pages = whole.len() / 4096;
    let mut n_told = 0;
    for page in 1..n_pages {
        let mut damaged = whole.clone();
        damaged[page * 4096..(page + 1) * 4096].fill(0xA5);
        for suffix in ["-wal", "-shm"] {
            std::fs::remove_file(format!("{}{suffix}", path.display())).ok();
        }
        std::fs::write(&path, damaged).unwrap();
        let codes = use_all(&path).await;
        assert!(codes.iter().all(|it| *it == "store.corrupt"), "page {page}: {codes:?}");
        n_told += usize::from(!codes.is_empty());
    }
    assert!(n_pages / 2 < n_told, "damage of {n_told} in {n_pages} pages was told");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_died_answers_that_the_store_is_closed() {
    let (_folder, path) = place();
    drop(open(&path));
    // The largest key is taken, and there is no larger id.
    let sql = format!("INSERT OR REPLACE INTO meta VALUES ('next_job', {})", 1_u64 << 40);
    Connection::open(&path).unwrap().execute_batch(&sql).unwrap();
    let store = open(&path);
    for _ in 0..2 {
        let answer = tokio::time::timeout(Duration::from_secs(30), submit_one(&store, job()));
        check_code(answer.await.expect("nobody waits for a dead writer"), "store.closed");
    }
}

// Closing and opening.

#[tokio::test(flavor = "multi_thread")]
async fn opening_again_finds_everything_as_it_was() {
    let (_folder, path) = place();
    let store = open(&path);
    let first = submit_one(&store, job()).await.unwrap();
    let waits = |delay| NewJob { delay: Some(Duration::from_secs(delay)), ..job() };
    let after = NewJob { after: vec![first], unique: Some("u".into()), ..job() };
    store.submit(vec![waits(5), waits(9), after, job(), job()]).await.unwrap();
    let node = store.register(NewNode { name: "n".into(), pid: 1, tasks: vec![] }).await.unwrap();
    let claimed = store.claim(node, demand(2)).await.unwrap();
    store.cancel(vec![claimed[1].id]).await.unwrap();
    let before = everything(&store).await;
    for state in ["delayed", "blocked", "ready", "running"] {
        assert!(before.contains(&format!("\"state\":\"{state}\"")), "no {state} job: {before}");
    }
    drop(store);
    let store = open(&path);
    assert_eq!(everything(&store).await, before);
    let again = NewJob { unique: Some("u".into()), ..job() };
    assert!(store.submit(vec![again]).await.unwrap()[0].duplicate);
}

async fn everything(store: &SqliteStore) -> String {
    let jobs = store.list(Filter::default(), Page::default()).await.unwrap();
    let (counts, nodes) = (store.counts().await.unwrap(), store.nodes().await.unwrap());
    let events = store.events(EventCursor::START, 100).await.unwrap().events;
    serde_json::to_string(&(jobs, counts, nodes, events)).unwrap()
}

#[tokio::test]
async fn an_id_is_not_given_twice_even_when_its_job_is_pruned() {
    let (_folder, path) = place();
    let store = open(&path);
    let first = submit_one(&store, job()).await.unwrap();
    store.cancel(vec![first]).await.unwrap();
    let (all, none) = (Time::from_millis(i64::MAX), Time::default());
    let prune = taskloom_store::Prune {
        succeeded_before: all,
        failed_before: all,
        events_before: none,
        limit: 10,
    };
    assert_eq!(store.prune(prune).await.unwrap().n_jobs, 1);
    drop(store);
    let store = open(&path);
    let second = submit_one(&store, job()).await.unwrap();
    assert!(first < second && first.salt() == second.salt());
    assert_eq!(store.cancel(vec![first]).await.unwrap(), [taskloom_store::Changed::Unknown]);
    let view = store.get(vec![second]).await.unwrap().remove(0).unwrap();
    assert_eq!(view.state, StateName::Ready);
}
