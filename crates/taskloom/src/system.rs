//! The system: a store, a node that works on it, and the way in for jobs.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{Stream, StreamExt};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use taskloom_dispatch::{Hurry, Node};
use taskloom_flow::{TaskGroup, as_completed};
use taskloom_model::{JobId, StateName};
use taskloom_store::{Changed, NewJob, Store, StoreError};

use crate::handle::{JobHandle, Link, result_of};
use crate::waiters::Waiters;
use crate::{Builder, Error, Health, JobError, Submit};

/// A store, perhaps with a node that works on it. Cheap to clone.
///
/// ```no_run
/// # use taskloom::prelude::*;
/// #[task]
/// async fn add(a: i64, b: i64) -> Result<i64, TaskError> {
///     Ok(a + b)
/// }
///
/// # async fn example() -> Result<(), taskloom::Error> {
/// let system = TaskSystem::open("sqlite://jobs.db").max_workers(10).start().await?;
/// let (a, b) = system.submit((add(1, 2), add(3, 4).delay("10s"))).await?;
/// assert_eq!(system.gather([a, b]).await?, [3, 7]);
/// system.drain().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct TaskSystem(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    link: Link,
    node: Mutex<Option<Node>>,
    hurry: Option<Hurry>,
    drain_deadline: Duration,
    /// Owns the routine that follows the log of events; dropped with the last clone.
    _routines: TaskGroup,
}

impl TaskSystem {
    /// Says which store to use: `sqlite://FILE`, `sqlite::memory:`, the path of a file, or,
    /// with the feature `postgres`, `postgres://USER@HOST/DATABASE`. Nothing
    /// is opened before [`Builder::start`] or [`Builder::connect`].
    ///
    /// `?synchronous=normal` behind the file trades the last commits before a power cut for speed.
    pub fn open(url: impl Into<String>) -> Builder {
        Builder::new(url.into())
    }

    pub(crate) fn new(
        store: Arc<dyn Store>,
        node: Option<Node>,
        drain_deadline: Duration,
    ) -> TaskSystem {
        let waiters = Arc::new(Waiters::new(Arc::clone(&store)));
        let routines = TaskGroup::isolated();
        routines.spawn_with("follow", |stop| Arc::clone(&waiters).follow(stop));
        let hurry = node.as_ref().map(Node::hurry);
        TaskSystem(Arc::new(Inner {
            link: Link { store, waiters },
            node: Mutex::new(node),
            hurry,
            drain_deadline,
            _routines: routines,
        }))
    }

    /// Accepts invocations: one, a tuple, an array or a vector; all or none. When this returns,
    /// they are durable.
    ///
    /// # Errors
    /// [`Error::Invocation`] for a bad option, [`Error::Store`] when the store refuses.
    ///
    /// # Cancel safety
    /// A dropped submit may have been accepted; give the invocation a `.unique(…)` text to be able
    /// to ask again.
    pub async fn submit<S: Submit>(&self, invocations: S) -> Result<S::Handles, Error> {
        let requests = invocations.into_requests()?;
        let n = requests.len();
        let jobs: Vec<NewJob> = requests.into_iter().map(NewJob::from).collect();
        let accepted = self.0.link.store.submit(jobs).await?;
        Ok(S::handles(&mut accepted.into_iter(), n, &self.0.link))
    }

    /// Takes in the jobs that were submitted in transactions of others ([`crate::submit_in`], the
    /// function `taskloom.submit`), and makes due ones ready. Nodes do that by themselves, some
    /// tenths of a second later at most; after a commit of one's own this saves that time. It takes
    /// in 1,000 a call, and works without a node, too.
    ///
    /// # Errors
    /// What the store says.
    ///
    /// # Cancel safety
    /// Safe: what is dropped, a node does later.
    pub async fn look_again(&self) -> Result<(), StoreError> {
        self.0.link.store.promote().await.map(drop)
    }

    /// A handle on a job that was accepted before, perhaps by another process.
    #[must_use]
    pub fn job<T>(&self, id: JobId) -> JobHandle<T> {
        JobHandle::new(id, false, self.0.link.clone())
    }

    /// Waits for all jobs, and returns their results in the order of `handles`, or the first error
    /// as soon as there is one. The other jobs go on.
    ///
    /// # Errors
    /// The [`JobError`] of the first job that does not succeed.
    ///
    /// # Cancel safety
    /// Safe: the jobs go on.
    pub async fn gather<T: DeserializeOwned>(
        &self,
        handles: impl IntoIterator<Item = JobHandle<T>>,
    ) -> Result<Vec<T>, JobError> {
        let mut ended = std::pin::pin!(self.ended(handles.into_iter().collect()).await?);
        let mut results: Vec<(usize, T)> = Vec::new();
        while let Some((place, _, result)) = ended.next().await {
            results.push((place, result?));
        }
        results.sort_unstable_by_key(|(place, _)| *place);
        Ok(results.into_iter().map(|(_, result)| result).collect())
    }

    /// Waits for all jobs, and returns what became of each, in the order of `handles`.
    ///
    /// # Errors
    /// [`JobError::Store`] when the store can't be asked at all.
    ///
    /// # Cancel safety
    /// Safe: the jobs go on.
    pub async fn gather_settled<T: DeserializeOwned>(
        &self,
        handles: impl IntoIterator<Item = JobHandle<T>>,
    ) -> Result<Vec<Result<T, JobError>>, JobError> {
        let mut ended: Vec<_> = self.ended(handles.into_iter().collect()).await?.collect().await;
        ended.sort_unstable_by_key(|(place, ..)| *place);
        Ok(ended.into_iter().map(|(_, _, result)| result).collect())
    }

    /// Gives each job with what became of it, as they end.
    ///
    /// # Errors
    /// [`JobError::Store`] when the store can't be asked at all.
    ///
    /// # Cancel safety
    /// Safe: the jobs go on, with the stream or without it.
    pub async fn as_completed<T: DeserializeOwned>(
        &self,
        handles: impl IntoIterator<Item = JobHandle<T>>,
    ) -> Result<impl Stream<Item = (JobHandle<T>, Result<T, JobError>)> + Unpin, JobError> {
        let ended = self.ended(handles.into_iter().collect()).await?;
        Ok(Box::pin(ended.map(|(_, handle, result)| (handle, result))))
    }

    async fn ended<T: DeserializeOwned>(
        &self,
        handles: Vec<JobHandle<T>>,
    ) -> Result<impl Stream<Item = (usize, JobHandle<T>, Result<T, JobError>)>, JobError> {
        let ids: Vec<JobId> = handles.iter().map(JobHandle::id).collect();
        let waited = self.0.link.waiters.wait_for(&ids).await?;
        let ends = handles.into_iter().zip(waited).map(|(handle, waited)| async move {
            let result = match waited.await {
                Ok(view) => result_of(handle.id(), view.map(|it| *it)),
                Err(_) => Err(StoreError::Closed.into()),
            };
            (handle, result)
        });
        Ok(as_completed(ends).map(|(place, (handle, result))| (place, handle, result)))
    }

    /// Cancels jobs. What runs on this node hears of it at once, on others with their heartbeat.
    ///
    /// # Errors
    /// What the store says.
    ///
    /// # Cancel safety
    /// A dropped call may have cancelled the jobs.
    pub async fn cancel(&self, ids: Vec<JobId>) -> Result<Vec<Changed>, StoreError> {
        let changed = self.0.link.store.cancel(ids.clone()).await?;
        let node = self.0.node.lock();
        for (id, changed) in ids.into_iter().zip(&changed) {
            if let (Some(node), Changed::Now(StateName::Running)) = (&*node, changed) {
                node.cancel(id);
            }
        }
        Ok(changed)
    }

    /// Makes ended jobs ready again, with all their attempts.
    ///
    /// # Errors
    /// What the store says.
    ///
    /// # Cancel safety
    /// A dropped call may have done it.
    pub async fn retry(&self, ids: Vec<JobId>) -> Result<Vec<Changed>, StoreError> {
        self.0.link.store.retry(ids).await
    }

    /// The store, for reading: lists, counts, events.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.0.link.store
    }

    /// How this system fares, and whether it is ready: its store can be used, and its node, if it
    /// has one, works. Cheap: nothing is asked.
    #[must_use]
    pub fn health(&self) -> Health {
        let node = self.0.node.lock().as_ref().map(Node::health);
        Health::of(self.0.link.store.health(), node)
    }

    /// How many attempts are under way on this node.
    #[must_use]
    pub fn n_running(&self) -> usize {
        self.0.node.lock().as_ref().map_or(0, Node::n_running)
    }

    /// Claims nothing more, lets what runs go on until the drain deadline, then asks it to end and
    /// gives it back with its attempt. Submitting and reading go on working. A second call does
    /// nothing.
    ///
    /// # Errors
    /// What the store says.
    ///
    /// # Cancel safety
    /// A dropped drain aborts what runs; the jobs are rescued like those of a dead node.
    pub async fn drain(&self) -> Result<(), Error> {
        let node = self.0.node.lock().take();
        if let Some(node) = node {
            node.drain(self.0.drain_deadline).await?;
        }
        Ok(())
    }

    /// Works until SIGINT or SIGTERM, then drains. A second signal ends everything at once.
    ///
    /// # Errors
    /// What the store says while draining.
    ///
    /// # Panics
    /// When the runtime can't listen for signals: its I/O driver is off.
    ///
    /// # Cancel safety
    /// Dropping it before a signal changes nothing; afterwards as [`TaskSystem::drain`].
    pub async fn run_until_signal(&self) -> Result<(), Error> {
        let mut signals = Signals::listen().expect("the runtime has its drivers enabled");
        signals.next().await;
        tracing::info!("draining; another signal stops at once");
        let mut draining = std::pin::pin!(self.drain());
        tokio::select! {
            drained = &mut draining => return drained,
            () = signals.next() => {}
        }
        self.hurry();
        draining.await
    }

    /// Ends a drain that is under way: what runs is ended now, without its grace, and given back.
    pub fn hurry(&self) {
        if let Some(hurry) = &self.0.hurry {
            hurry.now();
        }
    }
}

/// SIGINT and SIGTERM. One value hears of every signal from its making on, also of one that comes
/// while nobody waits.
#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> std::io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Signals { interrupt, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Ctrl-C.
#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> std::io::Result<Signals> {
        Ok(Signals)
    }

    async fn next(&mut self) {
        tokio::signal::ctrl_c().await.ok();
    }
}
