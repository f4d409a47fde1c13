//! A queue of addresses, workers that work it off, and a bound on their requests: more workers than
//! requests, since a worker does more than wait for its request.
//!
//! # Invariants
//! - Each address goes to one worker, once.
//! - Never more than `n_requests_max` requests are under way.
//! - After a stop no worker takes another address; those in hand are finished.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Client;
use taskloom_flow::{
    Cancellation, WorkQueue, WorkerFailure, WorkerPool, WorkerPoolReport, WorkerStats,
};
use tokio::sync::Semaphore;

use crate::http::{self, HttpError, Page};

/// How many addresses wait in the queue: enough that no worker waits for the next one.
const QUEUE_MAX: usize = 64;

/// How the queue is worked off.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// How many workers there are.
    pub n_workers: usize,
    /// How many requests are under way at most.
    pub n_requests_max: usize,
    /// How long a page may take.
    pub timeout: Duration,
    /// How long the workers may take, after a stop, to finish what they have in hand.
    pub deadline: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        let (timeout, deadline) = (Duration::from_secs(10), Duration::from_secs(30));
        Rules { n_workers: 5, n_requests_max: 3, timeout, deadline }
    }
}

/// A page that was not had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{url}: {error}")]
pub struct PageError {
    /// Its address.
    pub url: String,
    /// Why.
    #[source]
    pub error: HttpError,
}

/// What was done.
#[derive(Debug)]
pub struct Report {
    /// What each worker did.
    pub workers: Vec<WorkerStats>,
    /// The pages that were not had: the first 256.
    pub failures: Vec<WorkerFailure<PageError>>,
    /// How many addresses were not begun, because it was told to stop.
    pub n_left: usize,
    /// How many workers were cut off at the deadline, each with an address in hand.
    pub n_aborted: usize,
}

impl Report {
    fn new(report: WorkerPoolReport<PageError>, n_urls: usize) -> Report {
        let WorkerPoolReport { workers, failures, n_aborted, .. } = report;
        let n_ended: u64 = workers.iter().map(|it| it.n_done + it.n_failed + it.n_panicked).sum();
        let n_begun = usize::try_from(n_ended).unwrap_or(usize::MAX).saturating_add(n_aborted);
        Report { workers, failures, n_left: n_urls.saturating_sub(n_begun), n_aborted }
    }

    /// How many pages were had.
    #[must_use]
    pub fn n_done(&self) -> u64 {
        self.workers.iter().map(|it| it.n_done).sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "worker   done  failed  busy ms  longest ms")?;
        for (n, worker) in self.workers.iter().enumerate() {
            let n_failed = worker.n_failed + worker.n_panicked;
            let (busy, longest) = (worker.busy.as_millis(), worker.longest.as_millis());
            writeln!(f, "{n:>6} {:>6} {n_failed:>7} {busy:>8} {longest:>11}", worker.n_done)?;
        }
        for failure in &self.failures {
            writeln!(f, "failed: {}", failure.cause)?;
        }
        if 0 < self.n_aborted {
            writeln!(f, "{} workers were cut off", self.n_aborted)?;
        }
        write!(f, "{} done, {} not begun", self.n_done(), self.n_left)
    }
}

/// Fetches all `urls`, until `stop` is cancelled, and calls `keep` with each page and the index of
/// the worker that has it.
///
/// # Cancel safety
/// Dropping it aborts the workers, with what they have in hand.
pub async fn work_off(
    client: &Client,
    urls: Vec<String>,
    rules: Rules,
    stop: &Cancellation,
    keep: impl Fn(Page, usize) + Send + Sync + 'static,
) -> Report {
    let n_urls = urls.len();
    let queue: WorkQueue<String> = WorkQueue::new(QUEUE_MAX.max(rules.n_workers));
    let room = Arc::new(Semaphore::new(rules.n_requests_max.max(1)));
    let (client, keep) = (client.clone(), Arc::new(keep));
    let pool = WorkerPool::start("fetcher", rules.n_workers, queue.clone(), move |url, worker| {
        let (client, room, keep) = (client.clone(), Arc::clone(&room), Arc::clone(&keep));
        async move {
            let request = async {
                let _place = room.acquire().await.expect("the semaphore is never closed");
                http::get(&client, &url, rules.timeout).await
            };
            let page = request.await.map_err(|error| PageError { url: url.clone(), error })?;
            keep(page, worker); // The place is free again: this is no request.
            Ok(())
        }
    });
    let all_done = async {
        for url in urls {
            queue.push(url).await.expect("the queue is open while its pool runs");
        }
        queue.join().await;
    };
    let report = match stop.run(all_done).await {
        Ok(()) => pool.drain(rules.deadline).await,
        // What waits in the queue stays there.
        Err(_stopped) => pool.stop(rules.deadline).await,
    };
    Report::new(report, n_urls)
}
