//! The task of a bench, and how its jobs are submitted and awaited.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use taskloom::{Ctx, Invocation, Invoke, StateName, Store, Task, TaskError, TaskSystem};

/// How many jobs one submit carries where the rate is measured.
pub(super) const BATCH: u32 = 1_000;
/// Submits under way at once, so that one is ready when a commit ends.
pub(super) const SUBMITTERS: usize = 4;

/// A task that notes when it began, and does nothing, or sleeps.
#[derive(Debug, Clone)]
pub(super) struct Noop {
    pub(super) noted: Arc<Noted>,
    pub(super) sleeps: Duration,
}

impl Noop {
    /// One that notes the begins of the first `n` jobs.
    pub(super) fn timing(n: u32) -> Noop {
        let begun = (0..n).map(|_| AtomicU64::new(0)).collect();
        let noted = Noted { zero: Instant::now(), n: AtomicU32::new(0), begun };
        Noop { noted: Arc::new(noted), sleeps: Duration::ZERO }
    }

    /// One that sleeps.
    pub(super) fn sleeping(sleeps: Duration) -> Noop {
        Noop { sleeps, ..Noop::timing(0) }
    }
}

#[derive(Debug)]
pub(super) struct Noted {
    pub(super) zero: Instant,
    pub(super) n: AtomicU32,
    /// Nanoseconds after `zero`, by the number of the job; 0: not begun. For the timed ones.
    pub(super) begun: Vec<AtomicU64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct NoopArgs {
    n: u32,
    pad: String,
}

impl Task for Noop {
    const NAME: &'static str = "bench_noop";
    type Args = NoopArgs;
    type Output = ();

    async fn run(&self, _ctx: &Ctx, args: NoopArgs) -> Result<(), TaskError> {
        let place = usize::try_from(args.n).ok();
        if let Some(begun) = place.and_then(|n| self.noted.begun.get(n)) {
            begun.store(nanos(self.noted.zero), Ordering::Release);
        }
        if !self.sleeps.is_zero() {
            tokio::time::sleep(self.sleeps).await;
        }
        self.noted.n.fetch_add(1, Ordering::Release);
        Ok(())
    }
}

pub(super) fn nanos(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Milliseconds at three places of a distribution.
#[derive(Debug, Serialize)]
pub(super) struct Percentiles {
    pub(super) p50: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
}

impl Percentiles {
    pub(super) fn of(mut millis: Vec<f64>) -> Percentiles {
        millis.sort_by(f64::total_cmp);
        let at = |percent: usize| {
            let place = (millis.len() * percent).div_ceil(100).saturating_sub(1);
            millis.get(place).map_or(0.0, |it| rounded(*it))
        };
        Percentiles { p50: at(50), p95: at(95), p99: at(99) }
    }

    pub(super) fn text(&self) -> String {
        format!("{:.2} / {:.2} / {:.2} ms", self.p50, self.p95, self.p99)
    }
}

pub(super) fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

/// A job with arguments of `args_bytes`.
pub(super) fn invocation(noop: &Noop, n: u32, args_bytes: u32) -> Invocation<()> {
    let empty = format!(r#"{{"n":{n},"pad":""}}"#).len();
    let pad = usize::try_from(args_bytes).unwrap_or(0).saturating_sub(empty);
    noop.invoke(NoopArgs { n, pad: "x".repeat(pad) })
}

/// Submits `n_jobs` in batches.
pub(super) async fn submit_all(
    system: &TaskSystem,
    noop: &Noop,
    (n_jobs, args_bytes): (u32, u32),
) -> Result<()> {
    let batches = (0..n_jobs.div_ceil(BATCH)).map(|at| BATCH.min(n_jobs - at * BATCH));
    let submits = batches.map(|n| {
        let jobs: Vec<_> = (0..n).map(|_| invocation(noop, u32::MAX, args_bytes)).collect();
        system.submit(jobs)
    });
    let mut submits = futures::stream::iter(submits).buffer_unordered(SUBMITTERS);
    while let Some(submitted) = submits.next().await {
        submitted?;
    }
    Ok(())
}

/// Waits until `n` jobs have succeeded.
pub(super) async fn all_succeeded(store: &Arc<dyn Store>, n: u64) -> Result<()> {
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
