//! What `taskloom.submit` takes and refuses: the same bounds, the same defaults and the same rows as
//! `Store::submit`.
#![cfg(all(unix, feature = "postgres"))]
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::time::Duration;

use taskloom_model::{
    Backoff, DependencyPolicy, Jitter, JobId, Priority, RetryPolicy, Rules, Time,
};
use taskloom_store::conformance::{Durability, PrivateServer};
use taskloom_store::postgres::{PostgresOptions, PostgresStore};
use taskloom_store::{JobView, NewJob, Store};
use tokio_postgres::{Client, NoTls};

fn server() -> PrivateServer {
    let started = PrivateServer::start(&std::env::temp_dir(), Durability::None);
    started.unwrap_or_else(|why| panic!("{why}"))
}

#[expect(clippy::disallowed_methods, reason = "the routine ends with the connection of a test")]
async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

const SUBMIT: &str = "SELECT id::text FROM taskloom.submit($1, $2::text::jsonb, $3::text::jsonb)";
/// What both ways in must write alike. The state and its time are those after it was taken in.
const ROW: &str = "SELECT concat_ws(' ', j.lane, j.policy, j.rank, j.args, \
     (j.extra::jsonb - 'run_at')::text, h.lane, h.rank, h.state, h.flags, h.fence, h.attempts, \
     h.crashes, h.snoozes, h.n_unfinished, h.progress, h.at IS NULL, \
     (SELECT count(*) FROM taskloom.deadlines d WHERE d.job = j.job), \
     (SELECT count(*) FROM taskloom.uniques u WHERE u.job = j.job), \
     (SELECT array_agg(on_job) FROM taskloom.dependencies d WHERE d.job = j.job)) \
     FROM taskloom.jobs j JOIN taskloom.hot h USING (job) WHERE job = $1";

fn job() -> NewJob {
    NewJob::new("echo", "{}")
}

fn retry(max_attempts: u32, factor: f64) -> NewJob {
    let backoff = Backoff {
        delay_first: Duration::from_millis(10),
        factor,
        delay_max: Duration::from_secs(3),
        jitter: Jitter::None,
    };
    let retry = RetryPolicy { max_attempts, backoff };
    NewJob { rules: Rules { retry, ..Rules::default() }, ..job() }
}

/// Options, and the job that `Store::submit` takes for the same. `AFTER` is a job.
fn same(first: JobId) -> Vec<(String, NewJob)> {
    let at = Time::from_millis(4_102_444_800_000);
    let backoff = r#""delay_first_ms": 10, "delay_max_ms": 3000, "jitter": "none""#;
    let rules = Rules::default();
    let mut same = vec![
        ("{}".to_owned(), job()),
        (r#"{"queue": null, "deadline": null, "after": null, "factor": null}"#.into(), job()),
        (r#"{"queue": "mail"}"#.into(), NewJob { queue: "mail".into(), ..job() }),
        (r#"{"priority": 0}"#.into(), job()),
        (r#"{"priority": 9.0}"#.into(), NewJob { priority: Priority::new(9).unwrap(), ..job() }),
        (r#"{"key": "käy"}"#.into(), NewJob { key: Some("käy".into()), ..job() }),
        (r#"{"unique": "o'u\"\n"}"#.into(), NewJob { unique: Some("o'u\"\n".into()), ..job() }),
        (
            r#"{"delay_ms": 3600000}"#.into(),
            NewJob { delay: Some(Duration::from_secs(3600)), ..job() },
        ),
        (r#"{"delay_ms": 0}"#.into(), NewJob { delay: Some(Duration::ZERO), ..job() }),
        (
            r#"{"timeout_ms": 1500}"#.into(),
            NewJob { timeout: Some(Duration::from_millis(1500)), ..job() },
        ),
        (
            r#"{"on_dependency_failure": "run"}"#.into(),
            NewJob {
                rules: Rules { on_dependency_failure: DependencyPolicy::Run, ..rules },
                ..job()
            },
        ),
        (format!(r#"{{"after": ["{first}"]}}"#), NewJob { after: vec![first], ..job() }),
    ];
    for moment in ["4102444800000", r#""2100-01-01T00:00:00Z""#, r#""2100-01-01 02:00+02""#] {
        same.push((
            format!(r#"{{"run_at": {moment}}}"#),
            NewJob { rules: Rules { run_at: Some(at), ..rules }, ..job() },
        ));
        same.push((
            format!(r#"{{"deadline": {moment}}}"#),
            NewJob { rules: Rules { deadline: Some(at), ..rules }, ..job() },
        ));
    }
    for (written, factor) in
        [("1", 1.0), ("2.50", 2.5), ("1.1", 1.1), ("0.3e1", 3.0), ("123456.789", 123_456.789)]
    {
        let options = format!(r#"{{"max_attempts": 7, "factor": {written}, {backoff}}}"#);
        same.push((options, retry(7, factor)));
    }
    let options = format!(r#"{{"max_attempts": 4294967295, "factor": 1.5, {backoff}}}"#);
    same.push((options, retry(u32::MAX, 1.5)));
    same
}

async fn row(app: &Client, id: JobId) -> String {
    let key = i64::try_from(id.key()).unwrap();
    app.query_one(ROW, &[&key]).await.unwrap().get(0)
}

async fn view(store: &PostgresStore, id: JobId) -> JobView {
    store.get(vec![id]).await.unwrap()[0].clone().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_came_by_sql_is_as_if_it_had_come_by_the_store() {
    let server = server();
    let url = server.database().unwrap();
    let store = PostgresStore::open(&url, PostgresOptions::default()).unwrap();
    let app = connect(&url).await;
    let first = store.submit(vec![job()]).await.unwrap()[0].id;
    for sql_is_first in [true, false] {
        for (options, new) in same(first) {
            let by_store = async || {
                let accepted = store.submit(vec![new.clone()]).await.unwrap()[0];
                let row = row(&app, accepted.id).await;
                // The unique text is free for the other.
                store.cancel(vec![accepted.id]).await.unwrap();
                (accepted.id, row)
            };
            let by_sql = async || {
                let submitted = app.query_one(SUBMIT, &[&"echo", &"{}", &options]).await;
                let submitted = submitted.unwrap_or_else(|error| panic!("{options}: {error:?}"));
                let id: JobId = submitted.get::<_, &str>(0).parse().unwrap();
                let before = view(&store, id).await;
                store.promote().await.unwrap();
                let row = row(&app, id).await;
                let after = view(&store, id).await;
                assert_eq!((before.created, before.due.is_some()), (id.created(), true));
                if after.due.is_some() {
                    assert_eq!(before.due, after.due, "{options}");
                }
                store.cancel(vec![id]).await.unwrap();
                (id, row)
            };
            let (sql, expected) = if sql_is_first {
                let sql = by_sql().await;
                (sql, by_store().await)
            } else {
                let expected = by_store().await;
                (by_sql().await, expected)
            };
            assert_eq!(sql.1, expected.1, "{options}");
            // The id is found: it is composed as the model does.
            assert_eq!(sql.0, JobId::compose(sql.0.created(), first.salt(), sql.0.key()));
        }
    }
    assert_eq!(store.verify().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_composed_as_the_model_does() {
    let server = server();
    let url = server.database().unwrap();
    let store = PostgresStore::open(&url, PostgresOptions::default()).unwrap();
    let app = connect(&url).await;
    let mut keys: Vec<u64> = (0..40).map(|it| 1 << it).collect();
    keys.extend([0, JobId::KEY_MAX, 0x12_3456_789A]);
    let sql = "SELECT taskloom.job_id($1, $2, $3)::text";
    for created in [-5, 0, 1_700_000_000_123, (1 << 48) - 1, 1 << 48] {
        for salt in [0, 1, 0xDEAD_BEEF, u32::MAX, 0x000F_FFFF, 0xFFF0_0000] {
            for key in &keys {
                let expected = JobId::compose(Time::from_millis(created), salt, *key).to_string();
                let (salt, key) = (i64::from(salt), i64::try_from(*key).unwrap());
                let row = app.query_one(sql, &[&created, &salt, &key]).await.unwrap();
                assert_eq!(row.get::<_, &str>(0), expected);
            }
        }
    }
    drop(store);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_is_refused_with_a_code_and_a_cure() {
    let server = server();
    let url = server.database().unwrap();
    let store = PostgresStore::open(&url, PostgresOptions::default()).unwrap();
    let app = connect(&url).await;
    let long = "x".repeat(256);
    let gone = JobId::compose(Time::from_millis(1), 1, 1);
    let many = serde_json::to_string(&vec![gone; 10_001]).unwrap();
    let huge = format!("{:?}", "x".repeat(1024 * 1024));
    let (invocation, empty, large) = ("submit.invocation", "store.empty", "store.too_large");
    let (missing, policy) = ("store.unknown_dependency", "store.policy");
    for (state, code, task, args, options) in [
        ("TL001", invocation, "echo", "{}", "[]".to_owned()),
        ("TL001", invocation, "echo", "{}", r#"{"prority": 1}"#.into()),
        ("TL001", invocation, "echo", "{}", r#"{"queue": 1}"#.into()),
        ("TL001", invocation, "echo", "{}", r#"{"unique": ["a"]}"#.into()),
        ("TL001", invocation, "echo", "{}", r#"{"priority": 10}"#.into()),
        ("TL001", invocation, "echo", "{}", r#"{"priority": -1}"#.into()),
        ("TL001", invocation, "echo", "{}", r#"{"priority": 1.5}"#.into()),
        ("TL001", invocation, "echo", "{}", r#"{"priority": "1"}"#.into()),
        ("TL001", invocation, "echo", "{}", r#"{"delay_ms": -1}"#.into()),
        ("TL001", invocation, "echo", "{}", r#"{"delay_ms": 1e30}"#.into()),
        ("TL001", invocation, "echo", "{}", r#"{"delay_ms": 1, "run_at": 1}"#.into()),
        ("TL001", invocation, "echo", "{}", r#"{"run_at": "soon"}"#.into()),
        ("TL001", invocation, "echo", "{}", r#"{"run_at": true}"#.into()),
        ("TL001", invocation, "echo", "{}", r#"{"deadline": "infinity"}"#.into()),
        ("TL001", invocation, "echo", "{}", r#"{"deadline": "1969-12-31Z"}"#.into()),
        ("TL001", invocation, "echo", "{}", r#"{"timeout_ms": 0}"#.into()),
        ("TL001", invocation, "echo", "{}", r#"{"max_attempts": 4294967296}"#.into()),
        ("TL001", invocation, "echo", "{}", r#"{"jitter": "some"}"#.into()),
        ("TL001", invocation, "echo", "{}", r#"{"on_dependency_failure": 1}"#.into()),
        ("TL001", invocation, "echo", "{}", r#"{"after": "me"}"#.into()),
        ("TL001", invocation, "echo", "{}", r#"{"after": {"id": 1}}"#.into()),
        ("TL001", invocation, "echo", "{}", r#"{"after": 7}"#.into()),
        ("TL001", invocation, "echo", "{}", r#"{"notify": "yes"}"#.into()),
        ("TL002", empty, "", "{}", "{}".into()),
        ("TL002", empty, "echo", "{}", r#"{"queue": ""}"#.into()),
        ("TL002", empty, "echo", "{}", r#"{"key": ""}"#.into()),
        ("TL002", empty, "echo", "{}", r#"{"unique": ""}"#.into()),
        ("TL003", large, &long, "{}", "{}".into()),
        ("TL003", large, "echo", "{}", format!(r#"{{"queue": "{long}"}}"#)),
        ("TL003", large, "echo", "{}", format!(r#"{{"key": "{long}"}}"#)),
        ("TL003", large, "echo", "{}", format!(r#"{{"unique": "{long}"}}"#)),
        ("TL003", large, "echo", &huge, "{}".into()),
        ("TL003", large, "echo", "{}", format!(r#"{{"after": {many}}}"#)),
        ("TL004", missing, "echo", "{}", format!(r#"{{"after": "{gone}"}}"#)),
        ("TL004", missing, "echo", "{}", r#"{"after": [null]}"#.into()),
        ("TL005", policy, "echo", "{}", r#"{"max_attempts": 0}"#.into()),
        ("TL005", policy, "echo", "{}", r#"{"factor": 0.9}"#.into()),
        ("TL005", policy, "echo", "{}", r#"{"factor": 1e309}"#.into()),
        ("TL005", policy, "echo", "{}", r#"{"factor": "2"}"#.into()),
    ] {
        let refused = app.query_one(SUBMIT, &[&task, &args, &options]).await;
        let Err(refused) = refused else { panic!("{task:.20} {options:.60}: taken") };
        let said = refused.as_db_error().unwrap_or_else(|| panic!("{options:.60}: {refused}"));
        let place = format!("{options:.60}: {}", said.message());
        assert_eq!((said.code().code(), said.detail()), (state, Some(code)), "{place}");
        assert!(said.hint().is_some_and(|it| 8 < it.len()), "no cure: {place}");
    }
    let n: i64 = app.query_one("SELECT count(*) FROM taskloom.jobs", &[]).await.unwrap().get(0);
    assert_eq!(n, 0);
    drop(store);
}
