//! A bounded queue that knows when all the work in it is done, as `asyncio.Queue` with `join` and
//! `task_done`, with a guard in the place of the call that is forgotten on an error.
//!
//! # Invariants
//! - At most `capacity` items wait or are worked on: an item keeps its place until it is done.
//! - Each accepted item is done once: when its guard is dropped, however that comes about.
//! - The count of what is not done never falls to zero while an item is put back.

use std::collections::VecDeque;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, TryAcquireError};

use crate::{QueueClosed, TryPushError};

/// A bounded queue of work for several producers and workers, first in first out, whose
/// [`join`](WorkQueue::join) waits until everything pushed is done. Clones are handles to the same
/// queue.
///
/// A worker that pushes follow-up work to the queue it works from must not wait for room with its
/// own item in hand, when every other worker may do the same: use
/// [`try_push`](WorkQueue::try_push), or a capacity that holds all the work there can be.
///
/// ```
/// use taskloom_flow::{TaskGroup, WorkQueue};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let queue: WorkQueue<String> = WorkQueue::new(10);
/// let workers = TaskGroup::new();
/// for _ in 0..3 {
///     let queue = queue.clone();
///     workers.spawn("worker", async move {
///         while let Some(url) = queue.pop().await {
///             assert!(url.starts_with("https://"));
///         } // The guard `url` was dropped: done.
///     });
/// }
/// for page in 0..20 {
///     queue.push(format!("https://example.org/{page}")).await.unwrap();
/// }
/// queue.join().await;
/// assert_eq!(queue.stats().n_done, 20);
/// # }
/// ```
pub struct WorkQueue<T> {
    shared: Arc<Shared<T>>,
}

/// A [`WorkQueue`] whose items come with their guards: see [`WorkQueue::items`].
#[derive(Debug)]
pub struct WorkItems<T> {
    pub(crate) queue: WorkQueue<T>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// A permit for each free place; closed with the queue.
    room: Semaphore,
    /// A permit for each waiting item, until the queue is closed: then nobody waits any more.
    ready: Semaphore,
    /// Tells those in `join` that nothing is left to do.
    all_done: Notify,
    capacity: usize,
}

struct State<T> {
    waiting: VecDeque<Waiting<T>>,
    n_in_work: usize,
    n_pushed: u64,
    n_done: u64,
    n_requeued: u64,
    closed: bool,
}

struct Waiting<T> {
    item: T,
    n_requeues: u32,
}

/// The counts of a [`WorkQueue`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WorkQueueStats {
    /// Items that wait to be popped.
    pub n_waiting: usize,
    /// Items that were popped and are not done.
    pub n_in_work: usize,
    /// Items accepted so far.
    pub n_pushed: u64,
    /// Items done so far.
    pub n_done: u64,
    /// How often an item was put back so far.
    pub n_requeued: u64,
}

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        WorkQueue { shared: Arc::clone(&self.shared) }
    }
}

impl<T> fmt::Debug for WorkQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkQueue")
            .field("capacity", &self.shared.capacity)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl<T> WorkQueue<T> {
    /// An empty queue in which up to `capacity` items wait or are worked on; 0 counts as 1.
    ///
    /// Give it more than there are workers: each of them keeps a place for the item it works on.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.clamp(1, Semaphore::MAX_PERMITS);
        let state = State {
            waiting: VecDeque::new(),
            n_in_work: 0,
            n_pushed: 0,
            n_done: 0,
            n_requeued: 0,
            closed: false,
        };
        let shared = Shared {
            state: Mutex::new(state),
            room: Semaphore::new(capacity),
            ready: Semaphore::new(0),
            all_done: Notify::new(),
            capacity,
        };
        WorkQueue { shared: Arc::new(shared) }
    }

    /// Waits for a free place and puts `item` in it.
    ///
    /// # Errors
    /// [`QueueClosed`] with the item, when the queue is closed, before or while this waits.
    ///
    /// # Cancel safety
    /// A push that is dropped while it waits leaves nothing in the queue; the item is dropped.
    pub async fn push(&self, item: T) -> Result<(), QueueClosed<T>> {
        let Ok(place) = self.shared.room.acquire().await else { return Err(QueueClosed(item)) };
        // The place goes with the item, until that is done.
        place.forget();
        self.put(item)
    }

    /// Puts `item` in a free place, if there is one and nobody waits for it. Never waits.
    ///
    /// # Errors
    /// [`TryPushError`] with the item, when the queue is full or closed.
    pub fn try_push(&self, item: T) -> Result<(), TryPushError<T>> {
        match self.shared.room.try_acquire() {
            Ok(place) => place.forget(),
            Err(TryAcquireError::NoPermits) => return Err(TryPushError::Full(item)),
            Err(TryAcquireError::Closed) => return Err(TryPushError::Closed(item)),
        }
        self.put(item).map_err(|QueueClosed(item)| TryPushError::Closed(item))
    }

    fn put(&self, item: T) -> Result<(), QueueClosed<T>> {
        let mut state = self.shared.state.lock();
        if state.closed {
            return Err(QueueClosed(item));
        }
        state.n_pushed += 1;
        state.waiting.push_back(Waiting { item, n_requeues: 0 });
        drop(state);
        self.shared.ready.add_permits(1);
        Ok(())
    }

    /// Waits for an item and takes the oldest; `None` once the queue is closed and none waits.
    ///
    /// Another worker may still put its item back after that, and then pops it itself.
    ///
    /// # Cancel safety
    /// Safe: a pop that is dropped takes no item.
    pub async fn pop(&self) -> Option<WorkItem<T>> {
        if let Ok(item) = self.shared.ready.acquire().await {
            item.forget();
        }
        // Closed in the meantime or not, there is an item here, or none is left.
        self.take()
    }

    /// Takes the oldest item, if one waits. Never waits.
    #[must_use]
    pub fn try_pop(&self) -> Option<WorkItem<T>> {
        match self.shared.ready.try_acquire() {
            Ok(item) => item.forget(),
            Err(TryAcquireError::NoPermits) => return None,
            Err(TryAcquireError::Closed) => {}
        }
        self.take()
    }

    fn take(&self) -> Option<WorkItem<T>> {
        let mut state = self.shared.state.lock();
        let Waiting { item, n_requeues } = state.waiting.pop_front()?;
        state.n_in_work += 1;
        drop(state);
        let place = WorkPlace { shared: Some(Arc::clone(&self.shared)), n_requeues };
        Some(WorkItem { item, place })
    }

    /// The queue as a source that hands its guards to the handlers of a
    /// [`WorkerPool`](crate::WorkerPool), not the bare items: for those that put some back.
    ///
    /// ```
    /// use std::{convert::Infallible, time::Duration};
    /// use taskloom_flow::{WorkItem, WorkQueue, WorkerPool};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let queue = WorkQueue::new(10);
    /// let try_twice = |item: WorkItem<u32>, _worker| async move {
    ///     if item.n_requeues() == 0 {
    ///         item.requeue();
    ///     }
    ///     Ok::<_, Infallible>(())
    /// };
    /// let pool = WorkerPool::start("try", 2, queue.items(), try_twice);
    /// queue.push(7).await.unwrap();
    /// queue.join().await;
    /// let report = pool.drain(Duration::from_secs(1)).await;
    /// assert_eq!(report.workers.iter().map(|it| it.n_done).sum::<u64>(), 2);
    /// # }
    /// ```
    #[must_use]
    pub fn items(&self) -> WorkItems<T> {
        WorkItems { queue: self.clone() }
    }

    /// Waits until all that was pushed is done: at once when nothing is waiting or in work, else
    /// when the last of it is done, whatever is pushed after that.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed by waiting.
    pub async fn join(&self) {
        // Made before the look at the counts: an end between the two is not missed.
        let all_done = self.shared.all_done.notified();
        if self.shared.state.lock().is_done() {
            return;
        }
        all_done.await;
    }

    /// Takes nothing new from now on. What waits can still be popped; after it, pops end with
    /// `None`. Items in work can still be put back.
    pub fn close(&self) {
        self.shared.state.lock().closed = true;
        self.shared.room.close();
        self.shared.ready.close();
    }

    /// Whether the queue was closed; items may still wait in it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.state.lock().closed
    }

    /// How many items wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.state.lock().waiting.len()
    }

    /// Whether no item waits; some may be in work.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many items may wait or be worked on.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shared.capacity
    }

    /// The counts as of now.
    #[must_use]
    pub fn stats(&self) -> WorkQueueStats {
        let state = self.shared.state.lock();
        WorkQueueStats {
            n_waiting: state.waiting.len(),
            n_in_work: state.n_in_work,
            n_pushed: state.n_pushed,
            n_done: state.n_done,
            n_requeued: state.n_requeued,
        }
    }
}

impl<T> State<T> {
    fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.n_in_work == 0
    }
}

/// An item in work. It counts as done when this is dropped: at the end of the scope, by a panic,
/// or with the future that held it.
///
/// ```
/// use taskloom_flow::WorkQueue;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let queue = WorkQueue::new(1);
/// queue.push("page").await.unwrap();
/// let item = queue.pop().await.unwrap();
/// assert_eq!(item.len(), 4, "it derefs to what was pushed");
/// item.requeue(); // The server was busy.
/// let item = queue.pop().await.unwrap();
/// assert_eq!(item.n_requeues(), 1);
/// item.done();
/// queue.join().await;
/// # }
/// ```
#[must_use = "an item counts as done when it is dropped"]
pub struct WorkItem<T> {
    // Dropped first: whoever joins finds nothing of the item left.
    item: T,
    place: WorkPlace<T>,
}

/// The place of an item that was taken out of its [`WorkItem`]; the item counts as done when this
/// is dropped.
#[must_use = "the item counts as done when its place is dropped"]
pub struct WorkPlace<T> {
    /// `None` once the item was put back.
    shared: Option<Arc<Shared<T>>>,
    n_requeues: u32,
}

impl<T> WorkItem<T> {
    /// Counts the item as done: the same as dropping it.
    pub fn done(self) {
        drop(self);
    }

    /// Puts the item back at the end of the queue, in the place it still has. Never waits, and
    /// works on a closed queue too.
    pub fn requeue(self) {
        self.place.requeue(self.item);
    }

    /// How often this item was put back.
    #[must_use]
    pub fn n_requeues(&self) -> u32 {
        self.place.n_requeues
    }

    /// Takes the item out; it counts as done when the place is dropped.
    pub fn split(self) -> (T, WorkPlace<T>) {
        (self.item, self.place)
    }
}

impl<T> WorkPlace<T> {
    /// Puts `item` into this place, at the end of the queue. Never waits.
    pub fn requeue(mut self, item: T) {
        let Some(shared) = self.shared.take() else { return };
        let mut state = shared.state.lock();
        state.n_in_work -= 1;
        state.n_requeued += 1;
        let n_requeues = self.n_requeues.saturating_add(1);
        state.waiting.push_back(Waiting { item, n_requeues });
        drop(state);
        shared.ready.add_permits(1);
    }
}

impl<T> Drop for WorkPlace<T> {
    fn drop(&mut self) {
        let Some(shared) = self.shared.take() else { return };
        let mut state = shared.state.lock();
        state.n_in_work -= 1;
        state.n_done += 1;
        let is_done = state.is_done();
        drop(state);
        shared.room.add_permits(1);
        if is_done {
            shared.all_done.notify_waiters();
        }
    }
}

impl<T> Deref for WorkItem<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.item
    }
}

impl<T> DerefMut for WorkItem<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.item
    }
}

impl<T: fmt::Debug> fmt::Debug for WorkItem<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WorkItem").field(&self.item).finish()
    }
}

impl<T> fmt::Debug for WorkPlace<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkPlace").field("n_requeues", &self.n_requeues).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
