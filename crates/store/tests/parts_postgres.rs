//! The history of a store on PostgreSQL lies in parts, which are dropped whole: nothing that must be
//! kept goes with them, and traffic goes on meanwhile. The sequence of keys is moved by hand, so that
//! a few jobs fill a part.
#![cfg(all(unix, feature = "postgres"))]
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use taskloom_model::{JobId, NodeId, Outcome, Roll, StateName, Time};
use taskloom_store::conformance::{Durability, PrivateServer};
use taskloom_store::postgres::{PostgresOptions, PostgresStore};
use taskloom_store::{
    AttemptError, Changed, Claimed, Clock, Demand, Filter, Finish, ManualClock, NewJob, NewLog,
    NewNode, Page, Prune, Queues, Store,
};
use tokio_postgres::NoTls;

const HOUR: Duration = Duration::from_secs(3_600);
const MINUTE: Duration = Duration::from_secs(60);
/// How many keys a part has.
const WIDTH: u64 = 1 << 24;

/// A server with one database, and a clock for all stores on it.
struct Place {
    server: PrivateServer,
    url: String,
    clock: ManualClock,
}

impl Place {
    fn new() -> Place {
        let started = PrivateServer::start(&std::env::temp_dir(), Durability::None);
        let server = started.unwrap_or_else(|why| panic!("{why}"));
        let url = server.database().unwrap();
        Place { server, url, clock: ManualClock::at(Time::from_millis(1_700_000_000_000)) }
    }

    fn open(&self) -> PostgresStore {
        self.open_as("postgres")
    }

    fn open_as(&self, role: &str) -> PostgresStore {
        let clock = Some(Arc::new(self.clock.clone()) as Arc<dyn Clock>);
        let options = PostgresOptions { clock, ..PostgresOptions::default() };
        let url = self.url.replace("postgres@", &format!("{role}@"));
        PostgresStore::open(&url, options).unwrap()
    }

    fn psql(&self, sql: &str) -> String {
        let sql = format!("SET search_path = taskloom; {sql}");
        tokio::task::block_in_place(|| self.server.psql("db0", &sql)).unwrap()
    }

    /// The next job gets the key after `key`.
    fn jump(&self, key: u64) {
        self.psql(&format!("SELECT setval('job_key', {key})"));
    }

    fn parts(&self) -> String {
        self.psql("SELECT string_agg(name, ' ' ORDER BY begins) FROM parts")
    }

    /// What a node asks for that keeps successes for an hour and failures for ten.
    fn prune(&self) -> Prune {
        let now = self.clock.now();
        Prune {
            succeeded_before: now - HOUR,
            failed_before: now - 10 * HOUR,
            events_before: now - HOUR,
            limit: 1_000,
        }
    }
}

fn job() -> NewJob {
    NewJob::new("echo", "{}")
}

async fn submit(store: &PostgresStore, jobs: Vec<NewJob>) -> Vec<JobId> {
    store.submit(jobs).await.unwrap().iter().map(|it| it.id).collect()
}

async fn register(store: &PostgresStore) -> NodeId {
    store.register(NewNode { name: "n".into(), pid: 1, tasks: Vec::new() }).await.unwrap()
}

async fn claim(store: &PostgresStore, node: NodeId, n: usize) -> Vec<Claimed> {
    let tasks: Arc<[Arc<str>]> = [Arc::from("echo")].into();
    let demand = Demand { queues: Queues::Except(Arc::from([])), tasks, n };
    store.claim(node, vec![demand]).await.unwrap()
}

fn finish(claimed: &Claimed, outcome: Outcome) -> Finish {
    let has_error = outcome != Outcome::Succeeded;
    let error = AttemptError { message: "never".into(), code: None, backtrace: None };
    let log = NewLog { at: Time::from_millis(1), level: "info", text: "a line".into() };
    Finish {
        id: claimed.id,
        fence: claimed.fence,
        outcome,
        roll: Roll(0.0),
        started: Time::default(),
        result: None,
        error: has_error.then_some(error),
        logs: if has_error { vec![log] } else { Vec::new() },
    }
}

/// Claims and finishes `n` jobs.
async fn end(store: &PostgresStore, node: NodeId, n: usize, outcome: Outcome) -> Vec<JobId> {
    let claimed = claim(store, node, n).await;
    assert_eq!(claimed.len(), n);
    let ended = claimed.iter().map(|it| finish(it, outcome)).collect();
    let outcomes = store.finish(node, ended, Vec::new()).await.unwrap().outcomes;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    claimed.iter().map(|it| it.id).collect()
}

/// A part of `n` successes, with the first job of the next part behind it.
async fn fill(place: &Place, store: &PostgresStore, node: NodeId, n: usize) {
    submit(store, vec![job(); n]).await;
    end(store, node, n, Outcome::Succeeded).await;
    place.jump(WIDTH);
    submit(store, vec![NewJob { delay: Some(100 * HOUR), ..job() }]).await;
}

async fn check_counts(store: &PostgresStore, expected: &[(StateName, u64)]) {
    let counts = store.counts().await.unwrap();
    let counts: Vec<_> = counts.iter().map(|it| (it.state, it.n)).collect();
    assert_eq!(counts, expected);
    assert_eq!(store.verify().await.unwrap(), []);
}

const FAILED: Outcome = Outcome::Errored { permanent: true, hint: None };

#[tokio::test(flavor = "multi_thread")]
async fn what_must_be_kept_outlives_its_part() {
    let place = Place::new();
    let store = place.open();
    let node = register(&store).await;
    submit(&store, vec![job(); 40]).await;
    let gone = end(&store, node, 40, Outcome::Succeeded).await;
    submit(&store, vec![job(); 3]).await;
    let failed = end(&store, node, 3, FAILED).await;
    let delay = Some(2 * HOUR);
    let late = submit(&store, vec![NewJob { delay, ..job() }]).await[0];
    submit(&store, vec![job()]).await;
    let running = claim(&store, node, 1).await;
    place.jump(WIDTH);
    let waiting = submit(&store, vec![NewJob { after: vec![late], ..job() }]).await[0];
    place.clock.advance(3 * HOUR);
    let pruned = store.prune(place.prune()).await.unwrap();
    assert_eq!((pruned.n_jobs, &*place.parts()), (40, "elder p1 p2"));
    assert_eq!(place.psql("SELECT count(*) FROM pg_class WHERE relname LIKE '%\\_p0%'"), "0");
    use StateName::{Blocked, Delayed, Failed, Running, Succeeded};
    check_counts(&store, &[(Delayed, 1), (Blocked, 1), (Running, 1), (Failed, 3)]).await;
    assert!(store.get(gone).await.unwrap().iter().all(Option::is_none));
    let filter = Filter { states: vec![Failed], ..Filter::default() };
    let listed = store.list(filter, Page { before: None, limit: 10 }).await.unwrap();
    let listed: Vec<JobId> = listed.jobs.iter().map(|it| it.id).collect();
    assert_eq!(listed, failed.iter().rev().copied().collect::<Vec<_>>());
    assert_eq!(store.attempts(failed[0]).await.unwrap().len(), 1);
    assert_eq!(store.logs(failed[0], 9).await.unwrap().len(), 1);
    // They live on where they lie now.
    assert_eq!(store.retry(vec![failed[0]]).await.unwrap(), [Changed::Now(StateName::Ready)]);
    let ended = running.iter().map(|it| finish(it, Outcome::Succeeded)).collect();
    assert_eq!(store.finish(node, ended, vec![]).await.unwrap().outcomes, [Ok(Succeeded)]);
    assert_eq!(store.promote().await.unwrap().n_moved, 1);
    let ended = end(&store, node, 2, Outcome::Succeeded).await;
    assert_eq!(ended, [failed[0], late]);
    assert_eq!(end(&store, node, 1, FAILED).await, [waiting], "it heard of the end");
    check_counts(&store, &[(Succeeded, 3), (Failed, 3)]).await;
    assert_eq!(store.attempts(failed[0]).await.unwrap().len(), 2);
    // And are forgotten one by one.
    place.clock.advance(2 * HOUR);
    assert_eq!(store.prune(place.prune()).await.unwrap().n_jobs, 3);
    check_counts(&store, &[(Failed, 3)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_no_node_has_taken_in_outlives_its_part() {
    let place = Place::new();
    let store = place.open();
    let node = register(&store).await;
    submit(&store, vec![job(); 5]).await;
    end(&store, node, 5, Outcome::Succeeded).await;
    let arrived: JobId = place.psql("SELECT id FROM submit('echo')").parse().unwrap();
    place.jump(WIDTH);
    submit(&store, vec![NewJob { delay: Some(100 * HOUR), ..job() }]).await;
    place.clock.advance(3 * HOUR);
    assert_eq!(store.prune(place.prune()).await.unwrap().n_jobs, 5);
    assert_eq!(place.parts(), "elder p1 p2");
    check_counts(&store, &[(StateName::Delayed, 2)]).await;
    store.promote().await.unwrap();
    assert_eq!(end(&store, node, 1, Outcome::Succeeded).await, [arrived]);
    check_counts(&store, &[(StateName::Delayed, 1), (StateName::Succeeded, 1)]).await;
}

/// Rows as if a part had been full: `n` successes, and `n_failed` failures with a line of log each.
fn fill_by_hand(place: &Place, n: u64, n_failed: u64) {
    let (at, all) = (place.clock.now().as_millis(), n + n_failed);
    let (first, failed) = (1_001, n + 1_001);
    place.psql(&format!(
        "INSERT INTO jobs (job, created, lane, policy, rank, args) \
         SELECT n, {at}, 1, 1, 9, '{{}}' FROM generate_series({first}, {first} + {all} - 1) AS n; \
         INSERT INTO ended (job, at, fence, attempts, crashes, snoozes, state) \
         SELECT n, {at}, 1, 1, 0, 0, CASE WHEN n < {failed} THEN 5 ELSE 6 END \
         FROM generate_series({first}, {first} + {all} - 1) AS n; \
         INSERT INTO logs (job, fence, at, level, text) SELECT n, 1, 1, 'info', 'a line' \
         FROM generate_series({failed}, {failed} + {n_failed} - 1) AS n; \
         INSERT INTO counts VALUES (1, 0, 5, 900, {n}), (1, 0, 6, 900, {n_failed})"
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_store_goes_on_while_a_part_is_dropped() {
    let place = Place::new();
    let (store, busy) = (place.open(), place.open());
    let node = register(&busy).await;
    fill(&place, &busy, node, 10).await;
    fill_by_hand(&place, 100_000, 9_000);
    place.clock.advance(3 * HOUR);
    let has_dropped = AtomicBool::new(false);
    let traffic = async {
        let (mut n, mut slowest) = (0, Duration::ZERO);
        while !has_dropped.load(Ordering::SeqCst) {
            let begun = Instant::now();
            // Two lanes at once, and claims that ride with finishes.
            let claimed = claim(&busy, node, 20).await;
            let ended = claimed.iter().map(|it| finish(it, Outcome::Succeeded)).collect();
            let tasks: Arc<[Arc<str>]> = [Arc::from("echo")].into();
            let demand = Demand { queues: Queues::Except(Arc::from([])), tasks, n: 20 };
            let (submitted, finished) = futures::join!(
                busy.submit(vec![job(); 50]),
                busy.finish(node, ended, vec![demand])
            );
            n += submitted.unwrap().len();
            let finished = finished.unwrap();
            let ended = finished.claimed.iter().map(|it| finish(it, FAILED)).collect();
            busy.finish(node, ended, Vec::new()).await.unwrap();
            busy.get(vec![
                claimed.first().map_or(JobId::compose(Time::default(), 0, 1), |it| it.id),
            ])
            .await
            .unwrap();
            slowest = slowest.max(begun.elapsed());
        }
        (n, slowest)
    };
    let dropping = async {
        let begun = Instant::now();
        let pruned = store.prune(place.prune()).await.unwrap();
        has_dropped.store(true, Ordering::SeqCst);
        (pruned.n_jobs, begun.elapsed())
    };
    let ((n, slowest), (n_dropped, took)) = futures::join!(traffic, dropping);
    println!("dropped in {took:?}; {n} jobs submitted meanwhile, the slowest round {slowest:?}");
    assert_eq!((n_dropped, &*place.parts()), (100_010, "elder p1 p2"));
    assert_ne!(n, 0, "there was traffic");
    assert_eq!(store.verify().await.unwrap(), []);
    let failed = place.psql("SELECT count(*) FROM ended_elder WHERE state = 6");
    assert_eq!(failed, "9000");
    assert_eq!(place.psql("SELECT count(*) FROM logs_elder"), "9000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submit_past_the_end_of_the_last_part_makes_the_next() {
    let place = Place::new();
    let (store, other) = (place.open(), place.open());
    let node = register(&store).await;
    place.jump(2 * WIDTH - 5);
    let (ids, others) =
        futures::join!(submit(&store, vec![job(); 10]), submit(&other, vec![job(); 10]));
    assert_eq!(place.parts(), "elder p0 p1 p2 p3");
    assert!(ids.iter().chain(&others).all(|it| 2 * WIDTH - 5 < it.key()));
    assert_eq!(end(&store, node, 20, Outcome::Succeeded).await.len(), 20);
    check_counts(&store, &[(StateName::Succeeded, 20)]).await;
    // Upkeep is ahead of the sequence.
    place.jump(4 * WIDTH - 1);
    place.psql("SELECT add_part('p4', 4::bigint << 24, 5::bigint << 24)");
    submit(&store, vec![job(); 2]).await;
    store.prune(place.prune()).await.unwrap();
    assert!(place.parts().ends_with("p4 p5"), "{}", place.parts());
}

/// A job alone is submitted in another way than several.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_comes_alone_is_counted_in_its_part_and_makes_it_when_it_is_missing() {
    let place = Place::new();
    let store = place.open();
    let node = register(&store).await;
    submit(&store, vec![job()]).await;
    place.jump(2 * WIDTH - 1);
    let ids = submit(&store, vec![job()]).await;
    // The try that found no part had a key too.
    assert_eq!((ids[0].key(), &*place.parts()), (2 * WIDTH + 1, "elder p0 p1 p2 p3"));
    check_counts(&store, &[(StateName::Ready, 2)]).await;
    assert_eq!(end(&store, node, 2, Outcome::Succeeded).await.len(), 2);
    check_counts(&store, &[(StateName::Succeeded, 2)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_one_drops_a_part() {
    let place = Place::new();
    let (one, other) = (place.open(), place.open());
    let node = register(&one).await;
    fill(&place, &one, node, 30).await;
    place.clock.advance(HOUR + 10 * MINUTE);
    let both = futures::join!(one.prune(place.prune()), other.prune(place.prune()));
    let n: Vec<usize> = [both.0, both.1].into_iter().map(|it| it.unwrap().n_jobs).collect();
    assert_eq!(n.iter().sum::<usize>(), 30, "{n:?}");
    assert_eq!(place.parts(), "elder p1 p2");
    check_counts(&one, &[(StateName::Delayed, 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_too_many_jobs_outlive_is_pruned_one_by_one_until_few_do() {
    let place = Place::new();
    let store = place.open();
    let node = register(&store).await;
    let many = submit(&store, vec![NewJob { delay: Some(100 * HOUR), ..job() }; 10_001]).await;
    fill(&place, &store, node, 30).await;
    place.clock.advance(HOUR + 10 * MINUTE);
    assert_eq!(store.prune(place.prune()).await.unwrap().n_jobs, 0, "its time may still come");
    place.clock.advance(10 * MINUTE);
    assert_eq!(store.prune(place.prune()).await.unwrap().n_jobs, 30);
    assert_eq!(place.parts(), "elder p0 p1 p2");
    store.cancel(vec![many[0]]).await.unwrap();
    place.clock.advance(HOUR + MINUTE);
    // A process that has not tried it a moment ago.
    let store = place.open();
    assert_eq!(store.prune(place.prune()).await.unwrap().n_jobs, 1);
    assert_eq!(place.parts(), "elder p1 p2");
    check_counts(&store, &[(StateName::Delayed, 10_001)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_was_filled_slowly_is_pruned_one_by_one() {
    let place = Place::new();
    let store = place.open();
    let node = register(&store).await;
    submit(&store, vec![job(); 3]).await;
    end(&store, node, 3, Outcome::Succeeded).await;
    place.clock.advance(40 * MINUTE);
    fill(&place, &store, node, 4).await;
    place.clock.advance(30 * MINUTE);
    assert_eq!(store.prune(place.prune()).await.unwrap().n_jobs, 3);
    assert_eq!(place.parts(), "elder p0 p1 p2");
    place.clock.advance(40 * MINUTE);
    assert_eq!(store.prune(place.prune()).await.unwrap().n_jobs, 4);
    assert_eq!(place.parts(), "elder p1 p2");
    check_counts(&store, &[(StateName::Delayed, 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_behind_one_that_stays_is_dropped_too() {
    let place = Place::new();
    let store = place.open();
    let node = register(&store).await;
    submit(&store, vec![NewJob { delay: Some(100 * HOUR), ..job() }; 10_001]).await;
    place.jump(WIDTH);
    submit(&store, vec![job(); 5]).await;
    end(&store, node, 5, Outcome::Succeeded).await;
    place.jump(2 * WIDTH);
    submit(&store, vec![NewJob { delay: Some(100 * HOUR), ..job() }]).await;
    place.clock.advance(3 * HOUR);
    assert_eq!(store.prune(place.prune()).await.unwrap().n_jobs, 5);
    assert_eq!(place.parts(), "elder p0 p2 p3");
    check_counts(&store, &[(StateName::Delayed, 10_002)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_keys_have_a_part_and_then_the_store_is_full() {
    let place = Place::new();
    let store = place.open();
    let node = register(&store).await;
    // The first try finds no part, and its keys are lost.
    place.jump(JobId::KEY_MAX - 20);
    let ids = submit(&store, vec![job(); 10]).await;
    assert_eq!(ids.last().unwrap().key(), JobId::KEY_MAX);
    assert_eq!(place.parts(), "elder p0 p1 p65535");
    assert_eq!(end(&store, node, 10, Outcome::Succeeded).await, ids);
    assert!(store.get(ids).await.unwrap().iter().all(Option::is_some));
    let refused = store.submit(vec![job()]).await.unwrap_err();
    assert_eq!(refused.code(), "store.database", "{refused}");
    store.prune(place.prune()).await.unwrap();
    check_counts(&store, &[(StateName::Succeeded, 10)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_read_of_somebody_puts_a_drop_off_and_nothing_else() {
    let place = Place::new();
    let store = place.open();
    let node = register(&store).await;
    fill(&place, &store, node, 30).await;
    place.clock.advance(HOUR + 10 * MINUTE);
    let (client, connection) = tokio_postgres::connect(&place.url, NoTls).await.unwrap();
    let reading = async {
        client.batch_execute("BEGIN; SELECT FROM taskloom.jobs LIMIT 1").await.unwrap();
        let (pruned, ()) = futures::join!(store.prune(place.prune()), async {
            for _ in 0..100 {
                submit(&store, vec![job()]).await;
            }
        });
        assert_eq!(pruned.unwrap().n_jobs, 0);
        assert_eq!(place.parts(), "elder p0 p1 p2");
        client.batch_execute("COMMIT").await.unwrap();
    };
    tokio::select! {
        _ = connection => unreachable!("the server lives"),
        () = reading => {}
    }
    // A process that has not tried it a moment ago.
    assert_eq!(place.open().prune(place.prune()).await.unwrap().n_jobs, 30);
    assert_eq!(place.parts(), "elder p1 p2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_only_uses_the_schema_makes_and_drops_parts() {
    let place = Place::new();
    drop(place.open());
    place.psql(
        "CREATE ROLE app LOGIN; GRANT USAGE ON SCHEMA taskloom TO app; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA taskloom TO app; \
         GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA taskloom TO app; \
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA taskloom TO app",
    );
    let store = place.open_as("app");
    let node = register(&store).await;
    fill(&place, &store, node, 30).await;
    place.jump(2 * WIDTH);
    submit(&store, vec![NewJob { delay: Some(100 * HOUR), ..job() }]).await;
    place.clock.advance(HOUR + 10 * MINUTE);
    assert_eq!(store.prune(place.prune()).await.unwrap().n_jobs, 30);
    assert_eq!(place.parts(), "elder p1 p2 p3");
    check_counts(&store, &[(StateName::Delayed, 2)]).await;
    place.psql("CREATE ROLE stranger LOGIN; GRANT USAGE ON SCHEMA taskloom TO stranger");
    let make = "SET ROLE stranger; SELECT taskloom.make_parts()";
    let refused = tokio::task::block_in_place(|| place.server.psql("db0", make)).unwrap_err();
    assert!(refused.contains("permission denied for function"), "{refused}");
}
