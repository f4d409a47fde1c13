//! Faults of the PostgreSQL server under load: two systems go on by themselves, no accepted job is
//! lost, and none runs twice.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use taskloom::{Ctx, Invoke, JobHandle, JobId, Task, TaskError, TaskSystem};
use taskloom_store::conformance::{Durability, PrivateServer, Stop};

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize, Deserialize)]
struct Number {
    n: u32,
}

/// Counts how often each job runs.
#[derive(Debug, Clone, Default)]
struct Once(Arc<Mutex<BTreeMap<JobId, u32>>>);

impl Task for Once {
    const NAME: &'static str = "once";
    type Args = Number;
    type Output = u32;

    async fn run(&self, ctx: &Ctx, args: Number) -> Result<u32, TaskError> {
        *self.0.lock().unwrap().entry(ctx.job_id()).or_default() += 1;
        // Some are under way whenever something happens.
        tokio::time::sleep(Duration::from_millis(u64::from(args.n % 40))).await;
        Ok(args.n)
    }
}

/// Two systems on one server, under load until they are asked to show that all is well.
struct Load {
    server: Arc<PrivateServer>,
    once: Once,
    systems: [TaskSystem; 2],
    is_over: Arc<AtomicBool>,
    n_accepted: Arc<AtomicU32>,
    submitting: Option<tokio::task::JoinHandle<Vec<JobHandle<u32>>>>,
}

fn server() -> PrivateServer {
    let started = PrivateServer::start(&std::env::temp_dir(), Durability::None);
    started.unwrap_or_else(|why| panic!("{why}"))
}

impl Load {
    async fn on(server: PrivateServer, url: &str) -> Load {
        let once = Once::default();
        let start = || TaskSystem::open(url).task(once.clone()).max_workers(8).start();
        let systems = [start().await.unwrap(), start().await.unwrap()];
        let (is_over, n_accepted) = (Arc::default(), Arc::default());
        let server = Arc::new(server);
        let mut load = Load { server, once, systems, is_over, n_accepted, submitting: None };
        #[expect(clippy::disallowed_methods, reason = "a test that drives a system from outside")]
        let submitting = tokio::spawn(load.submit());
        load.submitting = Some(submitting);
        load.accept(100).await;
        load
    }

    /// Submits batches until it is over, each as often as it takes.
    fn submit(&self) -> impl Future<Output = Vec<JobHandle<u32>>> + use<> {
        let (system, once) = (self.systems[0].clone(), self.once.clone());
        let (is_over, n_accepted) = (Arc::clone(&self.is_over), Arc::clone(&self.n_accepted));
        async move {
            let mut handles = Vec::new();
            for batch in 0.. {
                let numbers = batch * 5..batch * 5 + 5;
                let jobs =
                    || numbers.clone().map(|n| once.invoke(Number { n })).collect::<Vec<_>>();
                loop {
                    match system.submit(jobs()).await {
                        Ok(accepted) => {
                            handles.extend(accepted);
                            n_accepted.fetch_add(5, Ordering::SeqCst);
                            break;
                        }
                        Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                    }
                }
                if is_over.load(Ordering::SeqCst) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            handles
        }
    }

    /// Waits until `n` more jobs are accepted.
    async fn accept(&self, n: u32) {
        let (began, until) = (Instant::now(), self.n_accepted.load(Ordering::SeqCst) + n);
        while self.n_accepted.load(Ordering::SeqCst) < until {
            assert!(began.elapsed() < PATIENCE, "nothing is accepted any more");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until a submit of `n` jobs is refused by `code`.
    async fn refuses(&self, code: &str, n: u32) {
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < PATIENCE, "nothing is refused");
            for system in &self.systems {
                let jobs: Vec<_> = (0..n).map(|n| self.once.invoke(Number { n })).collect();
                match system.submit(jobs).await {
                    Err(taskloom::Error::Store(error)) if error.code() == code => return,
                    Err(error) => println!("meanwhile: {error}"),
                    Ok(_) => {}
                }
            }
        }
    }

    /// Does something to the server from a thread that may block.
    async fn with_server<T: Send + 'static>(
        &self,
        deed: impl FnOnce(&PrivateServer) -> Result<T, String> + Send + 'static,
    ) -> T {
        let server = Arc::clone(&self.server);
        tokio::task::spawn_blocking(move || deed(&server)).await.unwrap().unwrap()
    }

    /// After the fault: new jobs are accepted, every accepted one ends, after one run, and the
    /// store is whole.
    async fn check(mut self) {
        self.accept(50).await;
        self.is_over.store(true, Ordering::SeqCst);
        let handles = self.submitting.take().unwrap().await.unwrap();
        let ids: Vec<JobId> = handles.iter().map(JobHandle::id).collect();
        let gathered = tokio::time::timeout(PATIENCE, self.systems[1].gather(handles)).await;
        gathered.expect("all of them end").unwrap();
        let ran = self.once.0.lock().unwrap().clone();
        for id in &ids {
            assert_eq!(ran.get(id), Some(&1), "of {}, {id} ran another number of times", ids.len());
        }
        let views = self.systems[0].store().get(ids).await.unwrap();
        let n_crashes: u32 = views.iter().flatten().map(|it| it.crashes).sum();
        assert_eq!(n_crashes, 0, "nobody was taken for dead");
        let breaches = self.systems[0].store().verify().await.unwrap();
        assert!(breaches.is_empty(), "{breaches:?}");
        for system in &self.systems {
            system.drain().await.unwrap();
        }
    }
}

async fn load() -> Load {
    let server = server();
    let url = server.database().unwrap();
    Load::on(server, &url).await
}

/// Waits for what systems do meanwhile: one heartbeat, or the silence that looks like death.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

impl Load {
    /// Waits until both systems are ready, or both are not and one says `code`.
    async fn until_ready(&self, ready: bool, code: &str) -> Duration {
        let began = Instant::now();
        loop {
            let health = self.systems.each_ref().map(TaskSystem::health);
            let says = health.iter().flat_map(|it| &it.reasons).any(|it| it.code == code);
            if health.iter().all(|it| it.ready == ready) && (ready || says) {
                return began.elapsed();
            }
            assert!(began.elapsed() < PATIENCE, "{health:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_whose_server_is_away_is_not_ready_within_three_seconds() {
    let load = load().await;
    load.until_ready(true, "").await;
    load.with_server(|it| it.stop(Stop::Fast)).await;
    let took = load.until_ready(false, "store.unreachable").await;
    println!("stopped: not ready after {took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    load.with_server(PrivateServer::start_again).await;
    load.until_ready(true, "").await;
    load.with_server(PrivateServer::freeze).await;
    let took = load.until_ready(false, "health.stalled").await;
    println!("frozen: not ready after {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    load.with_server(PrivateServer::thaw).await;
    load.until_ready(true, "").await;
    let server = load.systems[0].health().server.expect("it was asked");
    assert!(
        8 <= server.n_connections && server.n_connections < server.connections_max,
        "{server:?}"
    );
    load.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_goes_on_after_the_server_restarts() {
    let load = load().await;
    // Somebody waits through all of it.
    let late = load.once.invoke(Number { n: 7 }).delay("6s");
    let late = load.systems[1].submit(late).await.unwrap().into_future();
    #[expect(clippy::disallowed_methods, reason = "a test that drives a system from outside")]
    let late = tokio::spawn(late);
    load.accept(100).await;
    for stop in [Stop::Fast, Stop::Immediate] {
        load.with_server(move |it| it.stop(stop)).await;
        // Over the silence of a dead node: when all come back, nobody may look dead.
        pass(Duration::from_secs(5)).await;
        load.with_server(PrivateServer::start_again).await;
        load.accept(100).await;
    }
    let heard = tokio::time::timeout(PATIENCE, late).await.expect("it hears of the end");
    assert_eq!(heard.unwrap().unwrap(), 7);
    load.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_goes_on_while_connections_are_cut() {
    let load = load().await;
    for _ in 0..15 {
        let n = load.with_server(PrivateServer::cut).await;
        assert!(0 < n, "something was cut");
        load.accept(20).await;
    }
    load.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_goes_on_after_the_server_was_read_only() {
    let load = load().await;
    load.with_server(|it| it.set("default_transaction_read_only", Some("on"))).await;
    load.refuses("store.read_only", 1).await;
    pass(Duration::from_secs(4)).await;
    load.with_server(|it| it.set("default_transaction_read_only", None)).await;
    load.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_goes_on_after_the_server_had_too_few_connections_for_all() {
    let load = load().await;
    load.with_server(|it| it.stop(Stop::Fast)).await;
    // Each system wants four, and more to read.
    let few = ["max_connections=1", "superuser_reserved_connections=0", "max_wal_senders=0"];
    let few = few.map(|it| format!("-c {it}")).join(" ");
    load.with_server(move |it| it.start_again_with(&few)).await;
    load.refuses("store.too_many_connections", 1).await;
    pass(Duration::from_secs(4)).await;
    load.with_server(|it| it.stop(Stop::Fast)).await;
    load.with_server(PrivateServer::start_again).await;
    load.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_goes_on_after_the_role_had_no_connections_left() {
    let server = server();
    let url = server.database().unwrap().replace("postgres@", "app@");
    server.psql("db0", "CREATE ROLE app LOGIN; GRANT CREATE ON DATABASE db0 TO app").unwrap();
    let load = Load::on(server, &url).await;
    load.with_server(|it| it.psql("db0", "ALTER ROLE app CONNECTION LIMIT 1")).await;
    load.with_server(PrivateServer::cut).await;
    load.refuses("store.too_many_connections", 1).await;
    pass(Duration::from_secs(4)).await;
    load.with_server(|it| it.psql("db0", "ALTER ROLE app CONNECTION LIMIT -1")).await;
    load.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_goes_on_after_the_disk_was_full() {
    let server = server();
    let (url, folder) = match server.small_database(32) {
        Ok(made) => made,
        Err(why) => {
            println!("NOT TESTED: a full disk needs the right to mount one in memory: {why}");
            return;
        }
    };
    let load = Load::on(server, &url).await;
    let ballast = folder.join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    let filled = std::io::copy(&mut std::io::repeat(0), &mut file);
    assert_eq!(filled.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    drop(file);
    // More than fits into the pages that are there already.
    load.refuses("store.disk_full", 500).await;
    pass(Duration::from_secs(4)).await;
    std::fs::remove_file(ballast).unwrap();
    load.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_goes_on_on_another_host_of_the_list() {
    let first = server();
    let url = first.database().unwrap();
    let second = first.standby(&std::env::temp_dir()).unwrap();
    first.set("synchronous_standby_names", Some("*")).unwrap();
    let hosts = |url: &str| url.split('@').nth(1).unwrap().split('/').next().unwrap().to_owned();
    let list = format!("{},{}", hosts(&url), hosts(&second.url("db0")));
    let url = format!("postgres://postgres@{list}/db0?target_session_attrs=read-write");
    let load = Load::on(first, &url).await;
    load.with_server(|it| it.stop(Stop::Immediate)).await;
    pass(Duration::from_secs(4)).await;
    second.promote().unwrap();
    load.accept(100).await;
    assert_eq!(second.psql("db0", "SELECT pg_is_in_recovery()").unwrap(), "f");
    load.check().await;
}
