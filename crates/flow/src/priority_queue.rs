//! A bounded queue between routines that hands out the highest priority first.
//!
//! # Invariants
//! - At most `capacity` items wait, and each accepted item is popped once.
//! - Items of one priority leave in the order they were accepted.
//! - Those who wait, to push or to pop, are served in the order they came.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, TryAcquireError};

use crate::{QueueClosed, TryPushError};

/// A bounded priority queue for several producers and consumers, as `asyncio.PriorityQueue`:
/// highest priority first (use [`std::cmp::Reverse`] for lowest first), first in first out within
/// a priority. Clones are handles to the same queue.
///
/// ```
/// use taskloom_flow::PriorityQueue;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let queue = PriorityQueue::new(100);
/// queue.push("letter", 1).await.unwrap();
/// queue.push("fire", 9).await.unwrap();
/// queue.push("postcard", 1).await.unwrap();
/// queue.close();
///
/// let mut order = Vec::new();
/// while let Some(item) = queue.pop().await {
///     order.push(item);
/// }
/// assert_eq!(order, ["fire", "letter", "postcard"]);
/// # }
/// ```
pub struct PriorityQueue<T, P> {
    shared: Arc<Shared<T, P>>,
}

struct Shared<T, P> {
    state: Mutex<State<T, P>>,
    /// A permit for each free place; closed with the queue.
    room: Semaphore,
    /// A permit for each waiting item, until the queue is closed: then nobody waits any more.
    ready: Semaphore,
    capacity: usize,
}

struct State<T, P> {
    waiting: BinaryHeap<Entry<T, P>>,
    /// How many were accepted: the age of the next one.
    n_pushed: u64,
    closed: bool,
}

struct Entry<T, P> {
    priority: P,
    age: u64,
    item: T,
}

impl<T, P: Ord> Ord for Entry<T, P> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.priority.cmp(&other.priority).then(other.age.cmp(&self.age))
    }
}

impl<T, P: Ord> PartialOrd for Entry<T, P> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T, P: Ord> PartialEq for Entry<T, P> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T, P: Ord> Eq for Entry<T, P> {}

impl<T, P> Clone for PriorityQueue<T, P> {
    fn clone(&self) -> Self {
        PriorityQueue { shared: Arc::clone(&self.shared) }
    }
}

impl<T, P> fmt::Debug for PriorityQueue<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state.lock();
        f.debug_struct("PriorityQueue")
            .field("n_waiting", &state.waiting.len())
            .field("capacity", &self.shared.capacity)
            .field("closed", &state.closed)
            .finish()
    }
}

impl<T, P: Ord> PriorityQueue<T, P> {
    /// An empty queue with room for `capacity` items; 0 counts as 1.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.clamp(1, Semaphore::MAX_PERMITS);
        let state = State { waiting: BinaryHeap::new(), n_pushed: 0, closed: false };
        let shared = Shared {
            state: Mutex::new(state),
            room: Semaphore::new(capacity),
            ready: Semaphore::new(0),
            capacity,
        };
        PriorityQueue { shared: Arc::new(shared) }
    }

    /// Waits for a free place and puts `item` in it.
    ///
    /// # Errors
    /// [`QueueClosed`] with the item, when the queue is closed, before or while this waits.
    ///
    /// # Cancel safety
    /// A push that is dropped while it waits leaves nothing in the queue; the item is dropped.
    pub async fn push(&self, item: T, priority: P) -> Result<(), QueueClosed<T>> {
        let Ok(place) = self.shared.room.acquire().await else { return Err(QueueClosed(item)) };
        // The place goes with the item; `pop` frees it.
        place.forget();
        self.put(item, priority)
    }

    /// Puts `item` in a free place, if there is one and nobody waits for it. Never waits.
    ///
    /// # Errors
    /// [`TryPushError`] with the item, when the queue is full or closed.
    pub fn try_push(&self, item: T, priority: P) -> Result<(), TryPushError<T>> {
        match self.shared.room.try_acquire() {
            Ok(place) => place.forget(),
            Err(TryAcquireError::NoPermits) => return Err(TryPushError::Full(item)),
            Err(TryAcquireError::Closed) => return Err(TryPushError::Closed(item)),
        }
        self.put(item, priority).map_err(|QueueClosed(item)| TryPushError::Closed(item))
    }

    fn put(&self, item: T, priority: P) -> Result<(), QueueClosed<T>> {
        let mut state = self.shared.state.lock();
        if state.closed {
            return Err(QueueClosed(item));
        }
        let age = state.n_pushed;
        state.n_pushed += 1;
        state.waiting.push(Entry { priority, age, item });
        drop(state);
        self.shared.ready.add_permits(1);
        Ok(())
    }

    /// Waits for an item and takes the one of the highest priority; `None` once the queue is
    /// closed and empty.
    ///
    /// # Cancel safety
    /// Safe: a pop that is dropped takes no item.
    pub async fn pop(&self) -> Option<T> {
        if let Ok(item) = self.shared.ready.acquire().await {
            item.forget();
        }
        // Closed in the meantime or not, there is an item here, or there will never be one.
        self.take()
    }

    /// Takes the item of the highest priority, if one waits. Never waits.
    #[must_use]
    pub fn try_pop(&self) -> Option<T> {
        match self.shared.ready.try_acquire() {
            Ok(item) => item.forget(),
            Err(TryAcquireError::NoPermits) => return None,
            Err(TryAcquireError::Closed) => {}
        }
        self.take()
    }

    fn take(&self) -> Option<T> {
        let entry = self.shared.state.lock().waiting.pop()?;
        self.shared.room.add_permits(1);
        Some(entry.item)
    }

    /// Takes nothing new from now on. What waits can still be popped; after it, pops end with
    /// `None`.
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

    /// Whether no item waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many items may wait.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shared.capacity
    }
}

#[cfg(test)]
mod tests;
