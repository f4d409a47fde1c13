//! `--processes`: how much more jobs a second more worker processes do.

use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use taskloom::{Store, TaskSystem};
use taskloom_flow::Every;
use tokio::process::{Child, Command};

use super::load::{Noop, all_succeeded, submit_all};
use super::place::Bench;
use super::server::{ServerCost, Watch};
use crate::args::{BenchArgs, BenchWorkerArgs};
use crate::print;

/// How often it is looked whether all workers are there.
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug, Serialize)]
pub(super) struct Report {
    processes: u32,
    workers: usize,
    task_ms: u64,
    jobs: u32,
    /// Submitted by this process, run by the others.
    jobs_per_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_per_job: Option<ServerCost>,
}

pub(super) async fn measure(bench: &Bench, args: &BenchArgs, n: u32) -> Result<Report> {
    let system = TaskSystem::open(&bench.url).connect().await?;
    let mut workers = Vec::new();
    for _ in 0..n {
        workers.push(start(bench, args)?);
    }
    all_there(system.store(), &mut workers).await?;
    let (noop, watch) = (Noop::timing(0), Watch::begin(bench).await?);
    let began = Instant::now();
    submit_all(&system, &noop, (args.jobs, args.args_bytes)).await?;
    all_succeeded(system.store(), u64::from(args.jobs)).await?;
    let took = began.elapsed();
    let server_per_job = watch.end(args.jobs).await?;
    for mut worker in workers {
        drop(worker.stdin.take());
        worker.wait().await?;
    }
    Ok(Report {
        processes: n,
        workers: args.workers,
        task_ms: args.task_ms,
        jobs: args.jobs,
        jobs_per_s: (f64::from(args.jobs) / took.as_secs_f64()).round(),
        server_per_job,
    })
}

fn start(bench: &Bench, args: &BenchArgs) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--store", &bench.url, "bench-worker"]);
    command.arg("--workers").arg(args.workers.to_string());
    command.arg("--task-ms").arg(args.task_ms.to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true);
    command.spawn().context("a worker process can't be started")
}

/// Waits until every worker is registered.
async fn all_there(store: &Arc<dyn Store>, workers: &mut [Child]) -> Result<()> {
    let mut every = Every::new(LOOK_EVERY);
    while store.nodes().await?.len() < workers.len() {
        every.tick().await;
        for worker in workers.iter_mut() {
            if let Some(end) = worker.try_wait()? {
                anyhow::bail!("a worker process has ended: {end}");
            }
        }
    }
    Ok(())
}

/// The hidden command: a node that runs the jobs of a bench until its standard input ends.
pub(crate) async fn work(store: &str, args: BenchWorkerArgs) -> Result<ExitCode> {
    let noop = Noop::sleeping(Duration::from_millis(args.task_ms));
    let builder = TaskSystem::open(store).without_registered_tasks().task(noop);
    let system = builder.max_workers(args.workers).start().await?;
    tokio::task::spawn_blocking(|| std::io::read_to_string(std::io::stdin())).await??;
    system.drain().await?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn tell(report: &Report) -> Result<()> {
    let mut table = print::table(["measured", "value"]);
    table.add_row(vec!["processes".to_owned(), report.processes.to_string()]);
    table.add_row(vec!["slots of each".to_owned(), report.workers.to_string()]);
    table.add_row(vec!["a job sleeps".to_owned(), format!("{} ms", report.task_ms)]);
    let rate = print::grouped(report.jobs_per_s as u64);
    table.add_row(vec!["throughput".to_owned(), format!("{rate} jobs/s")]);
    let cost = report.server_per_job.iter();
    table.add_rows(cost.map(|it| vec!["server, a job".to_owned(), it.text()]));
    print::line(table.to_string())
}
