//! The full life of no-op jobs, beside a bare rusqlite loop that does the same row work.
//!
//! `cargo bench -p taskloom-benches --bench lifecycle [-- JOBS]` prints both rates, the CPU of each
//! job, and their ratio, measured alternately in one run: the machine's moods fall on both.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use anyhow::Result;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use taskloom::{Ctx, Invoke, StateName, Task, TaskError, TaskSystem};

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
const SCHEMA: &str = include_str!("../crates/store/src/sqlite/schema.sql");

fn main() -> Result<()> {
    let n_jobs = std::env::args().filter_map(|it| it.parse().ok()).next().unwrap_or(50_000);
    let runtime = tokio::runtime::Runtime::new()?;
    let mut ratios = Vec::new();
    println!("{n_jobs} jobs, 100 bytes of arguments, synchronous=full, batches of {BATCH}");
    for _ in 0..ROUNDS {
        // On the disk of the working directory: /tmp may be memory.
        let folder = tempfile::tempdir_in(".")?;
        let bare = timed(n_jobs, || bare(&folder.path().join("bare.db"), n_jobs))?;
        let path = folder.path().join("ours.db");
        let ours = timed(n_jobs, || runtime.block_on(ours(&path, n_jobs)))?;
        println!("bare loop  {:>9.0} jobs/s  {:>6.2} µs CPU a job", bare.0, bare.1);
        println!("taskloom   {:>9.0} jobs/s  {:>6.2} µs CPU a job", ours.0, ours.1);
        ratios.push(ours.0 / bare.0);
    }
    ratios.sort_by(f64::total_cmp);
    println!("ratio (median of {ROUNDS}): {:.2}", ratios[ROUNDS / 2]);
    Ok(())
}

/// Jobs a second, and microseconds of CPU a job.
fn timed(n_jobs: u32, run: impl FnOnce() -> Result<()>) -> Result<(f64, f64)> {
    let (began, cpu) = (Instant::now(), cpu_seconds());
    run()?;
    let n_jobs = f64::from(n_jobs);
    Ok((n_jobs / began.elapsed().as_secs_f64(), (cpu_seconds() - cpu) * 1e6 / n_jobs))
}

/// User and system time of this process, in hundredths.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks: f64 = fields.iter().skip(11).take(2).filter_map(|it| it.parse::<f64>().ok()).sum();
    ticks / 100.0
}

/// Finish the last batch, insert, and claim, in one commit: the row work of a life, and no more.
fn bare(path: &Path, n_jobs: u32) -> Result<()> {
    let conn = Connection::open(path)?;
    conn.pragma_update(None, "journal_mode", "wal")?;
    conn.pragma_update(None, "synchronous", "full")?;
    conn.pragma_update(None, "wal_autocheckpoint", 16_000)?;
    conn.execute_batch(SCHEMA)?;
    let events = vec![7; 30 * usize::try_from(BATCH)?];
    let args = format!("{{\"pad\":\"{}\"}}", "x".repeat(90));
    let mut claimed: Vec<i64> = Vec::new();
    let mut next = 0;
    while next < n_jobs || !claimed.is_empty() {
        conn.execute_batch("BEGIN IMMEDIATE")?;
        finish(&conn, &claimed)?;
        let n = BATCH.min(n_jobs - next);
        insert(&conn, next, n, &args)?;
        next += n;
        claimed = claim(&conn)?;
        conn.prepare_cached("INSERT INTO events (at, body) VALUES (1, ?1)")?.execute([&events])?;
        conn.execute_batch("COMMIT")?;
    }
    Ok(())
}

fn insert(conn: &Connection, first: u32, n: u32, args: &str) -> Result<()> {
    let mut job = conn.prepare_cached(
        "INSERT INTO jobs (id, created, lane, rank, policy, args) VALUES (?1, ?2, 1, 9, 1, ?3)",
    )?;
    let mut ready = conn.prepare_cached(
        "INSERT INTO ready (lane, rank, job, attempts, crashes, snoozes, fence) \
         VALUES (1, 9, ?1, 0, 0, 0, 0)",
    )?;
    for id in first..first + n {
        job.execute(params![id, 1_700_000_000_000_i64, args])?;
        ready.execute([id])?;
    }
    Ok(())
}

fn claim(conn: &Connection) -> Result<Vec<i64>> {
    let mut find =
        conn.prepare_cached("SELECT job FROM ready WHERE lane = 1 ORDER BY rank, job LIMIT ?1")?;
    let ids: Vec<i64> =
        find.query_map([BATCH], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let Some(last) = ids.last() else { return Ok(ids) };
    conn.prepare_cached("DELETE FROM ready WHERE lane = 1 AND (rank, job) <= (9, ?1)")?
        .execute([last])?;
    let mut body = conn.prepare_cached("SELECT args FROM jobs WHERE id = ?1")?;
    let mut lease = conn.prepare_cached(
        "INSERT INTO running (job, node, started, attempts, crashes, snoozes, fence) \
         VALUES (?1, 1, ?2, 1, 0, 0, 1)",
    )?;
    for id in &ids {
        let args: String = body.query_row([id], |row| row.get(0))?;
        std::hint::black_box(args);
        lease.execute(params![id, 1_700_000_000_000_i64])?;
    }
    Ok(ids)
}

fn finish(conn: &Connection, ids: &[i64]) -> Result<()> {
    let mut read = conn.prepare_cached("SELECT fence, cancel FROM running WHERE job = ?1")?;
    let mut leave = conn.prepare_cached("DELETE FROM running WHERE job = ?1")?;
    let mut end = conn.prepare_cached(
        "INSERT INTO ended (job, state, at, attempts, crashes, snoozes, fence, node, started, \
         outcome, result) VALUES (?1, 5, ?2, 1, 0, 0, 1, 1, ?2, 0, 'null')",
    )?;
    for id in ids {
        let fence: i64 = read.query_row([id], |row| row.get(0))?;
        std::hint::black_box(fence);
        leave.execute([id])?;
        end.execute(params![id, 1_700_000_000_000_i64])?;
    }
    Ok(())
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

/// Submits in batches while a node works, until the last job has succeeded.
async fn ours(path: &Path, n_jobs: u32) -> Result<()> {
    let noop = Noop(Arc::default());
    let template = Noop(Arc::clone(&noop.0));
    let url = format!("sqlite://{}", path.display());
    let system = TaskSystem::open(url).task(noop).max_workers(SLOTS).start().await?;
    let mut changed = system.store().notices().changed;
    let mut submits = FuturesUnordered::new();
    let mut n_submitted = 0;
    while n_submitted < n_jobs {
        // The bare loop claims what it has just inserted; a steady state is not a growing backlog.
        let n_running = n_submitted - template.0.load(Ordering::Relaxed).min(n_submitted);
        if n_running < BACKLOG_MAX && submits.len() < SUBMITTERS {
            let n = BATCH.min(n_jobs - n_submitted);
            let pad = || Pad { pad: "x".repeat(90) };
            let jobs: Vec<_> = (0..n).map(|_| template.invoke(pad())).collect();
            submits.push(system.submit(jobs));
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
    loop {
        changed.borrow_and_update();
        let counts = system.store().counts().await?;
        let succeeded = counts.iter().filter(|it| it.state == StateName::Succeeded);
        if u64::from(n_jobs) <= succeeded.map(|it| it.n).sum() {
            break;
        }
        changed.changed().await?;
    }
    let n_commits = u32::try_from(system.store().info().n_commits)?;
    println!("           {:>9.0} jobs a commit", f64::from(n_jobs) / f64::from(n_commits));
    system.drain().await?;
    Ok(())
}
