//! A cache for async code: values with a time to live, loaded once however many ask.
//!
//! # Invariants
//! - Of those who ask for a key at the same time, one runs its loader; a leader that is cancelled
//!   or panics hands over to the next, so nobody waits for a loader that is gone.
//! - An `insert` or a `remove` during a load wins: what that load brings is stored nowhere.
//! - Past its TTL and `stale_for`, a value is served to nobody.

mod builder;
mod entry;
mod flight;
mod shared;
mod stats;
#[cfg(test)]
mod tests;

use std::borrow::Borrow;
use std::convert::Infallible;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use tokio::sync::Semaphore;

pub use self::builder::CacheBuilder;
pub use self::stats::CacheStats;

use self::entry::Found;
use self::flight::Turn;
use self::shared::Shared;
use crate::TaskGroup;

/// A bounded cache with a time to live, for values that are slow to get.
///
/// [`get_or_load`](Cache::get_or_load) is all that most code needs: it answers from the cache, or
/// runs the loader once for all who ask meanwhile. `E` is the loaders' error; those who waited each
/// get a copy of it, so wrap in an `Arc` one that isn't `Clone`. Values are cloned as well: put
/// large ones into an `Arc`. Share the cache itself by an `Arc` too; dropping it aborts its
/// refreshes.
///
/// What stays when there is no room is decided by how often and how lately it was asked for
/// (Clock-PRO with ideas of S3-FIFO, by the crate [`quick_cache`]). Entries whose time is over take
/// room until they are asked for, pushed out, or swept by [`retain`](Cache::retain). Time is
/// Tokio's, paused or not.
///
/// ```
/// use std::time::Duration;
/// use taskloom_flow::Cache;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let ages: Cache<String, u32, String> =
///     Cache::builder(10_000).ttl(Duration::from_secs(60)).build();
/// let age = ages.get_or_load("Ada", || async { Ok(36) }).await;
/// assert_eq!(age, Ok(36));
/// // Within the minute it comes from the cache, and the loader does not run.
/// let age = ages.get_or_load("Ada", || async { Err("no server".to_owned()) }).await;
/// assert_eq!(age, Ok(36));
///
/// tokio::time::advance(Duration::from_secs(60)).await;
/// assert_eq!(ages.get("Ada"), None);
/// assert_eq!(ages.stats().loads, 1);
/// # }
/// ```
pub struct Cache<K, V, E = Infallible> {
    shared: Arc<Shared<K, V, E>>,
    refresh_slots: Arc<Semaphore>,
    refreshes: Mutex<TaskGroup>,
}

impl<K, V, E> std::fmt::Debug for Cache<K, V, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("entries", &self.shared.entries).finish_non_exhaustive()
    }
}

impl<K, V, E> Cache<K, V, E> {
    /// The settings of a cache for about `capacity` entries, or of that much weight with a
    /// [`weigher`](CacheBuilder::weigher). A cache of 0 keeps nothing, and coalesces loads still.
    pub fn builder(capacity: u64) -> CacheBuilder<K, V, E> {
        CacheBuilder::new(capacity)
    }
}

impl<K: Clone + Eq + Hash, V: Clone, E: Clone> Cache<K, V, E> {
    /// The value of `key`, if one may be served: fresh, or old and within `stale_for`. An error
    /// that is remembered counts as none.
    pub fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let counters = &self.shared.counters;
        match self.shared.look(key) {
            Found::Fresh(Ok(value)) => {
                counters.hit();
                return Some(value);
            }
            Found::Stale { value, .. } => {
                counters.stale_hits.add();
                return Some(value);
            }
            Found::Over => {
                let now = self.shared.now();
                drop(self.shared.entries.remove_if(key, |it| it.is_over(now)));
            }
            Found::Fresh(Err(_)) | Found::Nothing => {}
        }
        counters.misses.add();
        None
    }

    /// Stores a value, in place of any other. A load of `key` that is under way stores nothing
    /// any more; those who wait for it get what it brings.
    pub fn insert(&self, key: K, value: V) {
        let shared = &self.shared;
        let entry = shared.entry_of(&key, Ok(value));
        let mut shard = shared.flights.shard(&key);
        let detached = shard.remove(&key);
        let replaced = shared.replace(key, entry);
        drop(shard);
        drop((detached, replaced));
    }

    /// Forgets `key`, and returns the value that could have been served. Whoever asks from now on
    /// starts a load anew, even when one is under way: that one may have read what is out of date.
    pub fn remove<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let shared = &self.shared;
        let mut shard = shared.flights.shard(key);
        let detached = shard.remove(key);
        let removed = shared.entries.remove(key);
        drop(shard);
        drop(detached);
        match removed?.1.serve(shared.now()) {
            Found::Fresh(value) => value.ok(),
            Found::Stale { value, .. } => Some(value),
            Found::Over | Found::Nothing => None,
        }
    }

    /// Forgets every key, as [`remove`](Cache::remove) does.
    pub fn invalidate_all(&self) {
        self.shared.flights.detach_all();
        self.shared.entries.clear();
    }

    /// Keeps the values that `keep` says, and forgets the others, every error that is remembered,
    /// and every entry whose time is over. Loads under way store nothing. Meant for rare use: it
    /// looks at every entry, under a lock. `keep` must not use the cache.
    pub fn retain(&self, keep: impl Fn(&K, &V) -> bool) {
        self.shared.flights.detach_all();
        let now = self.shared.now();
        self.shared.entries.retain(|key, entry| {
            !entry.is_over(now) && entry.value.as_ref().is_ok_and(|value| keep(key, value))
        });
    }

    /// The value of `key`; when there is none, `load` gets it, for everyone who asks meanwhile.
    ///
    /// One caller loads, in its own task, and the others wait. When that caller is cancelled or
    /// its loader panics, the next runs its own loader. An old value within `stale_for` is
    /// returned at once, and then `load` may run in the background: that is why it owns what it
    /// uses. For a loader that borrows there is
    /// [`get_or_load_in_place`](Cache::get_or_load_in_place).
    ///
    /// A loader may ask for other keys. Two loaders that ask for each other's key wait for ever.
    ///
    /// # Errors
    /// That of the loader, own or waited for, or a remembered one.
    ///
    /// # Panics
    /// When a loader asks for the key that it is loading. For a refresh, outside a Tokio runtime.
    ///
    /// # Cancel safety
    /// Safe: a load is dropped with its caller, and another one who waits begins it anew.
    pub async fn get_or_load<Q, F, Fut>(&self, key: &Q, load: F) -> Result<V, E>
    where
        K: Borrow<Q> + Send + Sync + 'static,
        Q: ToOwned<Owned = K> + Hash + Eq + ?Sized,
        V: Send + Sync + 'static,
        E: Send + Sync + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
    {
        match self.shared.look(key) {
            Found::Fresh(value) => {
                self.shared.counters.hit();
                value
            }
            Found::Stale { value, refresh_due } => {
                self.shared.counters.stale_hits.add();
                if refresh_due {
                    self.refresh(key.to_owned(), load);
                }
                Ok(value)
            }
            Found::Over | Found::Nothing => self.shared.load(key.to_owned(), load).await,
        }
    }

    /// The same with a loader that may borrow. It never runs in the background: a value that is
    /// no longer fresh is loaded while its caller waits, and served still to who uses
    /// [`get`](Cache::get) or [`get_or_load`](Cache::get_or_load).
    ///
    /// # Errors
    /// That of the loader, own or waited for, or a remembered one.
    ///
    /// # Panics
    /// When a loader asks for the key that it is loading.
    ///
    /// # Cancel safety
    /// Safe, as [`get_or_load`](Cache::get_or_load).
    pub async fn get_or_load_in_place<Q, F, Fut>(&self, key: &Q, load: F) -> Result<V, E>
    where
        K: Borrow<Q>,
        Q: ToOwned<Owned = K> + Hash + Eq + ?Sized,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<V, E>>,
    {
        if let Found::Fresh(value) = self.shared.look(key) {
            self.shared.counters.hit();
            return value;
        }
        self.shared.load(key.to_owned(), load).await
    }

    /// What it has done so far, and what it holds.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        let shared = &self.shared;
        CacheStats {
            hits: shared.counters.hits(),
            stale_hits: shared.counters.stale_hits.get(),
            misses: shared.counters.misses.get(),
            loads: shared.counters.loads.get(),
            load_errors: shared.counters.load_errors.get(),
            coalesced: shared.counters.coalesced.get(),
            evictions: shared.n_evicted.load(Ordering::Relaxed),
            entries: shared.entries.len() as u64,
            weight: shared.entries.weight(),
        }
    }

    /// Runs `load` in the background, unless the key is being loaded or too many run already.
    fn refresh<F, Fut>(&self, key: K, load: F)
    where
        K: Send + Sync + 'static,
        V: Send + Sync + 'static,
        E: Send + Sync + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
    {
        let Ok(slot) = Arc::clone(&self.refresh_slots).try_acquire_owned() else { return };
        let Some(seat) = self.shared.flights.begin(key) else { return };
        let shared = Arc::clone(&self.shared);
        self.refreshes.lock().spawn("cache refresh", async move {
            let _slot = slot;
            // By now a caller may have taken the lead, when the value's time was over.
            if let Some(Turn::Lead(turn)) = seat.try_lead() {
                shared.lead(seat, turn, load).await.ok();
            }
        });
    }
}
