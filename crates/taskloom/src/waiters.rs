//! Waiting for jobs to end, whichever process runs them.
//!
//! One routine follows the log of events while somebody waits. A waiter registers first and looks
//! at the job afterwards, so no end falls between the two.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use taskloom_flow::Cancellation;
use taskloom_model::JobId;
use taskloom_store::{EventCursor, JobView, Store, StoreError};
use tokio::sync::{Notify, oneshot};

/// How many events one read takes.
const EVENTS_MAX: usize = 2_000;
/// How long after an error the log is read again.
const AGAIN: Duration = Duration::from_millis(500);
/// How many jobs one read takes.
const GET_MAX: usize = 500;

/// The end of a job, when it comes; `None`: there is no such job.
pub(crate) type Waited = oneshot::Receiver<Option<Box<JobView>>>;

type Waiting = HashMap<JobId, Vec<oneshot::Sender<Option<Box<JobView>>>>>;

/// Those who wait.
#[derive(Debug)]
pub(crate) struct Waiters {
    store: Arc<dyn Store>,
    waiting: Mutex<Waiting>,
    first: Notify,
}

impl Waiters {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Waiters { store, waiting: Mutex::default(), first: Notify::new() }
    }

    /// Begins to wait for each of `ids`.
    ///
    /// # Cancel safety
    /// Dropping the answers is how a wait ends early.
    pub(crate) async fn wait_for(&self, ids: &[JobId]) -> Result<Vec<Waited>, StoreError> {
        let mut answers = Vec::with_capacity(ids.len());
        {
            let mut waiting = self.waiting.lock();
            for &id in ids {
                let (sender, receiver) = oneshot::channel();
                let senders = waiting.entry(id).or_default();
                senders.retain(|it| !it.is_closed());
                senders.push(sender);
                answers.push(receiver);
            }
        }
        self.first.notify_one();
        for part in ids.chunks(GET_MAX) {
            self.look(part).await?;
        }
        Ok(answers)
    }

    /// Answers those of `ids` that have ended or don't exist.
    async fn look(&self, ids: &[JobId]) -> Result<(), StoreError> {
        let views = self.store.get(ids.to_vec()).await?;
        let mut waiting = self.waiting.lock();
        for (id, view) in ids.iter().zip(views) {
            if view.as_ref().is_none_or(|it| it.state.is_ended()) {
                let view = view.map(Box::new);
                for sender in waiting.remove(id).into_iter().flatten() {
                    // Whoever has stopped waiting needs no answer.
                    sender.send(view.clone()).ok();
                }
            }
        }
        Ok(())
    }

    fn waited_for(&self) -> Vec<JobId> {
        let mut waiting = self.waiting.lock();
        waiting.retain(|_, senders| senders.iter().any(|it| !it.is_closed()));
        waiting.keys().copied().collect()
    }

    /// Follows the log of events while somebody waits.
    pub(crate) async fn follow(self: Arc<Self>, stop: Cancellation) {
        let mut changed = self.store.notices().changed;
        // `None`: nobody waits, and the log is not followed.
        let mut cursor = None;
        loop {
            changed.borrow_and_update();
            let stepped = self.step(&mut cursor).await;
            if let Err(error) = &stepped {
                tracing::warn!(%error, code = error.code(), "ends of jobs could not be read");
                cursor = None;
            }
            tokio::select! {
                biased;
                _ = stop.cancelled() => return,
                // Those who wait go on waiting: nobody tells when the store can be read again.
                () = tokio::time::sleep(AGAIN), if stepped.is_err() => {}
                () = self.first.notified(), if cursor.is_none() => {}
                ended = changed.changed(), if cursor.is_some() => if ended.is_err() { return },
            }
        }
    }

    async fn step(&self, cursor: &mut Option<EventCursor>) -> Result<(), StoreError> {
        if self.waiting.lock().is_empty() {
            *cursor = None;
            return Ok(());
        }
        let Some(mut next) = *cursor else {
            // From here on nothing is missed; what ended before is found by looking once.
            let end = self.store.events(EventCursor::END, 0).await?.next;
            for part in self.waited_for().chunks(GET_MAX) {
                self.look(part).await?;
            }
            *cursor = Some(end);
            return Box::pin(self.step(cursor)).await;
        };
        loop {
            let read = self.store.events(next, EVENTS_MAX).await?;
            let ended: Vec<JobId> = {
                let waiting = self.waiting.lock();
                let ends = read.events.iter().filter(|it| it.kind.is_end());
                ends.map(|it| it.id).filter(|id| waiting.contains_key(id)).collect()
            };
            for part in ended.chunks(GET_MAX) {
                self.look(part).await?;
            }
            if read.gap {
                for part in self.waited_for().chunks(GET_MAX) {
                    self.look(part).await?;
                }
            }
            let at_end = read.events.len() < EVENTS_MAX;
            next = read.next;
            *cursor = Some(next);
            if at_end {
                return Ok(());
            }
        }
    }
}
