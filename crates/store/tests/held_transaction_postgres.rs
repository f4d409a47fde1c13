//! While somebody holds a transaction open, nothing that has run can be removed from PostgreSQL.
//! Claims don't walk over it, and still find every job.
#![cfg(all(unix, feature = "postgres"))]
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use taskloom_model::{JobId, NodeId, Outcome, Priority, Roll, StateName, Time};
use taskloom_store::conformance::{Durability, PrivateServer};
use taskloom_store::postgres::{PostgresOptions, PostgresStore};
use taskloom_store::{Changed, Claimed, Demand, Finish, NewJob, NewNode, Queues, Store};
use tokio_postgres::NoTls;

const PATIENCE: Duration = Duration::from_secs(60);
/// So many jobs run while the transaction is held: their dead rows fill some 200 pages of the
/// index.
const N_DEAD: usize = 60_000;
const BATCH: usize = 2_000;
/// What a claim may read of the index of ready jobs.
const PAGES_MAX: u64 = 80;

struct Place {
    server: PrivateServer,
    store: PostgresStore,
    node: NodeId,
    /// Another process, which comes too late for every job.
    late: (PostgresStore, NodeId),
}

async fn open(url: &str) -> (PostgresStore, NodeId) {
    let store = PostgresStore::open(url, PostgresOptions::default()).unwrap();
    let node = NewNode { name: "n".into(), pid: 1, tasks: Vec::new() };
    let node = store.register(node).await.unwrap();
    (store, node)
}

fn demand(n: usize) -> Vec<Demand> {
    let tasks: Arc<[Arc<str>]> = [Arc::from("echo")].into();
    vec![Demand { queues: Queues::Except(Arc::from([])), tasks, n }]
}

impl Place {
    async fn submit(&self, job: NewJob, n: usize) -> Vec<JobId> {
        let accepted = self.store.submit(vec![job; n]).await.unwrap();
        accepted.iter().map(|it| it.id).collect()
    }

    async fn claim(&self, n: usize) -> Vec<Claimed> {
        self.store.claim(self.node, demand(n)).await.unwrap()
    }

    async fn finish(&self, claimed: &[Claimed]) {
        let ended = claimed.iter().map(|it| Finish {
            id: it.id,
            fence: it.fence,
            outcome: Outcome::Succeeded,
            roll: Roll(0.0),
            started: Time::default(),
            result: None,
            error: None,
            logs: Vec::new(),
        });
        let finished = self.store.finish(self.node, ended.collect(), Vec::new()).await.unwrap();
        assert!(finished.outcomes.iter().all(Result::is_ok));
    }

    /// Runs `n` new jobs, and sees that they are claimed in their order.
    async fn run(&self, n: usize) -> Vec<JobId> {
        let ids = self.submit(NewJob::new("echo", "{}"), n).await;
        let claimed = self.claim(n).await;
        assert_eq!(claimed.iter().map(|it| it.id).collect::<Vec<_>>(), ids);
        self.finish(&claimed).await;
        ids
    }

    fn pages_read(&self) -> u64 {
        let sql = "SELECT pg_stat_get_blocks_fetched('taskloom.hot_ready'::regclass)";
        self.server.psql("db0", sql).unwrap().parse().unwrap()
    }

    /// Claims, in this process or in the one that finds nothing, until a claim reads few pages, as
    /// the server tells it a second later.
    async fn until_claims_are_cheap(&self, is_late: bool) {
        let began = Instant::now();
        loop {
            let (before, round) = (self.pages_read(), Instant::now());
            let mut n_claims = 0;
            while round.elapsed() < Duration::from_secs(3) {
                if is_late {
                    let (late, node) = &self.late;
                    assert!(late.claim(*node, demand(5)).await.unwrap().is_empty());
                } else {
                    self.run(5).await;
                }
                n_claims += 1;
            }
            let pages = (self.pages_read() - before) / n_claims;
            println!("{pages} pages of the index a claim");
            if pages <= PAGES_MAX {
                return;
            }
            let whose = if is_late { "late" } else { "busy" };
            assert!(began.elapsed() < PATIENCE, "a {whose} claim reads {pages} pages");
        }
    }

    /// Claims until `id` comes.
    async fn until_claimed(&self, id: JobId) {
        let began = Instant::now();
        loop {
            let claimed = self.claim(10).await;
            self.finish(&claimed).await;
            if claimed.iter().any(|it| it.id == id) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{id} is not found");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_stay_cheap_and_find_every_job_while_a_transaction_is_held() {
    let started = PrivateServer::start(&std::env::temp_dir(), Durability::None);
    let server = started.unwrap_or_else(|why| panic!("{why}"));
    let url = server.database().unwrap();
    let ((store, node), late) = (open(&url).await, open(&url).await);
    let place = Place { server, store, node, late };
    let oldest = place.run(1).await[0];

    let (holder, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    let work = async {
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM taskloom.meta";
        holder.batch_execute(begin).await.unwrap();
        for _ in 0..N_DEAD / BATCH {
            place.run(BATCH).await;
        }
        place.until_claims_are_cheap(false).await;
        place.until_claims_are_cheap(true).await;

        // Far behind the front.
        let changed = place.store.retry(vec![oldest]).await.unwrap();
        assert_eq!(changed, [Changed::Now(StateName::Ready)]);
        place.until_claimed(oldest).await;
        // Of a priority that had none yet, before those that wait.
        let waiting = place.submit(NewJob::new("echo", "{}"), 3).await;
        let mut urgent = NewJob::new("echo", "{}");
        urgent.priority = Priority::new(5).unwrap();
        let urgent = place.submit(urgent, 1).await[0];
        let claimed = place.claim(4).await;
        let order: Vec<JobId> = claimed.iter().map(|it| it.id).collect();
        assert_eq!(order, [&[urgent], waiting.as_slice()].concat());
        place.finish(&claimed).await;
        // Of two queues, by age.
        let mut ids = Vec::new();
        for queue in ["default", "mail", "default", "mail"] {
            let mut job = NewJob::new("echo", "{}");
            job.queue = queue.into();
            ids.extend(place.submit(job, 2).await);
        }
        for few in ids.chunks(3) {
            let claimed = place.claim(3).await;
            assert_eq!(claimed.iter().map(|it| it.id).collect::<Vec<_>>(), few);
            place.finish(&claimed).await;
        }

        assert_eq!(place.store.verify().await.unwrap(), []);
        let counts = place.store.counts().await.unwrap();
        assert!(counts.iter().all(|it| it.state == StateName::Succeeded), "{counts:?}");
        drop(holder);
    };
    let ((), ended) = futures::join!(work, connection);
    ended.unwrap();
}
