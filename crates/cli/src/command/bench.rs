//! `taskloom bench`: what this machine does, on a real file with the durability asked for.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use futures::StreamExt;
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use taskloom::{Ctx, Invocation, Invoke, StateName, Store, Task, TaskError, TaskSystem};

use super::Place;
use crate::args::BenchArgs;
use crate::print;

/// How many jobs one submit carries where the rate is measured.
const BATCH: u32 = 1_000;
/// Submits under way at once, so that one is ready when a commit ends.
const SUBMITTERS: usize = 4;
/// How many jobs are timed one by one.
const N_SINGLE: u32 = 300;
/// How many callers submit one job each at the same time.
const N_CALLERS: u32 = 1_000;

/// A task that notes when it began, and does nothing.
#[derive(Debug, Clone)]
struct Noop(Arc<Noted>);

#[derive(Debug)]
struct Noted {
    zero: Instant,
    n: AtomicU32,
    /// Nanoseconds after `zero`, by the number of the job; 0: not begun. For the timed ones.
    begun: Vec<AtomicU64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct NoopArgs {
    n: u32,
    pad: String,
}

impl Task for Noop {
    const NAME: &'static str = "bench_noop";
    type Args = NoopArgs;
    type Output = ();

    async fn run(&self, _ctx: &Ctx, args: NoopArgs) -> Result<(), TaskError> {
        if let Some(begun) = usize::try_from(args.n).ok().and_then(|n| self.0.begun.get(n)) {
            begun.store(nanos(self.0.zero), Ordering::Release);
        }
        self.0.n.fetch_add(1, Ordering::Release);
        Ok(())
    }
}

fn nanos(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Milliseconds at three places of a distribution.
#[derive(Debug, Serialize)]
struct Percentiles {
    p50: f64,
    p95: f64,
    p99: f64,
}

impl Percentiles {
    fn of(mut millis: Vec<f64>) -> Percentiles {
        millis.sort_by(f64::total_cmp);
        let at = |percent: usize| {
            let place = (millis.len() * percent).div_ceil(100).saturating_sub(1);
            millis.get(place).map_or(0.0, |it| rounded(*it))
        };
        Percentiles { p50: at(50), p95: at(95), p99: at(99) }
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

#[derive(Debug, Serialize)]
struct Report {
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
    store: String,
    synchronous: &'static str,
}

pub(super) async fn run(place: &Place, args: BenchArgs) -> Result<ExitCode> {
    let folder = Folder::new(args.folder.clone())?;
    let url = format!("sqlite://{}", folder.0.join("bench.db").display());
    let url = match place.store.split_once('?') {
        Some((_, settings)) => format!("{url}?{settings}"),
        None => url,
    };
    let report = measure(&url, &args).await?;
    if place.json {
        print::json(&report)?;
    } else {
        tell(&report)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The folder of the store; a temporary one is removed at the end.
#[derive(Debug)]
struct Folder(PathBuf, bool);

impl Folder {
    fn new(named: Option<PathBuf>) -> Result<Folder> {
        let is_temporary = named.is_none();
        // Beside the working directory, not in memory-backed /tmp: the disk is what is measured.
        let name = format!(".taskloom-bench-{}", std::process::id());
        let folder = named.unwrap_or_else(|| PathBuf::from(name));
        if folder.join("bench.db").exists() {
            let folder = folder.display();
            let message = format!("{folder} holds a bench.db already; remove it or name another");
            return Err(crate::exit::Usage(message).into());
        }
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(Folder(folder, is_temporary))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.1 {
            std::fs::remove_dir_all(&self.0).ok();
        }
    }
}

async fn measure(url: &str, args: &BenchArgs) -> Result<Report> {
    let noted = Arc::new(Noted {
        zero: Instant::now(),
        n: AtomicU32::new(0),
        begun: (0..N_SINGLE).map(|_| AtomicU64::new(0)).collect(),
    });
    let noop = Noop(Arc::clone(&noted));
    let before = TaskSystem::open(url).connect().await?;
    let store = Arc::clone(before.store());
    submit_all(&before, &noop, args).await?;
    drop(store);
    drop(before);

    let builder = TaskSystem::open(url).without_registered_tasks().task(noop.clone());
    let began = Instant::now();
    let system = builder.max_workers(args.workers).start().await?;
    let store = Arc::clone(system.store());
    all_succeeded(&store, u64::from(args.jobs)).await?;
    let drain_per_s = f64::from(args.jobs) / began.elapsed().as_secs_f64();

    let (began, cpu, commits) = (Instant::now(), cpu_seconds(), store.info().n_commits);
    submit_all(&system, &noop, args).await?;
    all_succeeded(&store, 2 * u64::from(args.jobs)).await?;
    let jobs_per_s = f64::from(args.jobs) / began.elapsed().as_secs_f64();
    let cpu_us_per_job = (cpu_seconds() - cpu) * 1e6 / f64::from(args.jobs);
    let n_commits = u32::try_from(store.info().n_commits - commits).unwrap_or(u32::MAX);

    let single = one_by_one(&system, &noop, args).await?;
    let began = Instant::now();
    let submits = (0..N_CALLERS).map(|_| system.submit(invocation(&noop, u32::MAX, args)));
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
        store: info.store,
        synchronous: info.synchronous,
    })
}

fn invocation(noop: &Noop, n: u32, args: &BenchArgs) -> Invocation<()> {
    let empty = format!(r#"{{"n":{n},"pad":""}}"#).len();
    let pad = usize::try_from(args.args_bytes).unwrap_or(0).saturating_sub(empty);
    noop.invoke(NoopArgs { n, pad: "x".repeat(pad) })
}

async fn submit_all(system: &TaskSystem, noop: &Noop, args: &BenchArgs) -> Result<()> {
    let batches = (0..args.jobs.div_ceil(BATCH)).map(|at| BATCH.min(args.jobs - at * BATCH));
    let submits = batches.map(|n| {
        let jobs: Vec<_> = (0..n).map(|_| invocation(noop, u32::MAX, args)).collect();
        system.submit(jobs)
    });
    let mut submits = futures::stream::iter(submits).buffer_unordered(SUBMITTERS);
    while let Some(submitted) = submits.next().await {
        submitted?;
    }
    Ok(())
}

async fn all_succeeded(store: &Arc<dyn Store>, n: u64) -> Result<()> {
    let mut changed = store.notices().changed;
    loop {
        changed.borrow_and_update();
        let counts = store.counts().await?;
        let succeeded = counts.iter().filter(|it| it.state == StateName::Succeeded);
        if n <= succeeded.map(|it| it.n).sum() {
            return Ok(());
        }
        changed.changed().await?;
    }
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
        let before = nanos(noop.0.zero);
        let handle = system.submit(invocation(noop, n, args)).await?;
        let submitted = nanos(noop.0.zero);
        handle.await?;
        let done = nanos(noop.0.zero);
        let place = usize::try_from(n)?;
        let begun = noop.0.begun[place].load(Ordering::Acquire);
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

fn tell(report: &Report) -> Result<()> {
    let whole = |rate: f64| print::grouped(rate as u64);
    let at = |it: &Percentiles| format!("{:.2} / {:.2} / {:.2} ms", it.p50, it.p95, it.p99);
    let mut table = print::table(["measured", "value"]);
    for (name, value) in [
        ("full lifecycle", format!("{} jobs/s", whole(report.jobs_per_s))),
        ("drain of queued jobs", format!("{} jobs/s", whole(report.drain_per_s))),
        ("CPU", format!("{:.1} µs a job", report.cpu_us_per_job)),
        ("commits", format!("{:.4} a job", report.commits_per_job)),
        ("submit (p50 / p95 / p99)", at(&report.submit_ms)),
        ("submit → start", at(&report.submit_to_start_ms)),
        ("submit → done", at(&report.submit_to_done_ms)),
        ("1,000 callers", format!("{} submits/s", whole(report.concurrent_submits_per_s))),
        ("peak memory", format!("{:.0} MB", report.rss_peak_mb)),
        ("store", report.store.clone()),
        ("synchronous", report.synchronous.to_owned()),
    ] {
        table.add_row(vec![name.to_owned(), value]);
    }
    let jobs = print::grouped(u64::from(report.jobs));
    print::line(format!("{jobs} no-op jobs with {} bytes of arguments", report.args_bytes))?;
    print::line(table.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let it = Percentiles::of((1..=100).map(f64::from).collect());
        assert_eq!((it.p50, it.p95, it.p99), (50.0, 95.0, 99.0));
        let it = Percentiles::of(vec![7.0]);
        assert_eq!((it.p50, it.p99), (7.0, 7.0));
        assert_eq!(Percentiles::of(vec![]).p50, 0.0);
    }
}
