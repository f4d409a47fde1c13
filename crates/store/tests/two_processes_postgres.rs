//! Two stores on one PostgreSQL database, as two processes have them; and what happens when the
//! server restarts or cuts connections. Nothing that was accepted is lost.
#![cfg(all(unix, feature = "postgres"))]
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use taskloom_model::{JobId, NodeId, Outcome, Refusal, Roll, StateName, Time};
use taskloom_store::conformance::{Durability, PrivateServer};
use taskloom_store::postgres::{LEASE, PostgresOptions, PostgresStore};
use taskloom_store::{
    Beat, Claimed, Clock, Demand, EventCursor, Finish, Judge, ManualClock, NewJob, NewNode, Queues,
    Store, StoreError,
};
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, NoTls};

const PATIENCE: Duration = Duration::from_secs(30);

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
        let clock = Some(Arc::new(self.clock.clone()) as Arc<dyn Clock>);
        let options = PostgresOptions { clock, ..PostgresOptions::default() };
        PostgresStore::open(&self.url, options).unwrap()
    }
}

async fn register(store: &PostgresStore) -> NodeId {
    store.register(NewNode { name: "n".into(), pid: 1, tasks: Vec::new() }).await.unwrap()
}

async fn submit(store: &PostgresStore, n: usize) -> BTreeSet<JobId> {
    let accepted = store.submit(vec![NewJob::new("echo", "{}"); n]).await.unwrap();
    accepted.iter().map(|it| it.id).collect()
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
async fn jobs_of_one_are_claimed_by_both_none_twice_and_every_event_is_heard() {
    let place = Place::new();
    let (one, other) = (place.open(), place.open());
    let submitted = submit(&one, 400).await;
    let (node, other_node) = (register(&one).await, register(&other).await);
    let (mut claimed, mut cursor, mut n_heard) = (Vec::new(), EventCursor::START, 0);
    loop {
        let both = futures::join!(claim(&one, node, 7), claim(&other, other_node, 5));
        let n = both.0.len() + both.1.len();
        for (store, node, claims) in [(&one, node, both.0), (&other, other_node, both.1)] {
            claimed.extend(claims.iter().map(|it| it.id));
            let ended = claims.iter().map(succeeded).collect();
            let finished = store.finish(node, ended, Vec::new()).await.unwrap();
            assert!(finished.outcomes.iter().all(|it| *it == Ok(StateName::Succeeded)));
        }
        let read = one.events(cursor, 10_000).await.unwrap();
        (cursor, n_heard) = (read.next, n_heard + read.events.len());
        if n == 0 {
            break;
        }
    }
    assert_eq!(claimed.len(), 400, "none is claimed twice");
    assert_eq!(claimed.into_iter().collect::<BTreeSet<_>>(), submitted);
    n_heard += other.events(cursor, 10_000).await.unwrap().events.len();
    assert_eq!(n_heard, 3 * 400, "submitted, claimed, succeeded");
    let counts = other.counts().await.unwrap();
    let counts: Vec<_> = counts.iter().map(|it| (it.state, it.n)).collect();
    assert_eq!(counts, [(StateName::Succeeded, 400)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_one_wakes_the_other() {
    let place = Place::new();
    let (one, other) = (place.open(), place.open());
    let node = register(&other).await;
    let mut notices = other.notices();
    assert!(claim(&other, node, 9).await.is_empty());
    submit(&one, 3).await;
    let mut claimed = Vec::new();
    while claimed.len() < 3 {
        let woken = tokio::time::timeout(PATIENCE, notices.ready.changed());
        woken.await.expect("the other process is told").unwrap();
        claimed.extend(claim(&other, node, 9).await);
    }
}

/// Who tells the others of something, by the numbers of their connections.
#[expect(clippy::disallowed_methods, reason = "the routine ends with the server of a test")]
async fn listen(url: &str) -> mpsc::UnboundedReceiver<i32> {
    let (client, mut connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let (sender, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let Ok(AsyncMessage::Notification(notice)) = message {
                sender.send(notice.process_id()).ok();
            }
        }
    });
    client.batch_execute("LISTEN taskloom").await.unwrap();
    // Its connection goes on without it until the server stops.
    std::mem::forget(client);
    heard
}

/// A process that is alone tells nobody, and looks only once a second whether it still is.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_alone_tells_a_newcomer_of_its_next_commit() {
    let mut place = Place::new();
    let mut n_missed = 0;
    for _ in 0..5 {
        place.url = place.server.database().unwrap();
        let mut heard = listen(&place.url).await;
        let one = place.open();
        submit(&one, 1).await;
        let _other = place.open();
        let greets = tokio::time::timeout(PATIENCE, heard.recv()).await;
        let newcomer = greets.expect("a newcomer says so").unwrap();
        submit(&one, 1).await;
        let told = tokio::time::timeout(Duration::from_millis(300), heard.recv()).await;
        n_missed += u32::from(told.is_err());
        assert!(told.is_err() || told != Ok(Some(newcomer)));
    }
    // One may hear of the newcomer later than this test does, but seldom.
    assert!(n_missed <= 2, "{n_missed} of 5 commits were not told");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_of_a_dead_process_are_rescued_soon_and_those_of_a_live_one_are_not() {
    let place = Place::new();
    let (one, other) = (place.open(), place.open());
    submit(&one, 3).await;
    let node = register(&one).await;
    claim(&one, node, 3).await;
    place.clock.advance(Duration::from_secs(4));
    assert_eq!(other.rescue(Judge::of_all(None)).await.unwrap(), [], "its lock is held");
    drop(one);
    let mut rescued = Vec::new();
    while rescued.is_empty() {
        // The server may need a moment to see that the connection has ended.
        rescued = other.rescue(Judge::of_all(None)).await.unwrap();
    }
    assert_eq!(rescued.iter().map(|it| (it.node, it.n_ready)).collect::<Vec<_>>(), [(node, 3)]);
    assert!(other.nodes().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_silent_too_long_learns_that_it_lost_everything() {
    let place = Place::new();
    let (one, other) = (place.open(), place.open());
    submit(&one, 2).await;
    let node = register(&one).await;
    let claimed = claim(&one, node, 2).await;
    let other_node = register(&other).await;
    place.clock.advance(LEASE);
    assert_eq!(other.rescue(Judge::of_all(Some(other_node))).await.unwrap().len(), 1);
    let taken = claim(&other, other_node, 1).await;
    let ended = claimed.iter().map(succeeded).collect();
    let outcomes = one.finish(node, ended, Vec::new()).await.unwrap().outcomes;
    let current = taken[0].fence;
    assert_eq!(outcomes, [Err(Refusal::StaleFence { current }), Err(Refusal::AlreadyFinished)]);
    assert!(claim(&one, node, 1).await.is_empty(), "a lost node gets no jobs");
    assert!(one.heartbeat(Beat { node, signs: Vec::new() }).await.unwrap().evicted);
}

const CUT: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
     WHERE application_name = 'taskloom'";

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_lose_nothing_and_are_made_anew() {
    let place = Place::new();
    let store = place.open();
    let node = register(&store).await;
    let (mut n_accepted, mut n_unknown) = (0, 0);
    for round in 0..10 {
        let submits = (0..20).map(|_| store.submit(vec![NewJob::new("echo", "{}"); 10]));
        let cut = async {
            if round % 2 == 0 {
                tokio::task::yield_now().await;
            }
            tokio::task::block_in_place(|| place.server.psql("postgres", CUT)).unwrap();
        };
        let (answers, ()) = futures::join!(futures::future::join_all(submits), cut);
        for answer in answers {
            match answer {
                Ok(accepted) => n_accepted += accepted.len(),
                Err(error) => {
                    assert!(error.is_transient(), "{error}");
                    n_unknown += 10;
                }
            }
        }
    }
    let mut n_claimed = 0;
    loop {
        let claimed = claim(&store, node, 500).await;
        if claimed.is_empty() {
            break;
        }
        n_claimed += claimed.len();
        let ended = claimed.iter().map(succeeded).collect();
        store.finish(node, ended, Vec::new()).await.unwrap();
    }
    assert!(n_accepted <= n_claimed && n_claimed <= n_accepted + n_unknown);
    place.clock.advance(Duration::from_secs(4));
    let other = place.open();
    // The lock of the node is taken again with the new connection.
    let mut is_held = false;
    for _ in 0..100 {
        let sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
             AND classid::bigint = 1416326194";
        is_held = place.server.psql("postgres", sql).unwrap() == "1";
        if is_held {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(is_held, "the liveness lock came back");
    assert_eq!(other.rescue(Judge::of_all(None)).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_schema_and_a_foreign_one_are_refused() {
    let place = Place::new();
    drop(place.open());
    let put = "UPDATE taskloom.meta SET value = 99 WHERE name = 'version'";
    place.server.psql("db0", put).unwrap();
    let refused = PostgresStore::open(&place.url, PostgresOptions::default());
    assert_eq!(refused.err().map(|it| it.code()), Some("store.newer_schema"));
    let url = place.server.database().unwrap();
    place.server.psql("db1", "CREATE SCHEMA taskloom CREATE TABLE theirs (it int)").unwrap();
    let refused = PostgresStore::open(&url, PostgresOptions::default());
    assert_eq!(refused.err().map(|it| it.code()), Some("store.foreign"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_has_its_code() {
    let refused = PostgresStore::open("postgres://me@%2Fnowhere/db", PostgresOptions::default());
    let error = refused.err().unwrap();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
}
