//! The store through PgBouncer in transaction mode, with four connections to the server: the
//! conformance suite, two processes, and what happens when nobody says that it is there.
#![cfg(all(unix, feature = "postgres"))]
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use taskloom_model::{NodeId, Outcome, Roll, StateName, Time};
use taskloom_store::conformance::{
    Durability, PrivatePooler, PrivateServer, Summary, lockstep, many_deadlines,
};
use taskloom_store::postgres::{LEASE, PostgresOptions, PostgresStore};
use taskloom_store::{
    Claimed, Clock, Demand, EventCursor, Finish, Judge, ManualClock, NewJob, NewNode, Queues, Store,
};

const CONNECTIONS: usize = 4;

struct Place {
    pooler: PrivatePooler,
    server: PrivateServer,
    clock: ManualClock,
}

impl Place {
    fn new() -> Place {
        let started = PrivateServer::start(&std::env::temp_dir(), Durability::None);
        let server = started.unwrap_or_else(|why| panic!("{why}"));
        let pooler = PrivatePooler::start(&server, CONNECTIONS);
        let pooler = pooler.unwrap_or_else(|why| panic!("{why}"));
        let clock = ManualClock::at(Time::from_millis(1_700_000_000_000));
        Place { pooler, server, clock }
    }

    fn database(&self) -> String {
        let url = self.server.database().unwrap();
        url.rsplit('/').next().unwrap().to_owned()
    }

    fn open(&self, database: &str) -> PostgresStore {
        let clock = Some(Arc::new(self.clock.clone()) as Arc<dyn Clock>);
        let options = PostgresOptions { clock, ..PostgresOptions::default() };
        let url = format!("{}?pgbouncer=true", self.pooler.url(database));
        PostgresStore::open(&url, options).unwrap()
    }
}

#[tokio::test]
async fn the_suite_passes_through_a_pooler() {
    let place = Place::new();
    let mut sum = Summary::default();
    for seed in 0..2 {
        let store = Arc::new(place.open(&place.database()));
        let played = lockstep(store, place.clock.clone(), seed, 300).await;
        sum += played.unwrap_or_else(|broken| panic!("{broken}"));
    }
    let Summary { n_jobs, n_claims, n_finishes, n_refusals, n_rescued, n_events, .. } = sum;
    let all = [n_jobs, n_claims, n_finishes, n_refusals, n_rescued, n_events];
    assert!(all.iter().all(|it| 0 < *it), "an idle suite: {sum:?}");
    let store = place.open(&place.database());
    many_deadlines(&store, &place.clock).await.unwrap();
    let sql = "SELECT count(*) <= 4 FROM pg_stat_activity WHERE application_name = 'taskloom' \
         GROUP BY datname ORDER BY 1 LIMIT 1";
    assert_eq!(place.server.psql("postgres", sql).unwrap(), "t", "no more than the pool has");
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
async fn two_processes_share_work_and_every_event_is_heard() {
    let place = Place::new();
    let database = place.database();
    let (one, other) = (place.open(&database), place.open(&database));
    let accepted = one.submit(vec![NewJob::new("echo", "{}"); 400]).await.unwrap();
    let submitted: BTreeSet<_> = accepted.iter().map(|it| it.id).collect();
    let (node, other_node) = (register(&one).await, register(&other).await);
    let mut claimed = Vec::new();
    loop {
        let both = futures::join!(claim(&one, node, 7), claim(&other, other_node, 5));
        let n = both.0.len() + both.1.len();
        let finishes = [(&one, node, both.0), (&other, other_node, both.1)].map(
            |(store, node, claims)| async move {
                let ended = claims.iter().map(succeeded).collect();
                let finished = store.finish(node, ended, Vec::new()).await.unwrap();
                assert!(finished.outcomes.iter().all(|it| *it == Ok(StateName::Succeeded)));
                claims
            },
        );
        for claims in futures::future::join_all(finishes).await {
            claimed.extend(claims.iter().map(|it| it.id));
        }
        if n == 0 {
            break;
        }
    }
    assert_eq!(claimed.len(), 400, "none is claimed twice");
    assert_eq!(claimed.into_iter().collect::<BTreeSet<_>>(), submitted);
    let heard = other.events(EventCursor::START, 10_000).await.unwrap().events;
    assert_eq!(heard.len(), 3 * 400, "submitted, claimed, succeeded");
    assert!(one.verify().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_one_wakes_the_other_although_nobody_listens() {
    let place = Place::new();
    let database = place.database();
    let (one, other) = (place.open(&database), place.open(&database));
    let mut notices = other.notices();
    notices.ready.borrow_and_update();
    one.submit(vec![NewJob::new("echo", "{}")]).await.unwrap();
    let woken = tokio::time::timeout(Duration::from_secs(5), notices.ready.changed());
    woken.await.expect("it looks by itself").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_of_a_process_that_died_are_rescued_after_the_lease_and_not_before() {
    let place = Place::new();
    let database = place.database();
    let (one, other) = (place.open(&database), place.open(&database));
    one.submit(vec![NewJob::new("echo", "{}"); 3]).await.unwrap();
    let node = register(&one).await;
    assert_eq!(claim(&one, node, 3).await.len(), 3);
    drop(one);
    place.clock.advance(LEASE - Duration::from_secs(1));
    // A node that holds locks itself decides by the same rule.
    let url = place.server.url(&database);
    let clock = Some(Arc::new(place.clock.clone()) as Arc<dyn Clock>);
    let options = PostgresOptions { clock, ..PostgresOptions::default() };
    let direct = PostgresStore::open(&url, options).unwrap();
    for store in [&other, &direct] {
        assert_eq!(store.rescue(Judge::of_all(None)).await.unwrap(), [], "it never had a lock");
    }
    place.clock.advance(Duration::from_secs(1));
    let rescued = other.rescue(Judge::of_all(None)).await.unwrap();
    assert_eq!(rescued.iter().map(|it| (it.node, it.n_ready)).collect::<Vec<_>>(), [(node, 3)]);
    let node = register(&other).await;
    assert_eq!(claim(&other, node, 9).await.len(), 3);
}

#[test]
fn a_pooler_that_nobody_speaks_of_is_refused_with_the_cure() {
    let place = Place::new();
    let url = place.pooler.url(&place.database());
    let refused = PostgresStore::open(&url, PostgresOptions::default()).err().unwrap();
    assert_eq!(refused.code(), "store.pooler", "{refused}");
    assert!(refused.to_string().contains("?pgbouncer=true"), "{refused}");
}
