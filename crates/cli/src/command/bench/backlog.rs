//! `--backlog`: what a claim costs while many jobs wait.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use taskloom::torture::{Demand, NewNode, Queues};
use taskloom::{Task, TaskSystem};

use super::load::{Noop, Percentiles, rounded, submit_all};
use super::place::Bench;
use crate::args::BenchArgs;
use crate::print;

/// How many claims are timed, and how many jobs each takes.
const N_CLAIMS: u32 = 300;
const N_EACH: usize = 10;

#[derive(Debug, Serialize)]
pub(super) struct Report {
    backlog: u32,
    submits_per_s: f64,
    /// One claim at a time, of ten jobs, durable.
    claim_ms: Percentiles,
}

pub(super) async fn measure(bench: &Bench, args: &BenchArgs, n: u32) -> Result<Report> {
    let system = TaskSystem::open(&bench.url).connect().await?;
    let began = Instant::now();
    submit_all(&system, &Noop::timing(0), (n, args.args_bytes)).await?;
    let submits_per_s = (f64::from(n) / began.elapsed().as_secs_f64()).round();
    let store = system.store();
    let tasks: Arc<[Arc<str>]> = [Arc::from(Noop::NAME)].into();
    let new = NewNode { name: "bench".into(), pid: std::process::id(), tasks: tasks.to_vec() };
    let node = store.register(new).await?;
    let demand = Demand { queues: Queues::Except(Arc::from([])), tasks, n: N_EACH };
    let mut millis = Vec::new();
    for _ in 0..N_CLAIMS {
        let began = Instant::now();
        let claimed = store.claim(node, vec![demand.clone()]).await?;
        millis.push(rounded(began.elapsed().as_secs_f64() * 1e3));
        anyhow::ensure!(claimed.len() == N_EACH, "only {} jobs were claimed", claimed.len());
    }
    store.retire(node).await?;
    Ok(Report { backlog: n, submits_per_s, claim_ms: Percentiles::of(millis) })
}

pub(super) fn tell(report: &Report) -> Result<()> {
    let mut table = print::table(["measured", "value"]);
    let n = |it: u64| print::grouped(it);
    table.add_row(vec!["jobs that wait".to_owned(), n(report.backlog.into())]);
    let rate = n(report.submits_per_s as u64);
    table.add_row(vec!["submitted in batches".to_owned(), format!("{rate} jobs/s")]);
    let claim = "claim of 10 (p50 / p95 / p99)".to_owned();
    table.add_row(vec![claim, report.claim_ms.text()]);
    print::line(table.to_string())
}
