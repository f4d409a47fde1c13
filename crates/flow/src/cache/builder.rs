//! The settings of a cache.

use std::convert::Infallible;
use std::hash::Hash;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use fastrand::Rng;
use parking_lot::Mutex;
use quick_cache::{DefaultHashBuilder, OptionsBuilder};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::Cache;
use super::entry::{CarriedWeight, Evictions};
use super::flight::Flights;
use super::shared::Shared;
use super::stats::Counters;
use crate::TaskGroup;

/// How many refreshes run at once, unless told otherwise: enough for the keys that matter, and no
/// herd for the source.
const REFRESHES_MAX: usize = 16;

/// Weights are added up in 64 bits, and must not come to more.
const CAPACITY_MAX: u64 = u64::MAX / 4;

type TtlOf<K, V> = Box<dyn Fn(&K, &V) -> Duration + Send + Sync>;
type Weigher<K, V> = Box<dyn Fn(&K, &V) -> u64 + Send + Sync>;

/// The settings of a [`Cache`]; made by [`Cache::builder`].
///
/// ```
/// use std::time::Duration;
/// use taskloom_flow::Cache;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let pages: Cache<String, &str, String> = Cache::builder(10_000)
///     .ttl(Duration::from_secs(60))
///     .stale_for(Duration::from_secs(600))
///     .ttl_error(Duration::from_secs(5))
///     .jitter(0.1)
///     .build();
/// pages.insert("home".to_owned(), "old");
/// tokio::time::advance(Duration::from_secs(61)).await;
///
/// // The old page at once; the new one is loaded meanwhile.
/// assert_eq!(pages.get_or_load("home", || async { Ok("new") }).await, Ok("old"));
/// tokio::task::yield_now().await;
/// assert_eq!(pages.get("home"), Some("new"));
/// # }
/// ```
#[must_use = "a builder does nothing until `build`"]
pub struct CacheBuilder<K, V, E = Infallible> {
    rules: Rules<K, V>,
    capacity: u64,
    /// Without a weigher, the capacity.
    n_entries: Option<usize>,
    n_refreshes_max: usize,
    seed: Option<u64>,
    error: PhantomData<fn() -> E>,
}

/// How long what is kept, and how heavy it is.
pub(super) struct Rules<K, V> {
    pub(super) ttl: Option<Duration>,
    pub(super) ttl_of: Option<TtlOf<K, V>>,
    pub(super) ttl_idle: Option<Duration>,
    pub(super) ttl_error: Option<Duration>,
    pub(super) stale_for: Duration,
    /// The largest part that is taken off a TTL: 0 to 1.
    pub(super) jitter: f64,
    pub(super) weigher: Option<Weigher<K, V>>,
}

impl<K, V, E> std::fmt::Debug for CacheBuilder<K, V, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CacheBuilder").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

impl<K, V, E> CacheBuilder<K, V, E> {
    pub(super) fn new(capacity: u64) -> Self {
        let rules = Rules {
            ttl: None,
            ttl_of: None,
            ttl_idle: None,
            ttl_error: None,
            stale_for: Duration::ZERO,
            jitter: 0.0,
            weigher: None,
        };
        CacheBuilder {
            rules,
            capacity: capacity.min(CAPACITY_MAX),
            n_entries: None,
            n_refreshes_max: REFRESHES_MAX,
            seed: None,
            error: PhantomData,
        }
    }

    /// Counts the capacity in weight: `weigh` says how heavy an entry is, in any unit; 0 counts as
    /// 1, and so does an error. `n_entries` is about how many entries there will be.
    ///
    /// An entry is weighed once, when it is stored. The room is divided among some shards (four a
    /// core, fewer when they'd have under 32 entries each), and an entry that would fill more than
    /// a shard is not kept.
    pub fn weigher(
        mut self,
        n_entries: usize,
        weigh: impl Fn(&K, &V) -> u64 + Send + Sync + 'static,
    ) -> Self {
        self.n_entries = Some(n_entries);
        self.rules.weigher = Some(Box::new(weigh));
        self
    }

    /// How long a value is fresh after it was stored; without it, for ever.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.rules.ttl = Some(ttl);
        self
    }

    /// Asks each value how long it is fresh, in place of [`ttl`](Self::ttl): a token knows when it
    /// expires, and an answer may say `no-store`. A value with a TTL of zero is not kept.
    pub fn ttl_of(mut self, ttl_of: impl Fn(&K, &V) -> Duration + Send + Sync + 'static) -> Self {
        self.rules.ttl_of = Some(Box::new(ttl_of));
        self
    }

    /// Ends an entry that nobody has asked for during `ttl_idle`, fresh or not.
    pub fn ttl_idle(mut self, ttl_idle: Duration) -> Self {
        self.rules.ttl_idle = Some(ttl_idle);
        self
    }

    /// Remembers an error for that long: who asks meanwhile gets it at once (negative caching, as
    /// in RFC 2308). Without it an error goes to those who wait for it, and is forgotten.
    pub fn ttl_error(mut self, ttl_error: Duration) -> Self {
        self.rules.ttl_error = Some(ttl_error);
        self
    }

    /// Serves a value for that long after it ceased to be fresh, while one caller's loader
    /// refreshes it in the background (`stale-while-revalidate`, RFC 5861). When that fails the old
    /// value stays, and the next refresh begins after `ttl_error`, or a second without it.
    pub fn stale_for(mut self, stale_for: Duration) -> Self {
        self.rules.stale_for = stale_for;
        self
    }

    /// Shortens each TTL by a random part of it, up to `part` (0 to 1, others are moved there), so
    /// that what was stored together doesn't end together.
    pub fn jitter(mut self, part: f64) -> Self {
        self.rules.jitter = if part.is_nan() { 0.0 } else { part.clamp(0.0, 1.0) };
        self
    }

    /// Makes the jitter repeat itself, for tests and simulations.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// How many refreshes may run in the background at once, 16 by default. While that many do, old
    /// values are served without beginning another; 0 counts as 1.
    pub fn n_refreshes_max(mut self, n_refreshes_max: usize) -> Self {
        self.n_refreshes_max = n_refreshes_max.max(1);
        self
    }
}

impl<K: Clone + Eq + Hash, V: Clone, E: Clone> CacheBuilder<K, V, E> {
    /// The cache, empty.
    #[must_use]
    pub fn build(self) -> Cache<K, V, E> {
        let capacity = usize::try_from(self.capacity).unwrap_or(usize::MAX);
        let options = OptionsBuilder::new()
            .estimated_items_capacity(self.n_entries.unwrap_or(capacity))
            .weight_capacity(self.capacity)
            .build()
            .expect("both capacities are given");
        let n_evicted = Arc::new(AtomicU64::new(0));
        let evictions = Evictions { n_evicted: Arc::clone(&n_evicted), kind: PhantomData };
        let hasher = DefaultHashBuilder::default();
        let shared = Shared {
            entries: quick_cache::sync::Cache::with_options(
                options,
                CarriedWeight,
                hasher,
                evictions,
            ),
            flights: Arc::new(Flights::new()),
            rules: self.rules,
            epoch: Instant::now(),
            random: Mutex::new(self.seed.map_or_else(Rng::new, Rng::with_seed)),
            counters: Counters::default(),
            n_evicted,
        };
        let n_refreshes_max = self.n_refreshes_max.min(Semaphore::MAX_PERMITS);
        Cache {
            shared: Arc::new(shared),
            refresh_slots: Arc::new(Semaphore::new(n_refreshes_max)),
            refreshes: Mutex::new(TaskGroup::isolated()),
        }
    }
}
