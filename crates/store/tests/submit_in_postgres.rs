//! Submitting from Rust in a transaction of tokio-postgres, of sqlx, and of any other client, on a
//! private PostgreSQL.
#![cfg(all(unix, feature = "sqlx"))]
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::time::Duration;

use sqlx::{Connection, Row};
use taskloom_model::{Backoff, JobId, Priority, RetryPolicy, Rules, StateName, Time};
use taskloom_store::conformance::{Durability, PrivateServer};
use taskloom_store::postgres::{
    PostgresOptions, PostgresStore, SubmitStatement, submit_in, submit_in_sqlx,
};
use taskloom_store::{Accepted, NewJob, Store, StoreError};
use tokio_postgres::{Client, NoTls};

struct Place {
    server: PrivateServer,
    url: String,
    store: PostgresStore,
}

impl Place {
    fn new() -> Place {
        let started = PrivateServer::start(&std::env::temp_dir(), Durability::None);
        let server = started.unwrap_or_else(|why| panic!("{why}"));
        let url = server.database().unwrap();
        let store = PostgresStore::open(&url, PostgresOptions::default()).unwrap();
        Place { server, url, store }
    }

    #[expect(clippy::disallowed_methods, reason = "the routine ends with the connection of a test")]
    async fn client(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    async fn sqlx(&self) -> sqlx::PgConnection {
        sqlx::PgConnection::connect(&self.url).await.unwrap()
    }

    async fn states(&self, accepted: &[Accepted]) -> Vec<Option<StateName>> {
        self.store.promote().await.unwrap();
        assert_eq!(self.store.verify().await.unwrap(), []);
        let views = self.store.get(accepted.iter().map(|it| it.id).collect()).await.unwrap();
        views.iter().map(|it| it.as_ref().map(|it| it.state)).collect()
    }
}

fn job() -> NewJob {
    NewJob::new("echo", r#"{"a":1}"#)
}

/// One job with all there is, and a few more.
fn jobs(first: JobId) -> Vec<NewJob> {
    let backoff = Backoff { factor: 1.5, ..RetryPolicy::default().backoff };
    let rules = Rules {
        retry: RetryPolicy { max_attempts: 3, backoff },
        run_at: Some(Time::from_millis(5)),
        deadline: Some(Time::from_millis(4_102_444_800_000)),
        ..Rules::default()
    };
    let all = NewJob {
        queue: "q".into(),
        priority: Priority::new(4).unwrap(),
        rules,
        timeout: Some(Duration::from_secs(9)),
        key: Some("k".into()),
        after: vec![first],
        ..job()
    };
    let unique = NewJob { unique: Some("u".into()), ..job() };
    let later = NewJob { delay: Some(Duration::from_secs(3600)), ..job() };
    vec![all, unique.clone(), later, unique]
}

const EXPECTED: [Option<StateName>; 4] = [
    Some(StateName::Blocked),
    Some(StateName::Ready),
    Some(StateName::Delayed),
    Some(StateName::Ready),
];

fn check_accepted(accepted: &[Accepted]) {
    let duplicates: Vec<bool> = accepted.iter().map(|it| it.duplicate).collect();
    assert_eq!(duplicates, [false, false, false, true]);
    assert_eq!(accepted[3].id, accepted[1].id);
    assert!(accepted[..3].is_sorted_by_key(|it| it.id.key()), "in their order: {accepted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_tokio_postgres_accepts_with_its_commit() {
    let place = Place::new();
    let mut client = place.client().await;
    let first = submit_in(&client, &[job()]).await.unwrap()[0].id;
    for commits in [false, true] {
        let tx = client.transaction().await.unwrap();
        let accepted = submit_in(&tx, &jobs(first)).await.unwrap();
        check_accepted(&accepted);
        if commits {
            tx.commit().await.unwrap()
        } else {
            tx.rollback().await.unwrap()
        }
        let expected = if commits { EXPECTED } else { [None; 4] };
        assert_eq!(place.states(&accepted).await, expected);
        if commits {
            let view = place.store.get(vec![accepted[0].id]).await.unwrap()[0].clone().unwrap();
            assert_eq!((&*view.queue, view.priority.level()), ("q", 4));
            assert_eq!((view.max_attempts, view.timeout_ms), (3, Some(9000)));
            assert_eq!((view.key.as_deref(), view.args.get()), (Some("k"), r#"{"a": 1}"#));
            assert_eq!(view.deadline, Some(Time::from_millis(4_102_444_800_000)));
        }
    }
    assert_eq!(submit_in(&client, &[]).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_sqlx_accepts_with_its_commit() {
    let place = Place::new();
    let mut connection = place.sqlx().await;
    let first = submit_in_sqlx(&mut connection, &[job()]).await.unwrap()[0].id;
    for commits in [false, true] {
        let mut tx = connection.begin().await.unwrap();
        let accepted = submit_in_sqlx(&mut tx, &jobs(first)).await.unwrap();
        check_accepted(&accepted);
        if commits {
            tx.commit().await.unwrap()
        } else {
            tx.rollback().await.unwrap()
        }
        let expected = if commits { EXPECTED } else { [None; 4] };
        assert_eq!(place.states(&accepted).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_client_can_say_the_statement() {
    let place = Place::new();
    let first = place.store.submit(vec![job()]).await.unwrap()[0].id;
    let mut connection = place.sqlx().await;
    for (new, expected) in jobs(first).iter().zip(EXPECTED) {
        let statement = SubmitStatement::new(new).unwrap();
        let query = sqlx::query(statement.sql).bind(statement.task);
        let row = query.bind(statement.args).bind(statement.options);
        let row = row.fetch_one(&mut connection).await.unwrap();
        let id = row.get::<&str, _>(0).parse().unwrap();
        let accepted = Accepted { id, duplicate: row.get(1) };
        assert_eq!(place.states(&[accepted]).await, [expected]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_the_same_codes_by_both_clients() {
    let place = Place::new();
    let (client, mut connection) = (place.client().await, place.sqlx().await);
    let gone = JobId::compose(Time::from_millis(1), 1, 1);
    let many_numbers = format!("[{}1]", "1,".repeat(400_000));
    for (refused, code) in [
        (NewJob { after: vec![gone], ..job() }, "store.unknown_dependency"),
        (NewJob { unique: Some(String::new()), ..job() }, "store.empty"),
        (NewJob { unique: Some("\0".into()), ..job() }, "store.nul"),
        (NewJob::new("echo", r#""\u0000""#), "store.nul"),
        (NewJob::new("echo", "{"), "store.args"),
        // As jsonb it has a space behind each comma.
        (NewJob::new("echo", many_numbers), "store.too_large"),
    ] {
        let jobs = [job(), refused];
        let by_sqlx = submit_in_sqlx(&mut connection, &jobs).await.unwrap_err();
        let error = submit_in(&client, &jobs).await.unwrap_err();
        assert_eq!((error.code(), by_sqlx.code()), (code, code), "{error} / {by_sqlx}");
    }
    let refused = submit_in(&client, &[NewJob { after: vec![gone], ..job() }]).await.unwrap_err();
    assert!(matches!(refused, StoreError::UnknownDependency { id } if id == gone), "{refused}");
    let n = place.server.psql("db0", "SELECT count(*) FROM taskloom.jobs").unwrap();
    assert_eq!(n, "0");
    let refusals = ["CREATE ROLE nobody", "SET ROLE nobody"];
    for refusal in refusals {
        client.batch_execute(refusal).await.unwrap();
    }
    assert_eq!(submit_in(&client, &[job()]).await.unwrap_err().code(), "store.denied");
}
