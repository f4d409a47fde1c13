//! A fixed number of workers that consume a queue; a failing item harms nothing but itself.
//!
//! # Invariants
//! - Each worker handles one item at a time; an item goes to one worker.
//! - A failure ends neither its worker nor the pool, and is told or counted.
//! - No worker outlives the pool: dropping it aborts them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::{
    Cancellation, Failure, Panicked, PriorityQueue, TaskGroup, WorkItem, WorkItems, WorkPlace,
    WorkQueue, catch_panic,
};

/// How many failures wait to be heard of. Whoever doesn't listen sees the first ones, which tell
/// most, and the count of the rest.
const FAILURES_MAX: usize = 256;

/// Where workers take items from: a [`WorkQueue`] or a [`PriorityQueue`].
pub trait WorkSource: Send + Sync + 'static {
    /// What is worked on.
    type Item: Send + 'static;
    /// Held while an item is worked on, dropped when that is done.
    type Place: Send + 'static;

    /// Waits for the next item; `None` once the source is closed and empty. A call that is dropped
    /// takes no item.
    fn next(&self) -> impl Future<Output = Option<(Self::Item, Self::Place)>> + Send;

    /// Takes nothing new from now on.
    fn close(&self);
}

impl<T: Send + 'static> WorkSource for WorkQueue<T> {
    type Item = T;
    type Place = WorkPlace<T>;

    async fn next(&self) -> Option<(T, WorkPlace<T>)> {
        Some(self.pop().await?.split())
    }

    fn close(&self) {
        WorkQueue::close(self);
    }
}

impl<T: Send + 'static> WorkSource for WorkItems<T> {
    type Item = WorkItem<T>;
    type Place = ();

    async fn next(&self) -> Option<(WorkItem<T>, ())> {
        Some((self.queue.pop().await?, ()))
    }

    fn close(&self) {
        self.queue.close();
    }
}

impl<T: Send + 'static, P: Ord + Send + 'static> WorkSource for PriorityQueue<T, P> {
    type Item = T;
    type Place = ();

    async fn next(&self) -> Option<(T, ())> {
        Some((self.pop().await?, ()))
    }

    fn close(&self) {
        PriorityQueue::close(self);
    }
}

/// What one worker did so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WorkerStats {
    /// Items handled without a failure.
    pub n_done: u64,
    /// Items whose handler returned an error.
    pub n_failed: u64,
    /// Items whose handler panicked.
    pub n_panicked: u64,
    /// The time spent in the handler, waiting included.
    pub busy: Duration,
    /// The longest time spent on one item.
    pub longest: Duration,
}

/// An item that was not handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerFailure<E> {
    /// The index of the worker.
    pub worker: usize,
    /// What went wrong.
    pub cause: Failure<E>,
}

/// What a [`WorkerPool`] did in its life.
#[derive(Debug)]
pub struct WorkerPoolReport<E> {
    /// What each worker did, by index.
    pub workers: Vec<WorkerStats>,
    /// The failures nobody was told of yet.
    pub failures: Vec<WorkerFailure<E>>,
    /// How many failures were counted and not kept: 256 were waiting to be told.
    pub n_failures_lost: u64,
    /// How many workers were cut off at the deadline, each with at most one item in hand.
    pub n_aborted: usize,
}

/// `n` named workers that consume a queue.
///
/// A worker with nothing to do waits in line, and the one that has waited longest gets the next
/// item; a worker that is never held up hands the thread on from time to time.
///
/// ```
/// use std::time::Duration;
/// use taskloom_flow::{WorkQueue, Failure, WorkerPool};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let queue = WorkQueue::new(100);
/// let pool = WorkerPool::start("parser", 4, queue.clone(), |text: &str, _worker| async move {
///     text.parse::<u32>().map(drop)
/// });
/// for text in ["1", "2", "three"] {
///     queue.push(text).await.unwrap();
/// }
/// let report = pool.drain(Duration::from_secs(10)).await;
/// assert_eq!(report.workers.iter().map(|it| it.n_done).sum::<u64>(), 2);
/// assert!(matches!(report.failures[0].cause, Failure::Error(_)));
/// # }
/// ```
#[must_use = "dropping a pool aborts its workers"]
pub struct WorkerPool<E> {
    group: TaskGroup,
    board: Arc<Board<E>>,
    failures: mpsc::Receiver<WorkerFailure<E>>,
    close: Box<dyn Fn() + Send + Sync>,
}

/// What the workers write and the pool reads.
struct Board<E> {
    workers: Vec<Mutex<WorkerStats>>,
    failures: mpsc::Sender<WorkerFailure<E>>,
    n_failures_lost: AtomicU64,
}

impl<E> std::fmt::Debug for WorkerPool<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerPool").field("workers", &self.stats()).finish_non_exhaustive()
    }
}

impl<E> WorkerPool<E> {
    /// Starts `n_workers` workers named `name`, at least one, that call `handler` with each item
    /// of `source` and their own index, from 0 on.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn start<S, F, Fut>(name: &'static str, n_workers: usize, source: S, handler: F) -> Self
    where
        S: WorkSource,
        F: Fn(S::Item, usize) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Send + 'static,
    {
        let n_workers = n_workers.max(1);
        let (failures_in, failures) = mpsc::channel(FAILURES_MAX);
        let board = Arc::new(Board {
            workers: (0..n_workers).map(|_| Mutex::default()).collect(),
            failures: failures_in,
            n_failures_lost: AtomicU64::new(0),
        });
        let (source, handler) = (Arc::new(source), Arc::new(handler));
        let group = TaskGroup::isolated();
        for worker in 0..n_workers {
            let (source, handler) = (Arc::clone(&source), Arc::clone(&handler));
            let board = Arc::clone(&board);
            group.spawn_with(name, |stop| async move {
                work(worker, &*source, &*handler, &board, &stop).await;
            });
        }
        WorkerPool { group, board, failures, close: Box::new(move || source.close()) }
    }

    /// What each worker did so far, by index.
    #[must_use]
    pub fn stats(&self) -> Vec<WorkerStats> {
        self.board.workers.iter().map(|it| *it.lock()).collect()
    }

    /// How many failures were counted and not kept, because 256 were waiting to be told.
    #[must_use]
    pub fn n_failures_lost(&self) -> u64 {
        self.board.n_failures_lost.load(Ordering::Relaxed)
    }

    /// Waits for the next failure. It waits for ever when nothing fails: use it in a `select!`.
    ///
    /// # Cancel safety
    /// Safe: a failure that was not told stays to be told.
    pub async fn next_failure(&mut self) -> WorkerFailure<E> {
        let failure = self.failures.recv().await;
        failure.expect("the pool itself holds a sender")
    }

    /// Closes the queue, lets the workers take what is in it, and ends; at the `deadline` the
    /// workers left are aborted.
    ///
    /// # Cancel safety
    /// Dropping this future aborts every worker still running; the queue stays closed.
    pub async fn drain(mut self, deadline: Duration) -> WorkerPoolReport<E> {
        (self.close)();
        let all_ended = async { while self.group.join_next().await.is_some() {} };
        tokio::time::timeout(deadline, all_ended).await.ok();
        self.stop(Duration::ZERO).await
    }

    /// Lets each worker finish the item it has in hand, and ends; at the `deadline` the workers
    /// left are aborted. What waits stays in the queue, which is not closed.
    ///
    /// # Cancel safety
    /// Dropping this future aborts every worker still running.
    pub async fn stop(mut self, deadline: Duration) -> WorkerPoolReport<E> {
        let drained = self.group.drain(deadline).await;
        let mut failures = Vec::new();
        while let Ok(failure) = self.failures.try_recv() {
            failures.push(failure);
        }
        let n_failures_lost = self.board.n_failures_lost.load(Ordering::Relaxed);
        let workers = self.board.workers.iter().map(|it| *it.lock()).collect();
        WorkerPoolReport { workers, failures, n_failures_lost, n_aborted: drained.n_aborted }
    }
}

/// The life of one worker.
async fn work<S, F, Fut, E>(
    worker: usize,
    source: &S,
    handler: &F,
    board: &Board<E>,
    stop: &Cancellation,
) where
    S: WorkSource,
    F: Fn(S::Item, usize) -> Fut,
    Fut: Future<Output = Result<(), E>>,
{
    loop {
        let next = tokio::select! {
            biased;
            _ = stop.cancelled() => return,
            next = source.next() => next,
        };
        let Some((item, place)) = next else { return };
        let began = Instant::now();
        let ended = catch_panic(async { handler(item, worker).await }).await;
        board.tell(worker, began.elapsed(), ended);
        // Only now does the item count as done: who waits for that finds it in the statistics.
        drop(place);
    }
}

impl<E> Board<E> {
    fn tell(&self, worker: usize, took: Duration, ended: Result<Result<(), E>, Panicked>) {
        let mut stats = self.workers[worker].lock();
        stats.busy += took;
        stats.longest = stats.longest.max(took);
        let cause = match ended {
            Ok(Ok(())) => {
                stats.n_done += 1;
                return;
            }
            Ok(Err(error)) => {
                stats.n_failed += 1;
                Failure::Error(error)
            }
            Err(panicked) => {
                stats.n_panicked += 1;
                Failure::Panicked(panicked)
            }
        };
        drop(stats);
        if self.failures.try_send(WorkerFailure { worker, cause }).is_err() {
            self.n_failures_lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
