//! Closures that are awaited: for their answer, and for the room to run them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::Stream;
use tokio::sync::oneshot;

use super::{Offload, Shared, Work};
use crate::{Inputs, Panicked, catch_panic_blocking, map_concurrent};

/// Why a closure gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OffloadError {
    /// It panicked.
    #[error(transparent)]
    Panicked(Panicked),
    /// The pool was closed before the closure began.
    #[error("the pool was closed before the work began")]
    Closed,
}

/// Tells a closure that nobody waits for its answer any more, so that it can end early.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag {
    cancelled: Arc<AtomicBool>,
}

impl CancelFlag {
    /// Whether the future that awaits the closure was dropped. Costs about a nanosecond.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// Raises the flag when the future that owns it is dropped, and takes its closure off the backlog.
struct CancelOnDrop<'a> {
    shared: &'a Shared,
    flag: CancelFlag,
    ticket: Option<u64>,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        self.flag.cancelled.store(true, Ordering::Relaxed);
        let Some(ticket) = self.ticket else { return };
        let mut state = self.shared.state.lock();
        // In the order of tickets; most often it runs already, or has ended.
        let Ok(place) = state.backlog.binary_search_by_key(&ticket, |it| it.ticket) else { return };
        let waiting = state.backlog.remove(place);
        drop(state);
        self.shared.room.notify_one();
        // Outside the lock: a closure may own anything.
        drop(waiting);
    }
}

impl Offload {
    /// Waits for room, runs `f` on a thread of the pool, and returns its answer.
    ///
    /// Callers of this get room in the order they came; one [`try_submit`](Offload::try_submit)
    /// may pass them. `f` is given a flag that is raised when this future is dropped, for work
    /// long enough to look at it.
    ///
    /// A paused Tokio clock knows nothing of threads and may run on while this waits.
    ///
    /// # Errors
    /// [`OffloadError::Panicked`] when `f` panicked, [`OffloadError::Closed`] when the pool is
    /// closed before `f` began.
    ///
    /// # Cancel safety
    /// Dropping this drops an `f` that has not begun and frees its place, and raises the flag for
    /// one that has; its answer is dropped.
    ///
    /// ```
    /// use taskloom_flow::Offload;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool = Offload::new("sums", 2);
    /// let sum = pool
    ///     .run(|cancel| (0..1_000_000_u64).take_while(|_| !cancel.is_cancelled()).sum::<u64>())
    ///     .await;
    /// assert_eq!(sum, Ok(499_999_500_000));
    /// # }
    /// ```
    pub async fn run<T, F>(&self, f: F) -> Result<T, OffloadError>
    where
        T: Send + 'static,
        F: FnOnce(&CancelFlag) -> T + Send + 'static,
    {
        let flag = CancelFlag::default();
        let mut guard = CancelOnDrop { shared: &self.shared, flag: flag.clone(), ticket: None };
        let (tell, told) = oneshot::channel();
        let mut work: Work = Box::new(move || {
            tell.send(catch_panic_blocking(|| f(&flag))).ok();
        });
        let Ok(turn) = self.shared.turn.acquire().await else { return Err(OffloadError::Closed) };
        let ticket = loop {
            match self.offer(work) {
                Ok(ticket) => break ticket,
                Err(_) if self.shared.turn.is_closed() => return Err(OffloadError::Closed),
                Err(refused) => work = refused,
            }
            // The one holder of the turn waits here, so a word of room is never lost.
            self.shared.room.notified().await;
        };
        guard.ticket = Some(ticket);
        drop(turn);
        match told.await {
            Ok(answer) => answer.map_err(OffloadError::Panicked),
            Err(_dropped) => Err(OffloadError::Closed),
        }
    }

    /// Calls `f` with each of `inputs` (a stream or an iterator) on the threads of the pool, and
    /// yields the answers in the order of the inputs.
    ///
    /// As many calls are on their way as can run and wait, so the threads never lack work while
    /// the stream is polled.
    ///
    /// ```
    /// use futures::TryStreamExt;
    /// use taskloom_flow::Offload;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool = Offload::new("squares", 2);
    /// let squares: Vec<u64> = pool.map_cpu(1..=4, |it: u64| it * it).try_collect().await.unwrap();
    /// assert_eq!(squares, [1, 4, 9, 16]);
    /// # }
    /// ```
    pub fn map_cpu<'a, K, I, F, T>(
        &'a self,
        inputs: I,
        f: F,
    ) -> impl Stream<Item = Result<T, OffloadError>> + use<'a, K, I, F, T>
    where
        I: Inputs<K>,
        I::Item: Send + 'static,
        F: Fn(I::Item) -> T + Send + Sync + 'static,
        T: Send + 'static,
    {
        let f = Arc::new(f);
        let n = self.n_threads_max + self.n_waiting_max;
        map_concurrent(inputs, n, move |input| {
            let f = Arc::clone(&f);
            self.run(move |_| f(input))
        })
    }
}

#[cfg(test)]
mod tests;
