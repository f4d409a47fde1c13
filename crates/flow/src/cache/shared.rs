//! The entries of a cache and the rules they are kept by: what its calls and its refreshes share.

use std::borrow::Borrow;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use fastrand::Rng;
use parking_lot::Mutex;
use quick_cache::DefaultHashBuilder;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::builder::Rules;
use super::entry::{CarriedWeight, Entry, Evicted, Evictions, Found, Idle, Moment, NEVER};
use super::flight::{Flights, Seat, Turn};
use super::stats::Counters;

/// How long after a failed refresh the next one begins, in a cache without `ttl_error`.
const REFRESH_PAUSE: Duration = Duration::from_secs(1);

type Entries<K, V, E> =
    quick_cache::sync::Cache<K, Entry<V, E>, CarriedWeight, DefaultHashBuilder, Evictions<K, V, E>>;

/// What refreshes share with the cache that owns them.
pub(super) struct Shared<K, V, E> {
    pub(super) entries: Entries<K, V, E>,
    pub(super) flights: Arc<Flights<K, V, E>>,
    pub(super) rules: Rules<K, V>,
    /// Where its moments are counted from.
    pub(super) epoch: Instant,
    /// For jitter. Locked by what stores, in a cache with jitter.
    pub(super) random: Mutex<Rng>,
    pub(super) counters: Counters,
    pub(super) n_evicted: Arc<AtomicU64>,
}

impl<K: Clone + Eq + Hash, V: Clone, E: Clone> Shared<K, V, E> {
    pub(super) fn look<Q>(&self, key: &Q) -> Found<V, E>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let Some(entry) = self.entries.get(key) else { return Found::Nothing };
        if entry.lasts_for_ever() {
            return Found::Fresh(entry.value);
        }
        entry.serve(self.now())
    }

    pub(super) fn now(&self) -> Moment {
        span_of(Instant::now().saturating_duration_since(self.epoch))
    }

    pub(super) async fn load<F, Fut>(&self, key: K, load: F) -> Result<V, E>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<V, E>>,
    {
        self.counters.misses.add();
        let seat = self.flights.board(key);
        let turn = match seat.try_lead() {
            Some(turn) => turn,
            None => {
                self.counters.coalesced.add();
                seat.wait().await
            }
        };
        match turn {
            Turn::Lead(turn) => self.lead(seat, turn, load).await,
            Turn::Landed(outcome) => outcome,
        }
    }

    /// Loads for all on the flight. A drop before the end hands over: first `turn`, then `seat`.
    pub(super) async fn lead<F, Fut>(
        &self,
        seat: Seat<K, V, E>,
        _turn: OwnedSemaphorePermit,
        load: F,
    ) -> Result<V, E>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<V, E>>,
    {
        // An earlier flight may have landed, or an insert come, between the look and the turn.
        if let Found::Fresh(outcome) = self.look(&seat.key) {
            seat.land(outcome.clone(), || ());
            return outcome;
        }
        self.counters.loads.add();
        let outcome = seat.loading(load()).await;
        if outcome.is_err() {
            self.counters.load_errors.add();
        }
        // Outside the lock: it calls what the user gave.
        let entry = self.entry_of(&seat.key, outcome.clone());
        seat.land(outcome.clone(), || {
            let postponed = if outcome.is_err() { self.postponed(&seat.key) } else { None };
            self.replace(seat.key.clone(), postponed.or(entry))
        });
        outcome
    }

    /// The value that survives a failed refresh, with the time of the next one.
    fn postponed(&self, key: &K) -> Option<Entry<V, E>> {
        let now = self.now();
        let old = self.entries.peek(key)?;
        let survives = old.value.is_ok() && !old.is_over(now);
        let pause = span_of(self.rules.ttl_error.unwrap_or(REFRESH_PAUSE));
        survives.then(|| Entry { refresh_at: now.saturating_add(pause), ..old })
    }

    /// Puts an entry, or nothing, in place of what is there; what it pushes out is for the caller
    /// to drop, outside of locks.
    pub(super) fn replace(&self, key: K, entry: Option<Entry<V, E>>) -> impl Sized + use<K, V, E> {
        let mut evicted = Evicted::default();
        let mut removed = None;
        match entry {
            Some(entry) => self.entries.insert_with_lifecycle(key, entry, &mut evicted),
            None => removed = self.entries.remove(&key),
        }
        (evicted, removed)
    }

    /// What to keep of `value`; `None` when that is nothing.
    pub(super) fn entry_of(&self, key: &K, value: Result<V, E>) -> Option<Entry<V, E>> {
        let rules = &self.rules;
        let (ttl, stale_for) = match &value {
            Err(_) => (Some(rules.ttl_error.unwrap_or_default()), Duration::ZERO),
            Ok(value) => {
                let own = rules.ttl_of.as_ref().map(|ttl_of| ttl_of(key, value));
                (own.or(rules.ttl), rules.stale_for)
            }
        };
        if ttl.is_some_and(|it| it.is_zero()) {
            return None;
        }
        let weight = match (&rules.weigher, &value) {
            (Some(weigher), Ok(value)) => weigher(key, value).max(1),
            (None, _) | (_, Err(_)) => 1,
        };
        let now = self.now();
        let ttl = ttl.map_or(NEVER, |it| self.shortened(span_of(it)));
        let fresh_until = now.saturating_add(ttl);
        Some(Entry {
            value,
            fresh_until,
            refresh_at: fresh_until,
            ends_at: fresh_until.saturating_add(span_of(stale_for)),
            weight,
            idle: rules.ttl_idle.map(|max| Idle::new(now, span_of(max))),
        })
    }

    fn shortened(&self, ttl: Moment) -> Moment {
        if self.rules.jitter == 0.0 {
            return ttl;
        }
        let part = self.rules.jitter * self.random.lock().f64();
        ttl.saturating_sub((ttl as f64 * part) as Moment)
    }
}

fn span_of(duration: Duration) -> Moment {
    Moment::try_from(duration.as_nanos()).unwrap_or(NEVER)
}
