//! A pipeline that runs: what it counts and loses, how it stops and how it ends.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::Cancellation;
use futures::Stream;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::line::AnyLine;
use super::meter::{Clock, Meter, StageStats};
use super::{Failure, StageFailure};
use crate::TaskGroup;

/// What all routines of a pipeline share.
pub(super) struct Shared {
    pub(super) clock: Clock,
    fail_fast: bool,
    /// The failure that ended a fail-fast pipeline. Written once, read by `join`.
    ended_by: Mutex<Option<StageFailure>>,
    /// Fires with the failure: calls still in flight are not waited for.
    failed: Cancellation,
    failures: mpsc::Sender<StageFailure>,
    n_failures_lost: AtomicU64,
    lines: Mutex<Vec<Arc<dyn AnyLine>>>,
}

impl Shared {
    pub(super) fn new(fail_fast: bool, failures: mpsc::Sender<StageFailure>) -> Arc<Self> {
        Arc::new(Shared {
            clock: Clock::start(),
            fail_fast,
            ended_by: Mutex::new(None),
            failed: Cancellation::new(),
            failures,
            n_failures_lost: AtomicU64::new(0),
            lines: Mutex::default(),
        })
    }

    pub(super) fn add_line(&self, line: Arc<dyn AnyLine>) {
        self.lines.lock().push(line);
    }

    /// Tells of a lost item, and ends the pipeline if that is what was asked for.
    pub(super) fn report(&self, stage: &'static str, fault: Failure) {
        let failure = StageFailure { stage, fault };
        if self.fail_fast {
            self.ended_by.lock().get_or_insert(failure);
            self.abort();
            self.failed.cancel("an item failed, and the pipeline fails fast");
        } else if self.failures.try_send(failure).is_err() {
            self.n_failures_lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn abort(&self) {
        for line in &*self.lines.lock() {
            line.abort();
        }
    }
}

/// What a pipeline did in its life.
#[derive(Debug)]
pub struct StagesReport {
    /// The counts of each stage, the source first.
    pub stages: Vec<StageStats>,
    /// The failures nobody was told of yet.
    pub failures: Vec<StageFailure>,
    /// How many failures were counted and not kept, because too many were waiting to be told.
    pub n_failures_lost: u64,
    /// How long it ran.
    pub elapsed: Duration,
}

/// A pipeline at work, made by [`Stages::for_each`](crate::Stages::for_each). Dropping it aborts
/// everything: items on their way are lost.
#[must_use = "dropping a pipeline aborts it; `join().await` waits for its end"]
pub struct StagesRun {
    // Dropped first: threads hear of the end from their lines, routines from the group.
    lines: AbortOnDrop,
    group: TaskGroup,
    stop: Cancellation,
    meters: Vec<Arc<Meter>>,
    failures: Option<mpsc::Receiver<StageFailure>>,
}

struct AbortOnDrop(Arc<Shared>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl fmt::Debug for StagesRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StagesRun").field("stages", &self.stats()).finish_non_exhaustive()
    }
}

impl StagesRun {
    pub(super) fn new(
        shared: Arc<Shared>,
        group: TaskGroup,
        stop: Cancellation,
        meters: Vec<Arc<Meter>>,
        failures: mpsc::Receiver<StageFailure>,
    ) -> Self {
        StagesRun { lines: AbortOnDrop(shared), group, stop, meters, failures: Some(failures) }
    }

    /// Pulls no more inputs; what is on its way is finished, and then the pipeline ends.
    pub fn stop(&self) {
        self.stop.cancel("the pipeline was told to stop");
    }

    /// The token that [`StagesRun::stop`] fires, for whoever stops the pipeline from elsewhere,
    /// while this is in [`StagesRun::join`].
    #[must_use]
    pub fn cancellation(&self) -> &Cancellation {
        &self.stop
    }

    /// The counts of each stage so far, the source first.
    #[must_use]
    pub fn stats(&self) -> Vec<StageStats> {
        self.meters.iter().map(|it| it.stats()).collect()
    }

    /// Items lost to errors and panics, as a stream that ends with the pipeline. A second call
    /// gives an empty stream.
    ///
    /// The pipeline never waits for its reader; what finds no room is counted in
    /// [`StagesReport::n_failures_lost`].
    pub fn failures(&mut self) -> StageFailures {
        StageFailures { failures: self.failures.take() }
    }

    /// Waits until the inputs have ended and every stage has finished.
    ///
    /// # Errors
    /// The [`StageFailure`] that ended a fail-fast pipeline.
    ///
    /// # Panics
    /// When the drop of an item panicked: there is no saying what was lost.
    ///
    /// # Cancel safety
    /// Dropping this future aborts the pipeline.
    pub async fn join(mut self) -> Result<StagesReport, StageFailure> {
        let failed = self.lines.0.failed.clone();
        loop {
            let ended = tokio::select! {
                biased;
                _ = failed.cancelled() => None,
                ended = self.group.join_next() => ended,
            };
            let Some(ended) = ended else { break };
            if let Some(panic) = ended.panic() {
                panic!("a routine of the stage `{}` panicked: {panic}", ended.name);
            }
        }
        let shared = &self.lines.0;
        if let Some(failure) = shared.ended_by.lock().take() {
            return Err(failure);
        }
        let mut failures = Vec::new();
        while let Some(Ok(failure)) = self.failures.as_mut().map(mpsc::Receiver::try_recv) {
            failures.push(failure);
        }
        Ok(StagesReport {
            stages: self.stats(),
            failures,
            n_failures_lost: shared.n_failures_lost.load(Ordering::Relaxed),
            elapsed: shared.clock.elapsed(),
        })
    }
}

/// The stream of [`StagesRun::failures`].
#[derive(Debug)]
pub struct StageFailures {
    failures: Option<mpsc::Receiver<StageFailure>>,
}

impl Stream for StageFailures {
    type Item = StageFailure;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<StageFailure>> {
        match &mut self.failures {
            Some(failures) => failures.poll_recv(cx),
            None => Poll::Ready(None),
        }
    }
}

/// The outputs of a pipeline, made by [`Stages::into_stream`](crate::Stages::into_stream). Dropping
/// it aborts the pipeline: items on their way are lost.
#[must_use = "streams do nothing unless polled"]
pub struct StagesStream<T> {
    // Dropped before the run: there is nothing to deliver to any more.
    items: BoxStream<'static, T>,
    run: StagesRun,
}

impl<T> StagesStream<T> {
    pub(super) fn new(items: BoxStream<'static, T>, run: StagesRun) -> Self {
        StagesStream { items, run }
    }

    /// The pipeline itself: to stop it, to see its counts and its failures.
    pub fn run(&mut self) -> &mut StagesRun {
        &mut self.run
    }

    /// Ends the pipeline and tells what it did. Outputs that were not taken are dropped, so take
    /// them first.
    ///
    /// # Errors
    /// The [`StageFailure`] that ended a fail-fast pipeline.
    ///
    /// # Panics
    /// When the drop of an item panicked: there is no saying what was lost.
    ///
    /// # Cancel safety
    /// Dropping this future aborts the pipeline.
    pub async fn finish(self) -> Result<StagesReport, StageFailure> {
        drop(self.items);
        self.run.stop();
        self.run.join().await
    }
}

impl<T> fmt::Debug for StagesStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StagesStream").field("run", &self.run).finish_non_exhaustive()
    }
}

impl<T> Stream for StagesStream<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.items.as_mut().poll_next(cx)
    }
}
