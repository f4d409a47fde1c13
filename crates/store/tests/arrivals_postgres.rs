//! Jobs submitted by `taskloom.submit`, inside transactions of others, on a private PostgreSQL: what
//! is committed is accepted, what is rolled back never was, and a node takes in the rest.
#![cfg(all(unix, feature = "postgres"))]
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use taskloom_model::{EventKind, JobId, NodeId, Outcome, Roll, StateName, Time};
use taskloom_store::conformance::{Durability, PrivateServer};
use taskloom_store::postgres::{PostgresOptions, PostgresStore};
use taskloom_store::{
    Changed, Claimed, Demand, EventCursor, Filter, Finish, JobView, NewJob, NewNode, Page, Prune,
    Queues, Store,
};
use tokio_postgres::{Client, NoTls, Row};

const PATIENCE: Duration = Duration::from_secs(30);

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

/// A database with a store, and the application's connection to it.
struct Place {
    server: Arc<PrivateServer>,
    url: String,
    store: PostgresStore,
    app: Client,
}

impl Place {
    async fn new() -> Place {
        let server = server();
        let url = server.database().unwrap();
        let store = open(&url);
        let app = connect(&url).await;
        app.batch_execute("CREATE TABLE orders (n int)").await.unwrap();
        Place { server, url, store, app }
    }

    async fn submit(&self, task: &str, options: &str) -> JobId {
        submit(&self.app, task, options).await.unwrap().0
    }

    async fn view(&self, id: JobId) -> JobView {
        self.store.get(vec![id]).await.unwrap()[0].clone().expect("the job is there")
    }

    async fn promote(&self) {
        self.store.promote().await.unwrap();
        assert_eq!(self.store.verify().await.unwrap(), []);
    }

    /// How many jobs are in each state.
    async fn counts(&self) -> Vec<(StateName, u64)> {
        let counts = self.store.counts().await.unwrap();
        counts.iter().map(|it| (it.state, it.n)).collect()
    }
}

fn open(url: &str) -> PostgresStore {
    PostgresStore::open(url, PostgresOptions::default()).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "the routine ends with the connection of a test")]
async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

const SUBMIT: &str =
    "SELECT id::text, duplicate FROM taskloom.submit($1, $2::text::jsonb, $3::text::jsonb)";

fn answer(row: &Row) -> (JobId, bool) {
    (row.get::<_, &str>(0).parse().unwrap(), row.get(1))
}

async fn submit(
    app: &Client,
    task: &str,
    options: &str,
) -> Result<(JobId, bool), tokio_postgres::Error> {
    app.query_one(SUBMIT, &[&task, &r#"{"a": 1}"#, &options]).await.map(|row| answer(&row))
}

async fn register(store: &PostgresStore) -> NodeId {
    store.register(NewNode { name: "n".into(), pid: 1, tasks: Vec::new() }).await.unwrap()
}

async fn claim(store: &PostgresStore, node: NodeId, n: usize) -> Vec<Claimed> {
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
async fn a_commit_accepts_and_a_rollback_never_was() {
    let mut place = Place::new().await;
    let tx = place.app.transaction().await.unwrap();
    tx.execute("INSERT INTO orders VALUES (1)", &[]).await.unwrap();
    let row = tx.query_one("SELECT id::text, duplicate FROM taskloom.submit('echo')", &[]).await;
    let (id, duplicate) = answer(&row.unwrap());
    assert!(!duplicate);
    assert!(place.store.get(vec![id]).await.unwrap()[0].is_none(), "nobody sees it yet");
    tx.commit().await.unwrap();
    assert_eq!(place.view(id).await.state, StateName::Delayed);

    let tx = place.app.transaction().await.unwrap();
    let options = r#"{"unique": "u", "deadline": "2100-01-01T00:00:00Z", "queue": "new"}"#;
    let row = tx.query_one(SUBMIT, &[&"gone", &"{}", &options]).await.unwrap();
    let (gone, _) = answer(&row);
    tx.rollback().await.unwrap();
    assert!(place.store.get(vec![gone]).await.unwrap()[0].is_none());
    let left = "SELECT (SELECT count(*) FROM taskloom.uniques) \
         + (SELECT count(*) FROM taskloom.deadlines) + (SELECT count(*) FROM taskloom.lanes)";
    let left: i64 = place.app.query_one(left, &[]).await.unwrap().get(0);
    assert_eq!(left, 1, "the lane of the first job");
    // The number of a lane that was rolled back is given again, and nobody has kept it.
    let again = place.submit("other", options).await;
    place.promote().await;
    assert_eq!(&*place.view(again).await.task, "other");
    assert_eq!(place.view(id).await.state, StateName::Ready);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_savepoint_takes_back_its_jobs_alone() {
    let mut place = Place::new().await;
    let mut tx = place.app.transaction().await.unwrap();
    let kept = answer(&tx.query_one(SUBMIT, &[&"echo", &"{}", &"{}"]).await.unwrap()).0;
    let savepoint = tx.transaction().await.unwrap();
    savepoint.query_one(SUBMIT, &[&"echo", &"{}", &r#"{"unique": "u"}"#]).await.unwrap();
    savepoint.rollback().await.unwrap();
    let savepoint = tx.transaction().await.unwrap();
    let refused = savepoint.query_one(SUBMIT, &[&"", &"{}", &"{}"]).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "TL002");
    savepoint.rollback().await.unwrap();
    let row = tx.query_one(SUBMIT, &[&"echo", &"{}", &r#"{"unique": "u"}"#]).await.unwrap();
    let (second, duplicate) = answer(&row);
    assert!(!duplicate, "the text is free again");
    tx.commit().await.unwrap();
    place.promote().await;
    let listed = place.store.list(Filter::default(), Page::default()).await.unwrap();
    let listed: Vec<JobId> = listed.jobs.iter().map(|it| it.id).collect();
    assert_eq!(listed, [second, kept]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_arrived_is_seen_counted_and_cancelled_before_a_node_takes_it_in() {
    let place = Place::new().await;
    let accepted = place.store.submit(vec![NewJob::new("echo", "{}")]).await.unwrap();
    let (first, waits) = (
        place.submit("echo", r#"{"priority": 7, "key": "k"}"#).await,
        place.submit("echo", r#"{"delay_ms": 3600000}"#).await,
    );
    let cancelled = place.submit("echo", r#"{"unique": "u"}"#).await;
    assert_eq!(place.counts().await, [(StateName::Delayed, 3), (StateName::Ready, 1)]);
    assert_eq!(place.store.verify().await.unwrap(), []);
    let view = place.view(first).await;
    assert_eq!((view.priority.level(), view.key.as_deref()), (7, Some("k")));
    assert_eq!((view.due, view.args.get()), (Some(view.created), r#"{"a": 1}"#));
    let view = place.view(waits).await;
    assert_eq!(view.due, Some(view.created + Duration::from_secs(3600)));
    let filter = Filter { states: vec![StateName::Delayed], ..Filter::default() };
    assert_eq!(place.store.list(filter, Page::default()).await.unwrap().jobs.len(), 3);

    let changed = place.store.cancel(vec![cancelled]).await.unwrap();
    assert_eq!(changed, [Changed::Now(StateName::Cancelled)]);
    let counts = [(StateName::Delayed, 2), (StateName::Ready, 1), (StateName::Cancelled, 1)];
    assert_eq!(place.counts().await, counts);
    assert_eq!(place.store.verify().await.unwrap(), []);
    assert!(!submit(&place.app, "echo", r#"{"unique": "u"}"#).await.unwrap().1, "it is free");
    place.promote().await;
    let counts = [(StateName::Delayed, 1), (StateName::Ready, 3), (StateName::Cancelled, 1)];
    assert_eq!(place.counts().await, counts);
    assert_eq!(place.store.promote().await.unwrap().next_due, place.view(waits).await.due);
    let node = register(&place.store).await;
    let claimed = claim(&place.store, node, 9).await;
    assert_eq!(claimed.iter().map(|it| it.id).collect::<Vec<_>>()[..2], [first, accepted[0].id]);
    assert_eq!(place.store.verify().await.unwrap(), []);
}

/// What is told of the jobs, by kind.
async fn events(store: &PostgresStore, kind: EventKind) -> Vec<JobId> {
    let read = store.events(EventCursor::START, 100_000).await.unwrap();
    read.events.iter().filter(|it| it.kind == kind).map(|it| it.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn dependencies_are_judged_when_the_job_is_taken_in() {
    let place = Place::new().await;
    let node = register(&place.store).await;
    let ended = place.submit("echo", "{}").await;
    place.promote().await;
    let claimed = claim(&place.store, node, 1).await;
    place.store.finish(node, vec![succeeded(&claimed[0])], Vec::new()).await.unwrap();
    let cancelled = place.submit("echo", "{}").await;
    place.store.cancel(vec![cancelled]).await.unwrap();

    let after = |ids: &[JobId], more: &str| {
        let ids: Vec<String> = ids.iter().map(JobId::to_string).collect();
        format!(r#"{{"after": {ids:?}{more}}}"#)
    };
    let at_once = place.submit("echo", &after(&[ended], "")).await;
    let never = place.submit("echo", &after(&[ended, cancelled, ended], "")).await;
    let even_so =
        place.submit("echo", &after(&[cancelled], r#", "on_dependency_failure": "run""#)).await;
    let later = place.submit("echo", &after(&[at_once], r#", "delay_ms": 3600000"#)).await;
    let last = place.submit("echo", &format!(r#"{{"after": "{later}"}}"#)).await;
    place.promote().await;
    for (id, state) in [
        (at_once, StateName::Ready),
        (never, StateName::Cancelled),
        (even_so, StateName::Ready),
        (later, StateName::Blocked),
        (last, StateName::Blocked),
    ] {
        assert_eq!(place.view(id).await.state, state, "{id}");
    }
    let claimed = claim(&place.store, node, 2).await;
    let ends = claimed.iter().map(succeeded).collect();
    place.store.finish(node, ends, Vec::new()).await.unwrap();
    assert_eq!(place.view(later).await.state, StateName::Delayed);
    place.store.cancel(vec![later]).await.unwrap();
    assert_eq!(place.view(last).await.state, StateName::Cancelled);
    assert_eq!(place.store.verify().await.unwrap(), []);
    assert_eq!(events(&place.store, EventKind::JobSubmitted).await.len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_chain_that_has_just_arrived_is_taken_in_by_a_move_of_its_last_job() {
    let place = Place::new().await;
    let chain = "DO $$ DECLARE last uuid; BEGIN FOR n IN 1..3000 LOOP \
         SELECT id INTO last FROM taskloom.submit('echo', '{}', \
         CASE WHEN last IS NULL THEN '{}' ELSE jsonb_build_object('after', last) END); \
         END LOOP; END $$";
    place.app.batch_execute(chain).await.unwrap();
    let filter = Page { limit: 1, ..Page::default() };
    let last = place.store.list(Filter::default(), filter).await.unwrap().jobs[0].id;
    place.store.cancel(vec![last]).await.unwrap();
    let counts = [(StateName::Blocked, 2998), (StateName::Ready, 1), (StateName::Cancelled, 1)];
    assert_eq!(place.counts().await, counts);
    assert_eq!(place.store.verify().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dependency_may_be_forgotten_before_the_job_is_taken_in() {
    let place = Place::new().await;
    let late = place.submit("echo", r#"{"deadline": 1}"#).await;
    let failed = place.submit("echo", "{}").await;
    place.store.cancel(vec![failed]).await.unwrap();
    let succeeded = place.submit("echo", "{}").await;
    place.store.promote().await.unwrap();
    let node = register(&place.store).await;
    let claimed = claim(&place.store, node, 1).await;
    place.store.finish(node, vec![self::succeeded(&claimed[0])], Vec::new()).await.unwrap();
    let after_failed = place.submit("echo", &format!(r#"{{"after": "{failed}"}}"#)).await;
    let after_succeeded = place.submit("echo", &format!(r#"{{"after": "{succeeded}"}}"#)).await;
    let later = Time::from_millis(i64::MAX);
    let all =
        Prune { succeeded_before: later, failed_before: later, events_before: later, limit: 9 };
    assert_eq!(place.store.prune(all).await.unwrap().n_jobs, 3);
    assert!(
        place.store.get(vec![late, failed, succeeded]).await.unwrap().iter().all(Option::is_none)
    );
    place.promote().await;
    assert_eq!(place.view(after_failed).await.state, StateName::Cancelled);
    assert_eq!(place.view(after_succeeded).await.state, StateName::Ready);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_arrivals_than_one_call_takes_in_are_taken_in_by_the_next() {
    let place = Place::new().await;
    let many = "SELECT FROM generate_series(1, 1500) AS n, LATERAL \
         taskloom.submit('echo', to_jsonb(n), '{}')";
    place.app.batch_execute(many).await.unwrap();
    let last = place.submit("echo", r#"{"delay_ms": 3600000}"#).await;
    let promoted = place.store.promote().await.unwrap();
    assert_eq!(promoted.n_moved, 1000);
    assert!(promoted.next_due.is_some_and(|it| it < last.created() + PATIENCE), "at once");
    assert_eq!(place.counts().await, [(StateName::Delayed, 501), (StateName::Ready, 1000)]);
    let promoted = place.store.promote().await.unwrap();
    assert_eq!((promoted.n_moved, promoted.next_due), (501, place.view(last).await.due));
    // A few with so many dependencies that one transaction does not take them all.
    let wide = "SELECT FROM generate_series(1, 3) AS n, LATERAL taskloom.submit('echo', to_jsonb(n), \
         jsonb_build_object('after', (SELECT jsonb_agg(taskloom.job_id(created, value, job)) \
         FROM (SELECT job, created FROM taskloom.jobs ORDER BY job LIMIT 1500) AS j, taskloom.meta \
         WHERE name = 'salt')))";
    for _ in 0..7 {
        place.app.batch_execute(wide).await.unwrap();
    }
    assert_eq!(place.store.promote().await.unwrap().n_moved, 13, "1,500 each, 20,000 in all");
    assert_eq!(place.store.promote().await.unwrap().n_moved, 8);
    assert_eq!(place.store.verify().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unique_text_is_one_for_both_ways_in_and_waits_for_an_open_transaction() {
    let place = Place::new().await;
    let unique = || NewJob { unique: Some("u".into()), ..NewJob::new("echo", "{}") };
    let held = place.store.submit(vec![unique()]).await.unwrap()[0].id;
    let options = r#"{"unique": "u"}"#;
    assert_eq!(submit(&place.app, "other", options).await.unwrap(), (held, true));
    place.store.cancel(vec![held]).await.unwrap();
    let (id, duplicate) = submit(&place.app, "echo", options).await.unwrap();
    assert!(!duplicate);
    let accepted = place.store.submit(vec![unique()]).await.unwrap()[0];
    assert_eq!((accepted.id, accepted.duplicate), (id, true));

    for commits in [false, true] {
        let options = r#"{"unique": "v"}"#;
        let (first, second) = meet(&place, ("echo", options), ("echo", options), commits).await;
        assert_eq!((second.1, second.0 == first.0), (commits, commits));
        place.store.cancel(vec![second.0]).await.unwrap();
    }
    place.promote().await;
}

/// Submits twice, the second time while the transaction of the first is open, and waits for it.
async fn meet(
    place: &Place,
    first: (&str, &str),
    second: (&str, &str),
    commits: bool,
) -> ((JobId, bool), (JobId, bool)) {
    let mut other = connect(&place.url).await;
    let tx = other.transaction().await.unwrap();
    let row = tx.query_one(SUBMIT, &[&first.0, &"{}", &first.1]).await.unwrap();
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid IN \
         (SELECT pid FROM pg_stat_activity WHERE datname = current_database())";
    let database = place.url.rsplit('/').next().unwrap();
    let end = async {
        while place.server.psql(database, waiting).unwrap() == "0" {
            tokio::task::yield_now().await;
        }
        if commits { tx.commit().await.unwrap() } else { tx.rollback().await.unwrap() }
    };
    let both = async { futures::join!(submit(&place.app, second.0, second.1), end) };
    let (second, ()) =
        tokio::time::timeout(PATIENCE, both).await.expect("it waits, and then goes on");
    (answer(&row), second.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn new_lanes_and_policies_of_open_transactions_are_waited_for() {
    let place = Place::new().await;
    for (n, commits) in [(1, false), (2, true)] {
        let lanes = [format!("a {n}"), format!("b {n}")];
        let (first, second) = meet(&place, (&lanes[0], "{}"), (&lanes[1], "{}"), commits).await;
        place.promote().await;
        assert_eq!(place.store.get(vec![first.0]).await.unwrap()[0].is_some(), commits);
        assert_eq!(&*place.view(second.0).await.task, lanes[1]);
        let policy = format!(r#"{{"timeout_ms": {n}}}"#);
        let of = (&*lanes[1], &*policy);
        let (_, second) = meet(&place, of, of, commits).await;
        place.promote().await;
        assert_eq!(place.view(second.0).await.timeout_ms, Some(n));
    }
    let dense = "SELECT max(id) = count(*) FROM taskloom.lanes";
    assert!(place.app.query_one(dense, &[]).await.unwrap().get::<_, bool>(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_stricter_isolation_it_works_or_says_40001() {
    let place = Place::new().await;
    let mut strict = connect(&place.url).await;
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let begin = format!("BEGIN ISOLATION LEVEL {level}");
        let known = place.submit("echo", "{}").await;
        strict.batch_execute(&begin).await.unwrap();
        let (id, _) = submit(&strict, &format!("new {level}"), "{}").await.unwrap();
        let options = format!(r#"{{"after": ["{known}", "{id}"], "unique": "mine {level}"}}"#);
        let (own, _) = submit(&strict, "echo", &options).await.unwrap();
        assert_eq!(submit(&strict, "echo", &options).await.unwrap(), (own, true));
        strict.batch_execute("COMMIT").await.unwrap();
        place.promote().await;

        // What the snapshot does not show: a text, a lane, a policy, a job.
        for hidden in [
            format!(r#"{{"unique": "hidden {level}"}}"#),
            format!(r#"{{"queue": "hidden {level}"}}"#),
            format!(r#"{{"timeout_ms": {}}}"#, 1000 + level.len()),
        ] {
            strict.batch_execute(&format!("{begin}; SELECT FROM orders")).await.unwrap();
            let other = place.submit("echo", &hidden).await;
            let refused = submit(&strict, "echo", &hidden).await.unwrap_err();
            assert_eq!(refused.code().unwrap().code(), "40001", "{level}: {hidden}");
            strict.batch_execute(&format!("ROLLBACK; {begin}; SELECT FROM orders")).await.unwrap();
            place.store.cancel(vec![other]).await.unwrap();
            submit(&strict, "echo", &format!(r#"{{"after": "{other}"}}"#)).await.unwrap();
            strict.batch_execute("ROLLBACK").await.unwrap();
        }
    }
    let tx = strict.build_transaction().read_only(true).start().await.unwrap();
    let refused = tx.query_one(SUBMIT, &[&"echo", &"{}", &"{}"]).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "25006", "a transaction that only reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_needs_no_more_than_usage_and_execute() {
    let place = Place::new().await;
    place
        .app
        .batch_execute("CREATE ROLE app; GRANT USAGE ON SCHEMA taskloom TO app; SET ROLE app")
        .await
        .unwrap();
    let refused = submit(&place.app, "echo", "{}").await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "42501", "execute is granted to nobody");
    place
        .app
        .batch_execute(
            "RESET ROLE; GRANT EXECUTE ON FUNCTION \
         taskloom.submit(text, jsonb, jsonb) TO app; SET ROLE app",
        )
        .await
        .unwrap();
    let prepared = place.app.prepare(SUBMIT).await.unwrap();
    let options = r#"{"queue": "q", "unique": "u", "timeout_ms": 7, "deadline": 4102444800000}"#;
    for duplicate in [false, true, true, true, true, true, true] {
        let row = place.app.query_one(&prepared, &[&"echo", &"{}", &options]).await.unwrap();
        assert_eq!(answer(&row).1, duplicate);
    }
    for forbidden in [
        "SELECT FROM taskloom.jobs",
        "SELECT taskloom.lane_of('a', 'b')",
        "DELETE FROM taskloom.hot",
    ] {
        let refused = place.app.batch_execute(forbidden).await.unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "42501", "{forbidden}");
    }
    // What the caller finds first is not what the function finds.
    place
        .app
        .batch_execute(
            "RESET ROLE; CREATE SCHEMA evil CREATE TABLE jobs (x int); \
         GRANT USAGE ON SCHEMA evil TO app; SET ROLE app; SET search_path = evil; \
         CREATE TEMP TABLE hot (x int)",
        )
        .await
        .unwrap();
    submit(&place.app, "echo", "{}").await.unwrap();
    place.promote().await;
    place.app.batch_execute("RESET ROLE; DROP OWNED BY app; DROP ROLE app").await.unwrap();
}

/// Eight connections submit in transactions of their own while nodes work.
async fn submit_many(url: &str, client: usize) -> Vec<JobId> {
    let mut app = connect(url).await;
    let mut accepted = Vec::new();
    for n in 0..200 {
        let options = match n % 4 {
            0 => format!(r#"{{"unique": "{client} {n}"}}"#),
            1 => r#"{"unique": "the same", "priority": 3}"#.to_owned(),
            2 => format!(r#"{{"delay_ms": {}, "timeout_ms": {}}}"#, n % 7, 1 + n % 5),
            _ => match accepted.last() {
                Some(last) => format!(r#"{{"after": "{last}", "queue": "q{}"}}"#, n % 3),
                None => "{}".to_owned(),
            },
        };
        let tx = app.transaction().await.unwrap();
        tx.execute("INSERT INTO orders VALUES ($1)", &[&n]).await.unwrap();
        let row = tx.query_one(SUBMIT, &[&"echo", &"{}", &options]).await.unwrap();
        let (id, duplicate) = answer(&row);
        if n % 10 == 9 {
            tx.rollback().await.unwrap();
            continue;
        }
        tx.commit().await.unwrap();
        if !duplicate {
            accepted.push(id);
        }
    }
    accepted
}

/// Works until `n_all` jobs have ended.
async fn work(store: &PostgresStore, n_all: impl Fn() -> Option<usize>) -> Vec<JobId> {
    let node = register(store).await;
    let mut done = Vec::new();
    loop {
        store.promote().await.unwrap();
        let claimed = claim(store, node, 50).await;
        done.extend(claimed.iter().map(|it| it.id));
        let ended = claimed.iter().map(succeeded).collect();
        let finished = store.finish(node, ended, Vec::new()).await.unwrap();
        assert!(finished.outcomes.iter().all(|it| *it == Ok(StateName::Succeeded)));
        let n_ended = store.counts().await.unwrap();
        let n_ended = n_ended.iter().filter(|it| it.state == StateName::Succeeded).map(|it| it.n);
        if n_all() == Some(usize::try_from(n_ended.sum::<u64>()).unwrap()) {
            return done;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_and_two_nodes_lose_nothing_and_do_nothing_twice() {
    let place = Place::new().await;
    let other = open(&place.url);
    let n_all = Mutex::new(None);
    let submitting = async {
        let all = (0..8).map(|client| submit_many(&place.url, client));
        let all: Vec<JobId> = futures::future::join_all(all).await.concat();
        *n_all.lock().unwrap() = Some(all.len());
        all
    };
    let n_all = || *n_all.lock().unwrap();
    let all = async { futures::join!(submitting, work(&place.store, n_all), work(&other, n_all)) };
    let (accepted, done, done_by_other) = tokio::time::timeout(PATIENCE, all).await.unwrap();
    let done = [done, done_by_other].concat();
    assert_eq!(done.len(), accepted.len(), "none is done twice");
    let accepted: BTreeSet<JobId> = accepted.into_iter().collect();
    assert_eq!(done.into_iter().collect::<BTreeSet<_>>(), accepted);
    let told = events(&place.store, EventKind::JobSubmitted).await;
    assert_eq!(told.len(), accepted.len(), "each is told of once");
    assert_eq!(told.into_iter().collect::<BTreeSet<_>>(), accepted);
    assert_eq!(place.store.verify().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_are_cut_while_taking_in_leave_each_job_taken_in_once() {
    let place = Place::new().await;
    let other = open(&place.url);
    let many = "SELECT FROM generate_series(1, 5000) AS n, LATERAL \
         taskloom.submit('echo', to_jsonb(n), '{}')";
    place.app.batch_execute(many).await.unwrap();
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE application_name = 'taskloom' AND datname = $1";
    let name = place.url.rsplit('/').next().unwrap();
    let cutting = async {
        let server = connect(&place.url.replace(name, "postgres")).await;
        for _ in 0..20 {
            server.query(cut, &[&name]).await.unwrap();
        }
    };
    let taking = async {
        for _ in 0..40 {
            // An error is what the cut brings.
            let both = futures::join!(place.store.promote(), other.promote());
            drop(both);
        }
    };
    futures::join!(cutting, taking);
    let rest = async {
        while place.counts().await != [(StateName::Ready, 5000)] {
            place.store.promote().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, rest).await.expect("all are taken in");
    assert_eq!(place.store.verify().await.unwrap(), []);
    assert_eq!(events(&place.store, EventKind::JobSubmitted).await.len(), 5000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_with_a_node_hears_of_arrivals_and_any_hears_a_notice() {
    let place = Place::new().await;
    // It tells once when it begins to listen.
    place.store.notices().due.wait_for(|it| 0 < *it).await.unwrap();
    for (has_node, options) in [(false, r#"{"notify": true}"#), (true, "{}"), (true, "{}")] {
        if has_node {
            register(&place.store).await;
        }
        let mut due = place.store.notices().due;
        loop {
            due.borrow_and_update();
            if place.store.promote().await.unwrap().n_moved == 0 {
                break;
            }
        }
        let id = place.submit("echo", options).await;
        tokio::time::timeout(PATIENCE, due.changed()).await.expect("it is told").unwrap();
        place.promote().await;
        assert_eq!(place.view(id).await.state, StateName::Ready);
    }
}
