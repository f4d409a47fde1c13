//! Systems on a private PostgreSQL server: they share a database, and take over what a dead one
//! held.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use taskloom::submit_in::{self, tokio_postgres::NoTls};
use taskloom::{Ctx, Invoke, StateName, Task, TaskError, TaskSystem};
use taskloom_store::conformance::{Durability, PrivatePooler, PrivateServer};
use tokio::sync::SetOnce;

const PATIENCE: Duration = Duration::from_secs(60);

fn server() -> PrivateServer {
    let started = PrivateServer::start(&std::env::temp_dir(), Durability::None);
    started.unwrap_or_else(|why| panic!("{why}"))
}

#[derive(Debug, Serialize, Deserialize)]
struct Number {
    n: u32,
}

/// Doubles a number, and counts how often it has begun.
#[derive(Debug, Clone, Default)]
struct Double {
    n_begun: Arc<AtomicU32>,
    /// It never ends.
    is_stuck: bool,
    /// It sets the first, and goes on when the second is set.
    meets: Option<[Arc<SetOnce<()>>; 2]>,
}

impl Task for Double {
    const NAME: &'static str = "double";
    type Args = Number;
    type Output = u32;

    async fn run(&self, _ctx: &Ctx, args: Number) -> Result<u32, TaskError> {
        self.n_begun.fetch_add(1, Ordering::SeqCst);
        if let Some([own, others]) = &self.meets {
            own.set(()).ok();
            others.wait().await;
        }
        if self.is_stuck {
            std::future::pending::<()>().await;
        }
        Ok(2 * args.n)
    }
}

async fn start(url: &str, task: &Double, max_workers: usize) -> TaskSystem {
    let builder = TaskSystem::open(url).without_registered_tasks().task(task.clone());
    builder.max_workers(max_workers).start().await.unwrap()
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes far too long")
}

#[tokio::test(flavor = "multi_thread")]
async fn two_systems_share_the_work_of_one_database() {
    let server = server();
    share_work(&server.database().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_systems_share_the_work_through_a_pooler() {
    let server = server();
    let pooler = PrivatePooler::start(&server, 4).unwrap_or_else(|why| panic!("{why}"));
    server.database().unwrap();
    share_work(&format!("{}?pgbouncer=true", pooler.url("db0"))).await;
}

/// Two systems do 400 jobs, each once. No job of one ends before the other has begun one.
async fn share_work(url: &str) {
    let [a, b] = [(); 2].map(|()| Arc::new(SetOnce::new()));
    let one = Double { meets: Some([a.clone(), b.clone()]), ..Double::default() };
    let other = Double { meets: Some([b, a]), ..Double::default() };
    let first = start(url, &one, 5).await;
    let second = start(url, &other, 5).await;
    let jobs: Vec<_> = (0..400).map(|n| one.invoke(Number { n })).collect();
    let handles = first.submit(jobs).await.unwrap();
    for (n, handle) in (0..400).zip(handles) {
        assert_eq!(soon(handle.into_future()).await.unwrap(), 2 * n);
    }
    let n_begun = [&one, &other].map(|it| it.n_begun.load(Ordering::SeqCst));
    assert_eq!(n_begun.iter().sum::<u32>(), 400, "each ran once");
    second.drain().await.unwrap();
    first.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_of_a_dead_system_are_rescued() {
    let server = server();
    let url = server.database().unwrap();
    let stuck = Double { is_stuck: true, ..Double::default() };
    let dying = start(&url, &stuck, 3).await;
    let id = dying.submit(stuck.invoke(Number { n: 21 })).await.unwrap().id();
    while stuck.n_begun.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    // Without a drain, as a crash would: its connections end, and with them its lock.
    drop(dying);
    let began = Instant::now();
    let alive = start(&url, &Double::default(), 3).await;
    let handle = alive.job::<u32>(id);
    assert_eq!(soon(handle.into_future()).await.unwrap(), 42);
    println!("rescued and finished {:?} after the start", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let view = alive.store().get(vec![id]).await.unwrap().remove(0).unwrap();
    assert_eq!((view.crashes, view.attempts), (1, 1), "a crash is not a failure");
    alive.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_a_transaction_runs_after_its_commit_by_itself_and_sooner_when_told() {
    let server = server();
    let url = server.database().unwrap();
    let system = start(&url, &Double::default(), 2).await;
    let (mut app, connection) = submit_in::tokio_postgres::connect(&url, NoTls).await.unwrap();
    let work = async {
        for is_told in [false, true] {
            let tx = app.transaction().await.unwrap();
            let invocations = [4, 5].map(|n| Double::default().invoke(Number { n }));
            let accepted = submit_in::postgres(&tx, invocations).await.unwrap();
            tx.commit().await.unwrap();
            if is_told {
                system.look_again().await.unwrap();
                let views = system.store().get(vec![accepted[0].id, accepted[1].id]).await.unwrap();
                assert!(views.iter().flatten().all(|it| it.state != StateName::Delayed));
            }
            let handles = accepted.map(|it| system.job::<u32>(it.id));
            assert_eq!(soon(system.gather(handles)).await.unwrap(), [8, 10]);
        }
    };
    tokio::select! {
        ended = connection => ended.unwrap(),
        () = work => {}
    }
    let bad = Double::default().invoke(Number { n: 1 }).priority(10);
    assert_eq!(submit_in::statement(bad).unwrap_err().code(), "submit.invocation");
    system.drain().await.unwrap();
}
