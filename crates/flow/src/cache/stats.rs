//! What a cache counts.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// How many places the count of hits is spread over, so that threads do not wait for each other.
const N_STRIPES: usize = 16;

/// What a [`Cache`](crate::Cache) has done since it was built, and what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStats {
    /// Calls answered at once with a fresh value, or with an error that is remembered.
    pub hits: u64,
    /// Calls answered at once with an old value, within `stale_for`.
    pub stale_hits: u64,
    /// Calls that found nothing to answer with.
    pub misses: u64,
    /// Loaders that were started, refreshes among them.
    pub loads: u64,
    /// Loaders that ended in an error.
    pub load_errors: u64,
    /// Calls that waited for the loader of another one.
    pub coalesced: u64,
    /// Entries that made way for others, or were too heavy to be kept at all.
    pub evictions: u64,
    /// Entries held now, with those that have ended and were not met since.
    pub entries: u64,
    /// Their weight: the same number, without a weigher.
    pub weight: u64,
}

/// The counts of one cache. Written by every call, read by `stats`.
#[derive(Debug, Default)]
pub(super) struct Counters {
    hits: [Stripe; N_STRIPES],
    pub(super) stale_hits: Count,
    pub(super) misses: Count,
    pub(super) loads: Count,
    pub(super) load_errors: Count,
    pub(super) coalesced: Count,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

/// A count on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe(Count);

impl Count {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    pub(super) fn hit(&self) {
        self.hits[stripe()].0.add();
    }

    pub(super) fn hits(&self) -> u64 {
        self.hits.iter().map(|it| it.0.get()).sum()
    }
}

/// The stripe of this thread: threads take turns, the first time they count.
fn stripe() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static STRIPE: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    STRIPE.with(|it| {
        if it.get() == usize::MAX {
            it.set(NEXT.fetch_add(1, Ordering::Relaxed) % N_STRIPES);
        }
        it.get()
    })
}
