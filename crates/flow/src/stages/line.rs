//! The bounded line in front of a stage: entries move in and out of it many at a time.
//!
//! # Invariants
//! - At most `capacity` entries are held: an entry keeps its place until what became of it has
//!   moved on, so room is also the bound of what is in work or waits for its predecessors.
//! - Who is woken and leaves something to do wakes the next one: no wake-up is lost.
//! - By key: at most one entry of a key is with the workers or first in line.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry as Slot, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// An item on its way.
pub(super) struct Entry<T> {
    /// In order: its number in the line. By key: the hash of its key.
    pub(super) tag: u64,
    /// When it was put in line, in nanoseconds since the start.
    pub(super) at: u64,
    pub(super) value: T,
}

/// The hash of an item's key.
pub(super) type KeyOf<T> = Arc<dyn Fn(&T) -> u64 + Send + Sync>;

/// What order a stage keeps.
pub(super) enum Order<T> {
    /// None.
    Any,
    /// That of the line.
    Fifo,
    /// That of the items of one key. Without a function, each item has its ancestor's key.
    ByKey(Option<KeyOf<T>>),
}

/// The pipeline ended early; nothing moves any more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Aborted;

/// Places to give back, and in a line by key, whose turn is over.
#[derive(Debug, Default)]
pub(super) struct Finished {
    pub(super) n: usize,
    keys: Vec<u64>,
}

impl Finished {
    /// `n` entries of a line in order.
    pub(super) fn places(n: usize) -> Self {
        Finished { n, keys: Vec::new() }
    }
}

pub(super) struct Line<T> {
    state: Mutex<State<T>>,
    /// Tells workers of entries, or of the end.
    ready: Notify,
    /// Tells those upstream of room, or of the end.
    room: Notify,
    pub(super) order: Order<T>,
    pub(super) capacity: usize,
    /// How much room must be free before those upstream are woken for it: waking them for every
    /// single place would cost more than the work.
    room_min: usize,
}

struct State<T> {
    waiting: VecDeque<Entry<T>>,
    /// By key: what waits for each key that is with the workers or in `waiting`.
    behind: HashMap<u64, VecDeque<Entry<T>>, TagHashing>,
    n_held: usize,
    n_waiting: usize,
    n_waiting_max: usize,
    n_put: u64,
    n_senders: usize,
    n_takers: usize,
    aborted: bool,
}

type TagHashing = BuildHasherDefault<TagHasher>;

/// Tags are hashes already, made with random keys.
#[derive(Debug, Default)]
struct TagHasher(u64);

impl Hasher for TagHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("a tag is a u64")
    }

    fn write_u64(&mut self, tag: u64) {
        self.0 = tag;
    }
}

/// What a look at the line found.
enum Taken {
    Some,
    Nothing,
    End,
}

impl<T: Send> Line<T> {
    pub(super) fn new(capacity: usize, order: Order<T>) -> Arc<Self> {
        let state = State {
            waiting: VecDeque::new(),
            behind: HashMap::default(),
            n_held: 0,
            n_waiting: 0,
            n_waiting_max: 0,
            n_put: 0,
            n_senders: 0,
            n_takers: 0,
            aborted: false,
        };
        Arc::new(Line {
            state: Mutex::new(state),
            ready: Notify::new(),
            room: Notify::new(),
            order,
            capacity,
            room_min: (capacity / 4).max(1),
        })
    }

    pub(super) fn sender(self: &Arc<Self>) -> Sender<T> {
        self.state.lock().n_senders += 1;
        Sender { line: Arc::clone(self) }
    }

    pub(super) fn taker(self: &Arc<Self>) -> Taker<T> {
        self.state.lock().n_takers += 1;
        Taker { line: Arc::clone(self) }
    }

    fn try_send(&self, batch: &mut Vec<Entry<T>>) -> Result<bool, Aborted> {
        let mut state = self.state.lock();
        if state.aborted {
            drop(state);
            self.room.notify_one();
            return Err(Aborted);
        }
        let n = batch.len().min(self.capacity.saturating_sub(state.n_held));
        for entry in batch.drain(..n) {
            state.put(&self.order, entry);
        }
        state.n_held += n;
        state.n_waiting += n;
        state.n_waiting_max = state.n_waiting_max.max(state.n_waiting);
        let others_may_send = 1 < state.n_senders && state.n_held < self.capacity;
        drop(state);
        if 0 < n {
            self.ready.notify_one();
        }
        if others_may_send {
            self.room.notify_one();
        }
        Ok(batch.is_empty())
    }

    fn try_take(
        &self,
        chunk: &mut VecDeque<Entry<T>>,
        n_max: usize,
        finished: &mut Finished,
    ) -> Taken {
        let mut state = self.state.lock();
        let frees_room = 0 < finished.n;
        state.release(finished);
        let has_room = state.n_held + self.room_min <= self.capacity;
        let n = n_max.min(state.waiting.len());
        chunk.extend(state.waiting.drain(..n));
        state.n_waiting -= n;
        let others_may_take = 1 < state.n_takers && !state.waiting.is_empty();
        let is_end = state.is_end();
        drop(state);
        if frees_room && has_room {
            self.room.notify_one();
        }
        if others_may_take || is_end {
            self.ready.notify_one();
        }
        match n {
            _ if is_end => Taken::End,
            0 => Taken::Nothing,
            _ => Taken::Some,
        }
    }

    fn give_back(&self, chunk: &mut VecDeque<Entry<T>>) {
        let mut state = self.state.lock();
        if state.aborted || chunk.is_empty() {
            return;
        }
        state.n_waiting += chunk.len();
        while let Some(entry) = chunk.pop_back() {
            // Others may have given back earlier entries, or later ones; a line in order is sorted.
            let place = match self.order {
                Order::Any | Order::ByKey(_) => 0,
                Order::Fifo => state.waiting.partition_point(|it| it.tag < entry.tag),
            };
            state.waiting.insert(place, entry);
        }
        drop(state);
        self.ready.notify_one();
    }

    fn release(&self, finished: &mut Finished) {
        let mut state = self.state.lock();
        state.release(finished);
        let has_room = state.n_held + self.room_min <= self.capacity;
        let has_news = !state.waiting.is_empty() || state.is_end();
        drop(state);
        if has_room {
            self.room.notify_one();
        }
        if has_news {
            self.ready.notify_one();
        }
    }
}

impl<T> State<T> {
    fn put(&mut self, order: &Order<T>, mut entry: Entry<T>) {
        match order {
            Order::Any => {}
            Order::Fifo => {
                entry.tag = self.n_put;
                self.n_put += 1;
            }
            Order::ByKey(_) => match self.behind.entry(entry.tag) {
                Slot::Occupied(mut behind) => return behind.get_mut().push_back(entry),
                Slot::Vacant(slot) => drop(slot.insert(VecDeque::new())),
            },
        }
        self.waiting.push_back(entry);
    }

    fn release(&mut self, finished: &mut Finished) {
        self.n_held = self.n_held.saturating_sub(std::mem::take(&mut finished.n));
        for key in finished.keys.drain(..) {
            match self.behind.get_mut(&key).and_then(VecDeque::pop_front) {
                // At the end of the line: a busy key does not keep the workers from the others.
                Some(next) => self.waiting.push_back(next),
                None => drop(self.behind.remove(&key)),
            }
        }
    }

    /// As long as anything is held, it may be given back to be worked on.
    fn is_end(&self) -> bool {
        self.aborted || (self.n_senders == 0 && self.n_held == 0)
    }
}

/// What the rest of the pipeline may ask of a line, whatever moves in it.
pub(super) trait AnyLine: Send + Sync {
    /// Drops what waits; those who send or take learn of it.
    fn abort(&self);
    /// How many entries wait, now and at most so far.
    fn depth(&self) -> (usize, usize);
}

impl<T: Send> AnyLine for Line<T> {
    fn abort(&self) {
        let mut state = self.state.lock();
        state.aborted = true;
        state.n_waiting = 0;
        let waiting = std::mem::take(&mut state.waiting);
        let behind = std::mem::take(&mut state.behind);
        drop(state);
        self.ready.notify_one();
        self.room.notify_one();
        // Outside the lock: an item may own anything.
        drop((waiting, behind));
    }

    fn depth(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.n_waiting, state.n_waiting_max)
    }
}

/// One of those upstream; the line ends with the last of them.
pub(super) struct Sender<T: Send> {
    line: Arc<Line<T>>,
}

impl<T: Send> Sender<T> {
    /// Puts all of `batch` in line, waiting for room as need be.
    pub(super) async fn send(&self, batch: &mut Vec<Entry<T>>) -> Result<(), Aborted> {
        while !self.line.try_send(batch)? {
            self.line.room.notified().await;
        }
        Ok(())
    }

    /// The function that finds an item's tag, when it does not have its ancestor's.
    pub(super) fn key_of(&self) -> Option<KeyOf<T>> {
        match &self.line.order {
            Order::ByKey(Some(key_of)) => Some(Arc::clone(key_of)),
            Order::ByKey(None) | Order::Any | Order::Fifo => None,
        }
    }
}

impl<T: Send> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.line.state.lock();
        state.n_senders -= 1;
        let is_end = state.is_end();
        drop(state);
        if is_end {
            self.line.ready.notify_one();
        }
    }
}

/// One of the workers of a line; when the last of them goes, nothing moves any more.
pub(super) struct Taker<T: Send> {
    line: Arc<Line<T>>,
}

impl<T: Send> Taker<T> {
    /// Gives `finished` back and waits for up to `n_max` entries; `false` at the end of the line.
    /// A call that is dropped takes none.
    pub(super) async fn take(
        &self,
        chunk: &mut VecDeque<Entry<T>>,
        n_max: usize,
        finished: &mut Finished,
    ) -> bool {
        loop {
            match self.line.try_take(chunk, n_max, finished) {
                Taken::Some => return true,
                Taken::Nothing => self.line.ready.notified().await,
                Taken::End => return false,
            }
        }
    }

    /// Puts entries that were not begun back to where they were.
    pub(super) fn give_back(&self, chunk: &mut VecDeque<Entry<T>>) {
        self.line.give_back(chunk);
    }

    /// Gives places back.
    pub(super) fn release(&self, finished: &mut Finished) {
        if 0 < finished.n {
            self.line.release(finished);
        }
    }

    /// Notes that the entry tagged `tag` has moved on.
    pub(super) fn finish(&self, tag: u64, finished: &mut Finished) {
        finished.n += 1;
        if matches!(self.line.order, Order::ByKey(_)) {
            finished.keys.push(tag);
        }
    }
}

impl<T: Send> Drop for Taker<T> {
    fn drop(&mut self) {
        let mut state = self.line.state.lock();
        state.n_takers -= 1;
        let is_dead = state.n_takers == 0;
        drop(state);
        if is_dead {
            self.line.abort();
        }
    }
}
