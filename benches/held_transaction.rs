//! What a transaction that somebody else holds open costs: full lifecycles on a private
//! PostgreSQL, with and then without room to clean up behind them.
//!
//! `cargo bench -p taskloom-benches --bench held_transaction -- [SECONDS]`: so long it is held, 60
//! unless said otherwise, after 20 seconds without.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde::{Deserialize, Serialize};
use taskloom::{Ctx, Invoke, Task, TaskError, TaskSystem};
use taskloom_benches::family_cpu;
use taskloom_store::conformance::{Durability, PrivateServer};
use tokio::time::{Instant, sleep_until};
use tokio_postgres::NoTls;

/// As in the shipped binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: u32 = 1_000;
const SLOTS: usize = 1_000;
const SUBMITTERS: usize = 4;
const BACKLOG_MAX: u32 = 6 * BATCH;
/// A line of the curve.
const LINE: Duration = Duration::from_secs(10);
const FREE_LINES: u32 = 2;

fn main() -> Result<()> {
    let held_s: u64 = std::env::args().filter_map(|it| it.parse().ok()).next().unwrap_or(60);
    let runtime = tokio::runtime::Runtime::new()?;
    let folder = tempfile::tempdir_in(".")?;
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let parent = folder.path().canonicalize()?;
    let server = PrivateServer::start(&parent, Durability::Default).map_err(|it| anyhow!(it))?;
    let url = server.database().map_err(|it| anyhow!(it))?;
    runtime.block_on(curve(&server, &url, Duration::from_secs(held_s)))
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

async fn curve(server: &PrivateServer, url: &str, held: Duration) -> Result<()> {
    let noop = Noop(Arc::default());
    let n_run = Arc::clone(&noop.0);
    let system = TaskSystem::open(url).task(noop).max_workers(SLOTS).start().await?;
    let is_over = AtomicBool::new(false);
    let load = load(&system, &n_run, &is_over);
    let watch = async {
        println!("seconds  held  jobs/s  server µs CPU a job  dead rows of hot");
        let began = Instant::now();
        lines(server, &n_run, began, (FREE_LINES, "no")).await?;
        let (holder, connection) = tokio_postgres::connect(url, NoTls).await?;
        let holding = async {
            holder
                .batch_execute(
                    "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id(); \
                     SELECT count(*) FROM taskloom.meta",
                )
                .await?;
            let n_lines = u32::try_from(held.as_secs() / LINE.as_secs())?;
            lines(server, &n_run, began, (n_lines, "yes")).await?;
            holder.batch_execute("ROLLBACK").await?;
            drop(holder);
            anyhow::Ok(())
        };
        let driving = async { connection.await.map_err(anyhow::Error::from) };
        futures::try_join!(driving, holding)?;
        lines(server, &n_run, began, (FREE_LINES, "no")).await?;
        is_over.store(true, Ordering::Relaxed);
        anyhow::Ok(())
    };
    futures::try_join!(load, watch)?;
    system.drain().await?;
    Ok(())
}

/// Prints some lines of the curve.
async fn lines(
    server: &PrivateServer,
    n_run: &AtomicU32,
    began: Instant,
    (n, held): (u32, &str),
) -> Result<()> {
    let pid = server.pid().map_err(|it| anyhow!(it))?;
    let mut next = Instant::now();
    for _ in 0..n {
        let (run, cpu) = (n_run.load(Ordering::Relaxed), family_cpu(pid));
        next += LINE;
        sleep_until(next).await;
        let run = f64::from(n_run.load(Ordering::Relaxed) - run);
        let cpu = family_cpu(pid) - cpu;
        let dead = "SELECT pg_stat_get_dead_tuples('taskloom.hot'::regclass)";
        let dead = server.psql("db0", dead).map_err(|it| anyhow!(it))?;
        let rate = run / LINE.as_secs_f64();
        let at = began.elapsed().as_secs();
        println!("{at:>7}  {held:>4}  {rate:>6.0}  {:>19.1}  {dead:>16}", cpu * 1e6 / run);
    }
    Ok(())
}

/// Keeps jobs coming until it is over.
async fn load(system: &TaskSystem, n_run: &AtomicU32, is_over: &AtomicBool) -> Result<()> {
    let template = Noop(Arc::default());
    let mut changed = system.store().notices().changed;
    let mut submits = FuturesUnordered::new();
    let mut n_submitted = 0;
    while !is_over.load(Ordering::Relaxed) {
        let n_waiting = n_submitted - n_run.load(Ordering::Relaxed).min(n_submitted);
        if n_waiting < BACKLOG_MAX && submits.len() < SUBMITTERS {
            let pads = (0..BATCH).map(|_| template.invoke(Pad { pad: "x".repeat(90) }));
            submits.push(system.submit(pads.collect::<Vec<_>>()));
            n_submitted += BATCH;
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
    Ok(())
}
