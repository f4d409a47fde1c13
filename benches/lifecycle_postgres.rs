//! The full life of no-op jobs on PostgreSQL, beside a bare tokio-postgres loop that does the same
//! row work.
//!
//! `cargo bench -p taskloom-benches --bench lifecycle_postgres [-- JOBS]` starts a private server
//! with the durability it is shipped with, and prints for each: jobs a second, the server's CPU,
//! WAL and commits a job; measured alternately in one run, so that the machine's moods fall on
//! both. Then it drains jobs that were queued before the node starts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use anyhow::{Result, anyhow};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde::{Deserialize, Serialize};
use taskloom::{Ctx, Invoke, StateName, Task, TaskError, TaskSystem};
use taskloom_benches::{cpu_seconds, family_cpu};
use taskloom_store::conformance::{Durability, PrivateServer};
use tokio_postgres::{Client, NoTls, Statement};

/// As in the shipped binary; the bare loop has it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: u32 = 1_000;
const ROUNDS: usize = 3;
/// As many as the bare loop has in a batch.
const SLOTS: usize = 1_000;
/// Submits under way at once, so that one is ready when a commit ends.
const SUBMITTERS: usize = 4;
/// Jobs accepted or on their way that have not run yet.
const BACKLOG_MAX: u32 = 6 * BATCH;
/// Jobs of the drain.
const QUEUED: u32 = 20_000;
const SCHEMA: &str = include_str!("../crates/store/src/postgres/schema.sql");

fn main() -> Result<()> {
    let n_jobs = std::env::args().filter_map(|it| it.parse().ok()).next().unwrap_or(50_000);
    let runtime = tokio::runtime::Runtime::new()?;
    let folder = tempfile::tempdir_in(".")?;
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    // A socket has a short name; the data lie where the sockets do.
    let parent = folder.path().canonicalize()?;
    let server = PrivateServer::start(&parent, Durability::Default).map_err(|it| anyhow!(it))?;
    println!("{n_jobs} jobs, 100 bytes of arguments, default durability, batches of {BATCH}");
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let url = server.database().map_err(|it| anyhow!(it))?;
        let bare = measured("bare loop", &server, n_jobs, || runtime.block_on(bare(&url, n_jobs)))?;
        let url = server.database().map_err(|it| anyhow!(it))?;
        let ours = measured("taskloom", &server, n_jobs, || runtime.block_on(ours(&url, n_jobs)))?;
        ratios.push(ours / bare);
        let url = server.database().map_err(|it| anyhow!(it))?;
        runtime.block_on(queue(&url))?;
        measured("drain", &server, QUEUED, || runtime.block_on(drain(&url)))?;
    }
    ratios.sort_by(f64::total_cmp);
    println!("ratio (median of {ROUNDS}): {:.2}", ratios[ROUNDS / 2]);
    Ok(())
}

/// Runs and tells of it; returns jobs a second.
fn measured(
    name: &str,
    server: &PrivateServer,
    n_jobs: u32,
    run: impl FnOnce() -> Result<()>,
) -> Result<f64> {
    let before = Used::now(server)?;
    let (began, client) = (Instant::now(), cpu_seconds("self"));
    run()?;
    let (took, client) = (began.elapsed().as_secs_f64(), cpu_seconds("self") - client);
    let after = Used::now(server)?;
    let n = f64::from(n_jobs);
    println!(
        "{name:<10} {:>7.0} jobs/s  server {:>5.1} µs CPU  client {:>5.1} µs  {:>6.0} B WAL  \
         {:.4} commits a job",
        n / took,
        (after.cpu - before.cpu) * 1e6 / n,
        client * 1e6 / n,
        (after.wal - before.wal) / n,
        (after.commits - before.commits) / n,
    );
    Ok(n / took)
}

/// What the server has used so far.
struct Used {
    cpu: f64,
    wal: f64,
    commits: f64,
}

impl Used {
    fn now(server: &PrivateServer) -> Result<Used> {
        let said = |sql: &str| server.psql("postgres", sql).map_err(|it| anyhow!(it));
        Ok(Used {
            cpu: family_cpu(server.pid().map_err(|it| anyhow!(it))?),
            wal: said("SELECT pg_current_wal_lsn() - '0/0'")?.parse()?,
            commits: said("SELECT sum(xact_commit) FROM pg_stat_database")?.parse()?,
        })
    }
}

struct Bare {
    client: Client,
    add_jobs: Statement,
    add_hot: Statement,
    claim: Statement,
    finish: Statement,
    add_events: Statement,
}

const ADD_JOBS: &str = "INSERT INTO jobs (job, created, lane, policy, rank, args) \
     SELECT job, 1700000000000, 1, 1, 9, args FROM unnest($1::bigint[], $2::text[]) AS u(job, args)";
const ADD_HOT: &str = "INSERT INTO hot (job, fence, lane, attempts, crashes, snoozes, rank, state, flags) \
     SELECT job, 0, 1, 0, 0, 0, 9, 2, 0 FROM unnest($1::bigint[]) AS u(job)";
const CLAIM: &str = "WITH taken AS (UPDATE hot SET state = 3, node = 1, started = 1, \
     fence = fence + 1, attempts = attempts + 1 \
     WHERE job = ANY(ARRAY(SELECT job FROM hot WHERE state = 2 AND lane = 1 \
     ORDER BY rank, job LIMIT $1 FOR UPDATE SKIP LOCKED)) RETURNING job, fence) \
     SELECT t.job, t.fence, j.args FROM taken t JOIN jobs j ON j.job = t.job";
const FINISH: &str = "WITH gone AS (DELETE FROM hot h USING unnest($1::bigint[]) AS e(job) \
     WHERE h.job = e.job RETURNING h.job, h.fence) \
     INSERT INTO ended (job, at, fence, node, started, attempts, crashes, snoozes, state, outcome, \
     result) SELECT job, 1700000000000, fence, 1, 1700000000000, 1, 0, 0, 5, 0, 'null' FROM gone";
const ADD_EVENTS: &str = "INSERT INTO events (first, at, n, body) \
     VALUES (pg_current_xact_id()::text::bigint << 20, 1, 3000, $1)";

/// The tables of the store without its parts: the ideal pays nothing for what it doesn't use.
fn plain_schema() -> String {
    let tables = SCHEMA.split("CREATE TABLE parts").next().unwrap_or(SCHEMA);
    tables.replace(
        ") PARTITION BY RANGE (job);",
        ") WITH (autovacuum_vacuum_insert_scale_factor = 0.5);",
    )
}

/// Finish the last batch, insert, and claim, in one commit: the row work of a life, and no more.
async fn bare(url: &str, n_jobs: u32) -> Result<()> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let driving = async { connection.await.map_err(anyhow::Error::from) };
    let work = async {
        client
            .batch_execute(
                "CREATE SCHEMA taskloom; SET search_path = taskloom; \
                 SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; \
                 SET enable_hashjoin = off; SET enable_mergejoin = off",
            )
            .await?;
        client.batch_execute(&plain_schema()).await?;
        let bare = Bare {
            add_jobs: client.prepare(ADD_JOBS).await?,
            add_hot: client.prepare(ADD_HOT).await?,
            claim: client.prepare(CLAIM).await?,
            finish: client.prepare(FINISH).await?,
            add_events: client.prepare(ADD_EVENTS).await?,
            client,
        };
        bare.run(n_jobs).await
    };
    // The connection ends when the work has dropped the client.
    futures::try_join!(driving, work)?;
    Ok(())
}

impl Bare {
    async fn run(self, n_jobs: u32) -> Result<()> {
        let events = vec![7_u8; 30 * usize::try_from(BATCH)?];
        let args = format!("{{\"pad\":\"{}\"}}", "x".repeat(90));
        let (mut claimed, mut next): (Vec<i64>, u32) = (Vec::new(), 0);
        let client = &self.client;
        while next < n_jobs || !claimed.is_empty() {
            let n = BATCH.min(n_jobs - next);
            let jobs: Vec<i64> = (next..next + n).map(i64::from).collect();
            let texts: Vec<&str> = jobs.iter().map(|_| args.as_str()).collect();
            next += n;
            let rows = {
                let (limit, claimed) = (i64::from(BATCH), &claimed);
                let (add_jobs, add_hot): ([&(dyn tokio_postgres::types::ToSql + Sync); 2], _) =
                    ([&jobs, &texts], [&jobs as &(dyn tokio_postgres::types::ToSql + Sync)]);
                let finish = [claimed as &(dyn tokio_postgres::types::ToSql + Sync)];
                let claim = [&limit as &(dyn tokio_postgres::types::ToSql + Sync)];
                let put = [&events as &(dyn tokio_postgres::types::ToSql + Sync)];
                let done = futures::try_join!(
                    client.batch_execute("BEGIN"),
                    client.execute(&self.finish, &finish),
                    client.execute(&self.add_jobs, &add_jobs),
                    client.execute(&self.add_hot, &add_hot),
                    client.query(&self.claim, &claim),
                    client.execute(&self.add_events, &put),
                    client.batch_execute("COMMIT"),
                )?;
                done.4
            };
            claimed = rows.iter().map(|row| row.get(0)).collect();
            claimed.sort_unstable();
            for row in &rows {
                std::hint::black_box(row.get::<_, &str>(2).to_owned());
            }
        }
        Ok(())
    }
}

/// A task that does nothing.
#[derive(Debug)]
struct Noop(Arc<AtomicU32>);

#[derive(Debug, Serialize, Deserialize)]
struct Pad {
    pad: String,
}

impl Task for Noop {
    const NAME: &'static str = "noop";
    type Args = Pad;
    type Output = ();

    async fn run(&self, _ctx: &Ctx, _pad: Pad) -> Result<(), TaskError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn pads(template: &Noop, n: u32) -> Vec<taskloom::Invocation<()>> {
    (0..n).map(|_| template.invoke(Pad { pad: "x".repeat(90) })).collect()
}

/// Submits in batches while a node works, until the last job has succeeded.
async fn ours(url: &str, n_jobs: u32) -> Result<()> {
    let noop = Noop(Arc::default());
    let template = Noop(Arc::clone(&noop.0));
    let system = TaskSystem::open(url).task(noop).max_workers(SLOTS).start().await?;
    let mut changed = system.store().notices().changed;
    let mut submits = FuturesUnordered::new();
    let mut n_submitted = 0;
    while n_submitted < n_jobs {
        let n_running = n_submitted - template.0.load(Ordering::Relaxed).min(n_submitted);
        if n_running < BACKLOG_MAX && submits.len() < SUBMITTERS {
            let n = BATCH.min(n_jobs - n_submitted);
            submits.push(system.submit(pads(&template, n)));
            n_submitted += n;
            continue;
        }
        tokio::select! {
            Some(submitted) = submits.next() => drop(submitted?),
            noticed = changed.changed() => noticed?,
        }
    }
    while let Some(submitted) = submits.next().await {
        submitted?;
    }
    all_succeeded(&system, n_jobs).await?;
    system.drain().await?;
    Ok(())
}

async fn all_succeeded(system: &TaskSystem, n_jobs: u32) -> Result<()> {
    let mut changed = system.store().notices().changed;
    loop {
        changed.borrow_and_update();
        let counts = system.store().counts().await?;
        let succeeded = counts.iter().filter(|it| it.state == StateName::Succeeded);
        if u64::from(n_jobs) <= succeeded.map(|it| it.n).sum() {
            return Ok(());
        }
        changed.changed().await?;
    }
}

async fn queue(url: &str) -> Result<()> {
    let template = Noop(Arc::default());
    let system = TaskSystem::open(url).connect().await?;
    for _ in 0..QUEUED / BATCH {
        system.submit(pads(&template, BATCH)).await?;
    }
    Ok(())
}

async fn drain(url: &str) -> Result<()> {
    let noop = Noop(Arc::default());
    let system = TaskSystem::open(url).task(noop).max_workers(SLOTS).start().await?;
    all_succeeded(&system, QUEUED).await?;
    system.drain().await?;
    Ok(())
}
