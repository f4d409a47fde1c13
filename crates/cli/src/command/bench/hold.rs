//! `--hold`: throughput and the cost of a claim while a transaction is held open that keeps the
//! server from cleaning up after deletions.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use taskloom::torture::{Hold, hold};
use taskloom::{TaskSystem, torture};
use taskloom_flow::{Every, TaskGroup};

use super::load::{BATCH, Noop, Percentiles, invocation, rounded};
use super::place::Bench;
use super::server::Watch;
use crate::args::BenchArgs;
use crate::exit::Usage;
use crate::print;

/// How long one line of the table is.
const WINDOW: Duration = Duration::from_secs(10);
/// Jobs accepted that have not run yet.
const BACKLOG: u32 = 6 * BATCH;
/// How often a claim is timed.
const CLAIM_EVERY: Duration = Duration::from_millis(100);
const LOOK_EVERY: Duration = Duration::from_millis(2);

#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// The first is without the transaction.
    windows: Vec<Window>,
}

#[derive(Debug, Serialize)]
struct Window {
    /// From the begin of the transaction.
    at_s: u64,
    is_held: bool,
    jobs_per_s: f64,
    /// Of one job, by another process than the one under load.
    claim_ms: Percentiles,
    server_us_per_job: Option<f64>,
}

pub(super) async fn measure(bench: &Bench, args: &BenchArgs, secs: u64) -> Result<Report> {
    if !bench.is_server {
        let message = "--hold is about PostgreSQL: give --store postgres://USER@HOST/DATABASE";
        return Err(Usage(message.into()).into());
    }
    let noop = Noop::timing(0);
    let builder = TaskSystem::open(&bench.url).without_registered_tasks().task(noop.clone());
    let system = builder.max_workers(args.workers).start().await?;
    let load = TaskGroup::isolated();
    load.spawn("load", keep_busy(system.clone(), noop.clone(), args.args_bytes));
    let prober = Prober::new(bench).await?;
    // The begin is none of what is measured.
    window(bench, (&noop, &prober), (0, false)).await?;
    let mut windows = vec![window(bench, (&noop, &prober), (0, false)).await?];
    let _held = hold(bench.url.clone(), Hold::Snapshot).await?;
    for at in 0..secs.div_ceil(WINDOW.as_secs()) {
        let place = (at * WINDOW.as_secs(), true);
        windows.push(window(bench, (&noop, &prober), place).await?);
    }
    load.drain(Duration::ZERO).await;
    prober.end().await?;
    system.drain().await?;
    Ok(Report { windows })
}

/// Submits whenever few jobs are left.
async fn keep_busy(system: TaskSystem, noop: Noop, args_bytes: u32) {
    let (mut n_submitted, mut every) = (0_u32, Every::new(LOOK_EVERY));
    loop {
        while n_submitted.wrapping_sub(noop.noted.n.load(Ordering::Relaxed)) < BACKLOG {
            let jobs: Vec<_> =
                (0..BATCH).map(|_| invocation(&noop, u32::MAX, args_bytes)).collect();
            match system.submit(jobs).await {
                Ok(_) => n_submitted = n_submitted.wrapping_add(BATCH),
                Err(error) => tracing::warn!(%error, "a submit was refused"),
            }
        }
        every.tick().await;
    }
}

/// A second process, as far as the server can tell, that claims a job now and then.
struct Prober {
    system: TaskSystem,
    node: taskloom::NodeId,
    demand: torture::Demand,
}

impl Prober {
    async fn new(bench: &Bench) -> Result<Prober> {
        let system = TaskSystem::open(&bench.url).connect().await?;
        let tasks: Arc<[Arc<str>]> = [Arc::from(<Noop as taskloom::Task>::NAME)].into();
        let (name, pid) = ("bench".into(), std::process::id());
        let new = torture::NewNode { name, pid, tasks: tasks.to_vec() };
        let node = system.store().register(new).await?;
        let queues = torture::Queues::Except(Arc::from([]));
        Ok(Prober { system, node, demand: torture::Demand { queues, tasks, n: 1 } })
    }

    /// Times one claim, in milliseconds, and gives back what it took.
    async fn claim(&self) -> Result<f64> {
        let store = self.system.store();
        // One that gives no sign of life would be taken for dead, and get nothing.
        store.heartbeat(torture::Beat { node: self.node, signs: Vec::new() }).await?;
        let began = Instant::now();
        let claimed = store.claim(self.node, vec![self.demand.clone()]).await?;
        let took = began.elapsed().as_secs_f64() * 1e3;
        store.release(self.node, claimed.iter().map(|it| (it.id, it.fence)).collect()).await?;
        Ok(rounded(took))
    }

    async fn end(self) -> Result<()> {
        Ok(self.system.store().retire(self.node).await?)
    }
}

async fn window(
    bench: &Bench,
    (noop, prober): (&Noop, &Prober),
    (at_s, is_held): (u64, bool),
) -> Result<Window> {
    let (watch, n_before, began) =
        (Watch::begin(bench).await?, noop.noted.n.load(Ordering::Relaxed), Instant::now());
    let (mut millis, mut every) = (Vec::new(), Every::new(CLAIM_EVERY));
    while began.elapsed() < WINDOW {
        every.tick().await;
        millis.push(prober.claim().await?);
    }
    let n = noop.noted.n.load(Ordering::Relaxed).wrapping_sub(n_before);
    let jobs_per_s = (f64::from(n) / began.elapsed().as_secs_f64()).round();
    let server_us_per_job = watch.end(n.max(1)).await?.and_then(|it| it.cpu_us());
    Ok(Window { at_s, is_held, jobs_per_s, claim_ms: Percentiles::of(millis), server_us_per_job })
}

pub(super) fn tell(report: &Report) -> Result<()> {
    let heads = ["s", "held", "jobs/s", "claim (p50 / p95 / p99)", "server CPU"];
    let mut table = print::table(heads);
    for it in &report.windows {
        let held = if it.is_held { "yes" } else { "no" };
        let cpu =
            it.server_us_per_job.map_or("unseen".to_owned(), |it| format!("{it:.1} µs a job"));
        let rate = print::grouped(it.jobs_per_s as u64);
        table.add_row(vec![it.at_s.to_string(), held.into(), rate, it.claim_ms.text(), cpu]);
    }
    print::line(table.to_string())
}
