//! Single flight: of those who want a key at the same time, one loads and the others wait.
//!
//! # Invariants
//! - A flight has at most one leader, who holds its one permit.
//! - A leader who leaves without an outcome passes the permit to the one who waits longest.
//! - A flight that was detached (its key was inserted or removed meanwhile) stores nothing.
//! - A flight that nobody is on any more is in no map.

use std::borrow::Borrow;
use std::cell::RefCell;
use std::collections::{HashMap, hash_map};
use std::future::Future;
use std::hash::{BuildHasher as _, Hash};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use parking_lot::{Mutex, MutexGuard};
use quick_cache::DefaultHashBuilder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// How many locks the flights of one cache are spread over; a power of two.
const N_SHARDS: usize = 16;

/// Those who want one key at the same time, and what they will get.
#[derive(Debug)]
pub(super) struct Flight<V, E> {
    /// One permit: who holds it loads. Closed when there is an outcome.
    turn: Arc<Semaphore>,
    /// Written once by the leader, before `turn` is closed; read by all others.
    outcome: OnceLock<Result<V, E>>,
}

/// A flight that can be boarded, and how many are on it.
#[derive(Debug)]
pub(super) struct Boarding<V, E> {
    flight: Arc<Flight<V, E>>,
    n_seats: usize,
}

/// The flights under way of a part of the keys.
pub(super) type Shard<K, V, E> = HashMap<K, Boarding<V, E>, DefaultHashBuilder>;

/// Every load under way of one cache: as many as have callers.
#[derive(Debug)]
pub(super) struct Flights<K, V, E> {
    shards: [Mutex<Shard<K, V, E>>; N_SHARDS],
    hasher: DefaultHashBuilder,
}

/// A caller's place on a flight. Dropping it leaves the flight.
pub(super) struct Seat<K: Eq + Hash, V, E> {
    pub(super) key: K,
    flight: Arc<Flight<V, E>>,
    flights: Arc<Flights<K, V, E>>,
}

/// What the wait on a flight came to.
pub(super) enum Turn<V, E> {
    /// The caller loads now. Dropping the permit hands the flight over.
    Lead(OwnedSemaphorePermit),
    /// Another one has loaded.
    Landed(Result<V, E>),
}

impl<K: Clone + Eq + Hash, V: Clone, E: Clone> Flights<K, V, E> {
    pub(super) fn new() -> Self {
        let hasher = DefaultHashBuilder::default();
        let shard = |_| Mutex::new(HashMap::with_hasher(hasher.clone()));
        Flights { shards: std::array::from_fn(shard), hasher }
    }

    /// Takes a seat on the flight of `key`, which begins with it when there is none.
    pub(super) fn board(self: &Arc<Self>, key: K) -> Seat<K, V, E> {
        let mut shard = self.shard(&key);
        let boarding = shard.entry(key.clone()).or_insert_with(Boarding::new);
        boarding.n_seats += 1;
        let flight = Arc::clone(&boarding.flight);
        drop(shard);
        Seat { key, flight, flights: Arc::clone(self) }
    }

    /// Begins a flight of `key`; `None` when there is one.
    pub(super) fn begin(self: &Arc<Self>, key: K) -> Option<Seat<K, V, E>> {
        let mut shard = self.shard(&key);
        let hash_map::Entry::Vacant(vacant) = shard.entry(key.clone()) else { return None };
        let boarding = vacant.insert(Boarding::new());
        boarding.n_seats = 1;
        let flight = Arc::clone(&boarding.flight);
        drop(shard);
        Some(Seat { key, flight, flights: Arc::clone(self) })
    }
}

impl<K: Eq + Hash, V, E> Flights<K, V, E> {
    /// Locks the flights that `key` belongs to.
    pub(super) fn shard<Q>(&self, key: &Q) -> MutexGuard<'_, Shard<K, V, E>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        // The map below uses the low and the highest bits.
        let hash = self.hasher.hash_one(key) >> 32;
        let index = usize::try_from(hash).unwrap_or_default() % N_SHARDS;
        self.shards[index].lock()
    }

    /// Detaches every flight: what is being loaded will not be stored.
    pub(super) fn detach_all(&self) {
        for shard in &self.shards {
            shard.lock().clear();
        }
    }
}

impl<V, E> Boarding<V, E> {
    fn new() -> Self {
        let turn = Arc::new(Semaphore::new(1));
        Boarding { flight: Arc::new(Flight { turn, outcome: OnceLock::new() }), n_seats: 0 }
    }
}

impl<K: Clone + Eq + Hash, V: Clone, E: Clone> Seat<K, V, E> {
    /// Leads at once when nobody does.
    pub(super) fn try_lead(&self) -> Option<Turn<V, E>> {
        match Arc::clone(&self.flight.turn).try_acquire_owned() {
            Ok(permit) => Some(Turn::Lead(permit)),
            Err(TryAcquireError::Closed) => Some(self.landed()),
            Err(TryAcquireError::NoPermits) => None,
        }
    }

    /// Waits until the flight has an outcome, or the leader has left without one.
    ///
    /// # Panics
    /// When the caller is the leader's own loader: it would wait for itself.
    pub(super) async fn wait(&self) -> Turn<V, E> {
        assert!(
            !is_inside(self.address()),
            "a loader asked its cache for the very key it is loading, and would wait for itself: \
             let the loader read the source, or ask the cache for another key"
        );
        match Arc::clone(&self.flight.turn).acquire_owned().await {
            Ok(permit) => Turn::Lead(permit),
            Err(_) => self.landed(),
        }
    }

    fn landed(&self) -> Turn<V, E> {
        let outcome = self.flight.outcome.get();
        Turn::Landed(outcome.expect("the outcome is there before the turn is closed").clone())
    }

    /// Marks `load` as run by the leader of this flight.
    pub(super) fn loading<F>(&self, load: F) -> Loading<F> {
        Loading { load, flight: self.address() }
    }

    fn address(&self) -> usize {
        Arc::as_ptr(&self.flight).addr()
    }

    /// Ends the flight: runs `store` unless it was detached, then gives everyone the outcome.
    pub(super) fn land<T>(&self, outcome: Result<V, E>, store: impl FnOnce() -> T) {
        let mut shard = self.flights.shard(&self.key);
        let mut stored = None;
        if self.is_in(&shard) {
            stored = Some(store());
            shard.remove(&self.key);
        }
        drop(shard);
        // Outside the lock: what the store pushed out may do anything when dropped.
        drop(stored);
        self.flight.outcome.set(outcome).ok();
        self.flight.turn.close();
    }
}

impl<K: Eq + Hash, V, E> Seat<K, V, E> {
    fn is_in(&self, shard: &Shard<K, V, E>) -> bool {
        shard.get(&self.key).is_some_and(|it| Arc::ptr_eq(&it.flight, &self.flight))
    }
}

impl<K: Eq + Hash, V, E> Drop for Seat<K, V, E> {
    fn drop(&mut self) {
        if self.flight.turn.is_closed() {
            return;
        }
        let mut shard = self.flights.shard(&self.key);
        if !self.is_in(&shard) {
            return;
        }
        let seats = shard.get_mut(&self.key).map(|it| &mut it.n_seats);
        let seats = seats.expect("it was found just now");
        *seats -= 1;
        if *seats == 0 {
            shard.remove(&self.key);
        }
    }
}

thread_local! {
    /// The flights whose loaders this thread is inside of, as addresses, outermost first.
    static INSIDE: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

fn is_inside(flight: usize) -> bool {
    INSIDE.with_borrow(|it| it.contains(&flight))
}

/// Marks this thread as inside a loader until it is dropped.
struct Inside;

impl Inside {
    fn enter(flight: usize) -> Self {
        INSIDE.with_borrow_mut(|it| it.push(flight));
        Inside
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.with_borrow_mut(Vec::pop);
    }
}

pin_project_lite::pin_project! {
    /// A loader's future that knows whose flight it leads.
    pub(super) struct Loading<F> {
        #[pin]
        load: F,
        flight: usize,
    }
}

impl<F: Future> Future for Loading<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _inside = Inside::enter(*this.flight);
        this.load.poll(cx)
    }
}
