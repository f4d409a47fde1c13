//! What the cache keeps for a key, and until when it may be served.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::{Lifecycle, Weighter};

/// Nanoseconds since the cache was built: half the size of an `Instant`, and enough for 584 years.
pub(super) type Moment = u64;

/// The moment that never comes.
pub(super) const NEVER: Moment = Moment::MAX;

/// A value, or an error that is remembered, with the times that say who may have it.
#[derive(Debug, Clone)]
pub(super) struct Entry<V, E> {
    pub(super) value: Result<V, E>,
    /// Before this moment it is served as it is.
    pub(super) fresh_until: Moment,
    /// From this moment on a caller should start a refresh: `fresh_until`, or later when a refresh
    /// has failed.
    pub(super) refresh_at: Moment,
    /// From this moment on it is served to nobody.
    pub(super) ends_at: Moment,
    /// Weighed once, when it was made: the eviction relies on weights that never change.
    pub(super) weight: u64,
    /// Only in a cache with `ttl_idle`.
    pub(super) idle: Option<Idle>,
}

/// When an entry was used last. Written by every hit, read by the next; shared by all copies.
#[derive(Debug, Clone)]
pub(super) struct Idle {
    used_at: Arc<AtomicU64>,
    max: Moment,
}

/// What a look into the cache found.
pub(super) enum Found<V, E> {
    Fresh(Result<V, E>),
    /// An old value that may still be served, and whether a refresh is due.
    Stale {
        value: V,
        refresh_due: bool,
    },
    /// Something that has ended.
    Over,
    Nothing,
}

impl Idle {
    pub(super) fn new(now: Moment, max: Moment) -> Self {
        Idle { used_at: Arc::new(AtomicU64::new(now)), max }
    }
}

impl<V, E> Entry<V, E> {
    /// Whether a look needs to know the time at all.
    pub(super) fn lasts_for_ever(&self) -> bool {
        self.fresh_until == NEVER && self.idle.is_none()
    }

    pub(super) fn is_over(&self, now: Moment) -> bool {
        let was_idle = |it: &Idle| it.max <= now.saturating_sub(it.used_at.load(Ordering::Relaxed));
        self.ends_at <= now || self.idle.as_ref().is_some_and(was_idle)
    }

    /// What a caller at `now` gets of it. Counts as a use.
    pub(super) fn serve(self, now: Moment) -> Found<V, E> {
        if self.is_over(now) {
            return Found::Over;
        }
        if let Some(idle) = &self.idle {
            idle.used_at.store(now, Ordering::Relaxed);
        }
        match self.value {
            Ok(value) if self.fresh_until <= now => {
                Found::Stale { value, refresh_due: self.refresh_at <= now }
            }
            value => Found::Fresh(value),
        }
    }
}

/// Reads the weight that an entry carries.
#[derive(Debug, Clone)]
pub(super) struct CarriedWeight;

impl<K, V, E> Weighter<K, Entry<V, E>> for CarriedWeight {
    fn weight(&self, _key: &K, entry: &Entry<V, E>) -> u64 {
        entry.weight
    }
}

/// Counts evictions, and hands what was evicted out of the lock: a value's drop may do anything.
pub(super) struct Evictions<K, V, E> {
    pub(super) n_evicted: Arc<AtomicU64>,
    pub(super) kind: PhantomData<fn(K, V, E)>,
}

impl<K, V, E> Clone for Evictions<K, V, E> {
    fn clone(&self) -> Self {
        Evictions { n_evicted: Arc::clone(&self.n_evicted), kind: PhantomData }
    }
}

/// What one operation pushed out. Most push out one at a time, which needs no `Vec`.
pub(super) struct Evicted<K, V, E> {
    first: Option<(K, Entry<V, E>)>,
    rest: Vec<(K, Entry<V, E>)>,
}

impl<K, V, E> Default for Evicted<K, V, E> {
    fn default() -> Self {
        Evicted { first: None, rest: Vec::new() }
    }
}

impl<K, V, E> Lifecycle<K, Entry<V, E>> for Evictions<K, V, E> {
    type RequestState = Evicted<K, V, E>;

    /// Unlike `on_evict`, it is not called for an entry that another one replaces.
    fn before_evict(&self, _: &mut Evicted<K, V, E>, _key: &K, _entry: &mut Entry<V, E>) {
        self.n_evicted.fetch_add(1, Ordering::Relaxed);
    }

    fn on_evict(&self, evicted: &mut Evicted<K, V, E>, key: K, entry: Entry<V, E>) {
        if evicted.first.is_none() {
            evicted.first = Some((key, entry));
        } else {
            evicted.rest.push((key, entry));
        }
    }
}
