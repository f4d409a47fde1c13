//! Faults of the PostgreSQL server, seen by one store: every verb has an end, and the store goes on
//! by itself.
#![cfg(all(unix, feature = "postgres"))]
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use taskloom_model::{NodeId, Time};
use taskloom_store::conformance::{Durability, PrivateServer, Stop};
use taskloom_store::postgres::{PostgresOptions, PostgresStore};
use taskloom_store::{
    Beat, Demand, EventCursor, Filter, Judge, NewJob, NewNode, Page, Prune, Queues, Store,
    StoreError,
};

const ANSWER_MAX: Duration = Duration::from_secs(1);

fn server() -> PrivateServer {
    let started = PrivateServer::start(&std::env::temp_dir(), Durability::None);
    started.unwrap_or_else(|why| panic!("{why}"))
}

fn open(url: &str) -> PostgresStore {
    let options = PostgresOptions { answer_max: ANSWER_MAX, ..PostgresOptions::default() };
    PostgresStore::open(url, options).unwrap()
}

fn new_node() -> NewNode {
    NewNode { name: "n".into(), pid: 1, tasks: Vec::new() }
}

fn demand(n: usize) -> Vec<Demand> {
    let tasks: Arc<[Arc<str>]> = [Arc::from("echo")].into();
    vec![Demand { queues: Queues::Except(Arc::from([])), tasks, n }]
}

/// All verbs at once, and what each of them says.
async fn every_verb(
    store: &PostgresStore,
    node: NodeId,
) -> Vec<(&'static str, Option<StoreError>)> {
    let job = store.info().n_commits;
    let id = taskloom_model::JobId::compose(Time::default(), 1, job);
    let before = Time::default();
    let prune =
        Prune { succeeded_before: before, failed_before: before, events_before: before, limit: 1 };
    let beat = Beat { node, signs: Vec::new() };
    let judge = Judge::of_all(Some(node));
    let writes = futures::join!(
        store.submit(vec![NewJob::new("echo", "{}")]),
        store.claim(node, demand(1)),
        store.finish(node, Vec::new(), demand(1)),
        store.release(node, vec![(id, taskloom_model::Fence(1))]),
        store.register(new_node()),
        store.heartbeat(beat),
        store.promote(),
        store.rescue(judge),
        store.cancel(vec![id]),
        store.retry(vec![id]),
        store.prune(prune),
    );
    let (
        submit,
        claim,
        finish,
        release,
        register,
        heartbeat,
        promote,
        rescue,
        cancel,
        retry,
        prune,
    ) = writes;
    let reads = futures::join!(
        store.get(vec![id]),
        store.list(Filter::default(), Page::default()),
        store.attempts(id),
        store.logs(id, 1),
        store.events(EventCursor::START, 1),
        store.counts(),
        store.nodes(),
    );
    let (get, list, attempts, logs, events, counts, nodes) = reads;
    vec![
        ("submit", submit.err()),
        ("claim", claim.err()),
        ("finish", finish.err()),
        ("release", release.err()),
        ("register", register.err()),
        ("heartbeat", heartbeat.err()),
        ("promote", promote.err()),
        ("rescue", rescue.err()),
        ("cancel", cancel.err()),
        ("retry", retry.err()),
        ("prune", prune.err()),
        ("get", get.err()),
        ("list", list.err()),
        ("attempts", attempts.err()),
        ("logs", logs.err()),
        ("events", events.err()),
        ("counts", counts.err()),
        ("nodes", nodes.err()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_verb_waits_for_ever_for_a_server_that_does_not_answer() {
    let server = server();
    let store = open(&server.database().unwrap());
    let node = store.register(new_node()).await.unwrap();
    server.freeze().unwrap();
    for round in 0..2 {
        let began = Instant::now();
        for (verb, error) in every_verb(&store, node).await {
            let is_unreachable = matches!(error, Some(StoreError::Unreachable { .. }));
            assert!(is_unreachable, "{verb} in round {round}: {error:?}");
        }
        // The writes go together, then the reads, each within twice the bound: what comes too late
        // for its turn is refused.
        let took = began.elapsed();
        println!("round {round}: every verb had its answer in {took:?}");
        assert!(took < 5 * ANSWER_MAX, "{took:?}");
    }
    server.thaw().unwrap();
    let began = Instant::now();
    while store.submit(vec![NewJob::new("echo", "{}")]).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(30));
    }
    let refused: Vec<_> = every_verb(&store, node).await;
    assert!(refused.iter().all(|it| it.1.is_none()), "{refused:?}");
    assert!(store.verify().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_host_does_not_keep_the_store_from_the_next_one() {
    let (first, second) = (server(), server());
    let hosts = |url: &str| url.split('@').nth(1).unwrap().split('/').next().unwrap().to_owned();
    let list = format!("{},{}", hosts(&first.url("db0")), hosts(&second.database().unwrap()));
    first.freeze().unwrap();
    let url = format!("postgres://postgres@{list}/db0");
    let store = PostgresStore::open(&url, PostgresOptions::default()).unwrap();
    store.submit(vec![NewJob::new("echo", "{}")]).await.unwrap();
    first.thaw().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_done_again_when_their_connection_was_cut() {
    let server = server();
    let store = open(&server.database().unwrap());
    for _ in 0..20 {
        store.counts().await.unwrap();
        server.cut().unwrap();
    }
}

/// Six read at once; five of them are held up.
#[tokio::test(flavor = "multi_thread")]
async fn slow_reads_do_not_hold_up_another() {
    let server = server();
    let url = server.database().unwrap();
    let store = PostgresStore::open(&url, PostgresOptions::default()).unwrap();
    let id = store.submit(vec![NewJob::new("echo", "{}")]).await.unwrap()[0].id;
    let (holder, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    let read = async {
        holder.batch_execute("BEGIN; LOCK TABLE taskloom.logs").await.unwrap();
        let began = Instant::now();
        let n_waiting =
            || server.psql("db0", "SELECT count(*) FROM pg_locks WHERE NOT granted").unwrap();
        loop {
            let slow = futures::future::join_all((0..5).map(|_| store.logs(id, 1)));
            let round = Instant::now();
            let counts = async {
                while n_waiting() != "5" && round.elapsed() < Duration::from_secs(2) {
                    tokio::task::yield_now().await;
                }
                let counts = store.counts().await.unwrap();
                (n_waiting() == "5").then_some(counts)
            };
            // They wait two seconds each; a machine that is too busy for that tries again.
            let (_, counts) = futures::join!(slow, counts);
            if let Some(counts) = counts {
                return counts;
            }
            assert!(began.elapsed() < Duration::from_secs(30), "it was held up");
        }
    };
    let counts = tokio::select! {
        counts = read => counts,
        ended = connection => panic!("the holder was cut: {ended:?}"),
    };
    assert_eq!(counts.iter().map(|it| it.n).sum::<u64>(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_lock_in_a_restart_is_not_rescued_and_has_it_again() {
    let server = server();
    let url = server.database().unwrap();
    let (one, other) = (open(&url), open(&url));
    let node = one.register(new_node()).await.unwrap();
    server.stop(Stop::Immediate).unwrap();
    server.start_again().unwrap();
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
         AND classid::bigint = 1416326194";
    let began = Instant::now();
    while server.psql("db0", locks).unwrap() != "1" {
        assert!(began.elapsed() < Duration::from_secs(10), "the lock does not come back");
    }
    assert_eq!(other.rescue(Judge::of_all(None)).await.unwrap(), []);
    assert_eq!(other.nodes().await.unwrap().len(), 1, "{node:?}");
}
