//! The bench by default: the whole life of no-op jobs in one process.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::Result;
use futures::future::try_join_all;
use serde::Serialize;
use taskloom::TaskSystem;

use super::load::{Noop, Percentiles, all_succeeded, invocation, nanos, rounded, submit_all};
use super::place::Bench;
use super::server::{ServerCost, Watch};
use crate::args::BenchArgs;
use crate::print;

/// How many jobs are timed one by one.
const N_SINGLE: u32 = 300;
/// How many single submits come before those that count, and how many of those there are: the look
/// at the server costs it something too.
const N_WARM: u32 = 50;
const N_COUNTED: u32 = 1_000;
/// How many callers submit one job each at the same time.
const N_CALLERS: u32 = 1_000;

#[derive(Debug, Serialize)]
pub(super) struct Report {
    jobs: u32,
    args_bytes: u32,
    workers: usize,
    /// Submit, claim, run, finish, all durable.
    jobs_per_s: f64,
    /// Jobs that were queued beforehand.
    drain_per_s: f64,
    /// User and system time of the whole process, over the full lifecycle.
    cpu_us_per_job: f64,
    commits_per_job: f64,
    /// One caller at a time on an idle system, from before the submit.
    submit_to_start_ms: Percentiles,
    submit_to_done_ms: Percentiles,
    /// The submit alone: one commit.
    submit_ms: Percentiles,
    /// From the acknowledged submit to the start; below 0 when the start came first.
    start_after_submit_ms: Percentiles,
    /// Callers that each submit one job at the same time.
    concurrent_submits_per_s: f64,
    rss_peak_mb: f64,
    /// What the server used for a whole life, and for a submit alone; not on a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    server_per_job: Option<ServerCost>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_per_submit: Option<ServerCost>,
    store: String,
    synchronous: &'static str,
}

pub(super) async fn measure(bench: &Bench, args: &BenchArgs) -> Result<Report> {
    let url = bench.url.as_str();
    let (noop, load) = (Noop::timing(N_SINGLE), (args.jobs, args.args_bytes));
    let before = TaskSystem::open(url).connect().await?;
    // The first ones pay for what a new connection has to learn.
    let mut submitting = Watch::begin(bench).await?;
    for n in 0..N_WARM + N_COUNTED {
        if n == N_WARM {
            submitting = Watch::begin(bench).await?;
        }
        before.submit(invocation(&noop, u32::MAX, args.args_bytes)).await?;
    }
    let server_per_submit = submitting.end(N_COUNTED).await?;
    submit_all(&before, &noop, load).await?;
    drop(before);
    let n_queued = args.jobs + N_WARM + N_COUNTED;

    let builder = TaskSystem::open(url).without_registered_tasks().task(noop.clone());
    let began = Instant::now();
    let system = builder.max_workers(args.workers).start().await?;
    let store = Arc::clone(system.store());
    all_succeeded(&store, u64::from(n_queued)).await?;
    let drain_per_s = f64::from(n_queued) / began.elapsed().as_secs_f64();

    let living = Watch::begin(bench).await?;
    let (began, cpu, commits) = (Instant::now(), cpu_seconds(), store.info().n_commits);
    submit_all(&system, &noop, load).await?;
    all_succeeded(&store, u64::from(n_queued + args.jobs)).await?;
    let jobs_per_s = f64::from(args.jobs) / began.elapsed().as_secs_f64();
    let cpu_us_per_job = (cpu_seconds() - cpu) * 1e6 / f64::from(args.jobs);
    let n_commits = u32::try_from(store.info().n_commits - commits).unwrap_or(u32::MAX);

    let server_per_job = living.end(args.jobs).await?;

    let single = one_by_one(&system, &noop, args).await?;
    let began = Instant::now();
    let submits =
        (0..N_CALLERS).map(|_| system.submit(invocation(&noop, u32::MAX, args.args_bytes)));
    try_join_all(submits).await?;
    let concurrent_submits_per_s = f64::from(N_CALLERS) / began.elapsed().as_secs_f64();
    system.drain().await?;
    let info = store.info();
    Ok(Report {
        jobs: args.jobs,
        args_bytes: args.args_bytes,
        workers: args.workers,
        jobs_per_s: jobs_per_s.round(),
        drain_per_s: drain_per_s.round(),
        cpu_us_per_job: rounded(cpu_us_per_job),
        commits_per_job: f64::from(n_commits) / f64::from(args.jobs),
        submit_to_start_ms: Percentiles::of(single.to_start),
        submit_to_done_ms: Percentiles::of(single.to_done),
        submit_ms: Percentiles::of(single.submit),
        start_after_submit_ms: Percentiles::of(single.start_after_submit),
        concurrent_submits_per_s: concurrent_submits_per_s.round(),
        rss_peak_mb: rounded(rss_peak_mb()),
        server_per_job,
        server_per_submit,
        store: info.store,
        synchronous: info.synchronous,
    })
}

#[derive(Debug, Default)]
struct Single {
    to_start: Vec<f64>,
    to_done: Vec<f64>,
    submit: Vec<f64>,
    start_after_submit: Vec<f64>,
}

async fn one_by_one(system: &TaskSystem, noop: &Noop, args: &BenchArgs) -> Result<Single> {
    let mut single = Single::default();
    let millis = |nanos: u64| rounded(nanos as f64 / 1e6);
    for n in 0..N_SINGLE {
        let before = nanos(noop.noted.zero);
        let handle = system.submit(invocation(noop, n, args.args_bytes)).await?;
        let submitted = nanos(noop.noted.zero);
        handle.await?;
        let done = nanos(noop.noted.zero);
        let place = usize::try_from(n)?;
        let begun = noop.noted.begun[place].load(Ordering::Acquire);
        single.to_start.push(millis(begun.saturating_sub(before)));
        single.to_done.push(millis(done - before));
        single.submit.push(millis(submitted - before));
        let after = begun as f64 - submitted as f64;
        single.start_after_submit.push(after / 1e6);
    }
    Ok(single)
}

/// User and system time of the threads of this process.
fn cpu_seconds() -> f64 {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return 0.0 };
    let nanos: u64 = threads
        .flatten()
        .filter_map(|it| std::fs::read_to_string(it.path().join("schedstat")).ok())
        .filter_map(|it| it.split(' ').next()?.parse::<u64>().ok())
        .sum();
    nanos as f64 / 1e9
}

fn rss_peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|it| it.strip_prefix("VmHWM:"));
    let kib = line.and_then(|it| it.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

pub(super) fn tell(report: &Report) -> Result<()> {
    let whole = |rate: f64| print::grouped(rate as u64);
    let mut table = print::table(["measured", "value"]);
    for (name, value) in [
        ("full lifecycle", format!("{} jobs/s", whole(report.jobs_per_s))),
        ("drain of queued jobs", format!("{} jobs/s", whole(report.drain_per_s))),
        ("CPU", format!("{:.1} µs a job", report.cpu_us_per_job)),
        ("commits", format!("{:.4} a job", report.commits_per_job)),
        ("submit (p50 / p95 / p99)", report.submit_ms.text()),
        ("submit → start", report.submit_to_start_ms.text()),
        ("submit → done", report.submit_to_done_ms.text()),
        ("1,000 callers", format!("{} submits/s", whole(report.concurrent_submits_per_s))),
        ("peak memory", format!("{:.0} MB", report.rss_peak_mb)),
        ("store", report.store.clone()),
        ("synchronous", report.synchronous.to_owned()),
    ] {
        table.add_row(vec![name.to_owned(), value]);
    }
    for (name, cost) in [
        ("server, a job", &report.server_per_job),
        ("server, a single submit", &report.server_per_submit),
    ] {
        table.add_rows(cost.iter().map(|it| vec![name.to_owned(), it.text()]));
    }
    let jobs = print::grouped(u64::from(report.jobs));
    print::line(format!("{jobs} no-op jobs with {} bytes of arguments", report.args_bytes))?;
    print::line(table.to_string())
}
