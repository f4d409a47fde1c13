//! One rate limiter for each key: a host, a tenant.
//!
//! # Invariants
//! - At most `n_keys_max` keys are remembered.
//! - A key is forgotten only when its limiter is worth no more than a new one and nobody holds it,
//!   so forgetting lets nothing through that the rate forbids.
//! - Each remembered key stands once in `fresh_from`, at a moment no later than the one from which
//!   it may be forgotten (one that somebody holds: up to an interval later); so when the first is
//!   not due, none is.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{RateLimiter, WouldWait};
use crate::Rate;

/// Every key that is remembered is in use, and there is no room for one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all {n_keys_max} keys are in use; come back in {retry_after:?}, or allow more keys")]
pub struct KeysFull {
    /// How many keys are remembered at most.
    pub n_keys_max: usize,
    /// When the first of them may be forgotten, if nobody uses it until then.
    pub retry_after: Duration,
}

/// The call was not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyedRefusal {
    /// The rate of the key forbids it.
    #[error(transparent)]
    WouldWait(#[from] WouldWait),
    /// There is no room for the key.
    #[error(transparent)]
    KeysFull(#[from] KeysFull),
}

/// One [`RateLimiter`] for each key, such as a host or a tenant, made when the key first comes.
///
/// At most `n_keys_max` keys are remembered. At the bound, keys that are idle, which a new limiter
/// would treat the same, are forgotten, the longest idle first; when none is idle, a new key is
/// refused with [`KeysFull`], and the known ones go on. A rate that [adapted](Self::adaptive) is
/// forgotten a minute after its last change.
///
/// A key may be asked for in its borrowed form: `&str` for a `String`.
///
/// ```
/// use std::time::Duration;
/// use taskloom_flow::KeyedRateLimiter;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let hosts: KeyedRateLimiter<String> = KeyedRateLimiter::new("1/s".parse().unwrap(), 1, 1000);
/// hosts.acquire("a.example").await.unwrap();
/// hosts.acquire("b.example").await.unwrap(); // at once: it has a rate of its own
/// hosts.pause_for("a.example", Duration::from_secs(30)).unwrap();
/// assert!(hosts.try_acquire("a.example").is_err());
/// # }
/// ```
pub struct KeyedRateLimiter<K> {
    n_keys_max: usize,
    /// What `fresh_from` counts from.
    origin: Instant,
    make: Box<dyn Fn(&K) -> RateLimiter + Send + Sync>,
    keys: Mutex<Keys<K>>,
}

struct Keys<K> {
    limiters: HashMap<K, Arc<RateLimiter>>,
    /// No key may be forgotten before the moment it stands at here. The number tells those of one
    /// moment apart.
    fresh_from: BTreeMap<(Duration, u64), K>,
    /// The next such number.
    serial: u64,
}

impl<K: Hash + Eq + Clone> KeyedRateLimiter<K> {
    /// A limiter that lets each of up to `n_keys_max` keys through at `rate`, with up to `burst`
    /// calls at once. Zero counts as 1 for both.
    #[must_use]
    pub fn new(rate: Rate, burst: u32, n_keys_max: usize) -> Self {
        KeyedRateLimiter::with_rates(n_keys_max, move |_| RateLimiter::new(rate, burst))
    }

    /// The same with a limiter of its own making for each key: `make` is called when a key comes
    /// that is not remembered. It must be quick, and must not use this limiter.
    ///
    /// ```
    /// use taskloom_flow::{KeyedRateLimiter, RateLimiter};
    ///
    /// let (slow, fast) = ("1/s".parse().unwrap(), "50/s".parse().unwrap());
    /// let hosts = KeyedRateLimiter::with_rates(1000, move |host: &String| {
    ///     RateLimiter::new(if host.ends_with(".example") { slow } else { fast }, 1)
    /// });
    /// hosts.try_acquire("a.example").unwrap();
    /// assert!(hosts.try_acquire("a.example").is_err());
    /// ```
    #[must_use]
    pub fn with_rates(
        n_keys_max: usize,
        make: impl Fn(&K) -> RateLimiter + Send + Sync + 'static,
    ) -> Self {
        let keys = Keys { limiters: HashMap::new(), fresh_from: BTreeMap::new(), serial: 0 };
        KeyedRateLimiter {
            n_keys_max: n_keys_max.max(1),
            origin: Instant::now(),
            make: Box::new(make),
            keys: Mutex::new(keys),
        }
    }

    /// Lets the rate of each key adapt to refusals of its own, as [`RateLimiter::adaptive`] does.
    #[must_use]
    pub fn adaptive(mut self, floor: Rate) -> Self
    where
        K: 'static,
    {
        let make = self.make;
        self.make = Box::new(move |key| make(key).adaptive(floor));
        self
    }

    /// Waits until the rate of `key` lets one more call through.
    ///
    /// # Errors
    /// [`KeysFull`] at once when the key is new and there is no room for it.
    ///
    /// # Cancel safety
    /// Safe: a call that stops waiting gives its place back and takes nothing of the rate.
    pub async fn acquire<Q>(&self, key: &Q) -> Result<(), KeysFull>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let limiter = self.with_limiter(key, |limiter| match limiter.try_acquire() {
            Ok(()) => None,
            Err(_) => Some(Arc::clone(limiter)),
        })?;
        if let Some(limiter) = limiter {
            limiter.acquire().await;
        }
        Ok(())
    }

    /// Lets one more call of `key` through if that needs no wait.
    ///
    /// # Errors
    /// [`KeyedRefusal`] when the rate of the key forbids it, or when there is no room for the key.
    pub fn try_acquire<Q>(&self, key: &Q) -> Result<(), KeyedRefusal>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        Ok(self.with_limiter(key, |limiter| limiter.try_acquire())??)
    }

    /// Lets nothing of `key` through for `delay`, as [`RateLimiter::pause_for`] does.
    ///
    /// # Errors
    /// [`KeysFull`] when the key is new and there is no room for it.
    pub fn pause_for<Q>(&self, key: &Q, delay: Duration) -> Result<(), KeysFull>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.with_limiter(key, |limiter| limiter.pause_for(delay))
    }

    /// The limiter of `key`, for all else that a [`RateLimiter`] can do. As long as it is held, the
    /// key is in use.
    ///
    /// # Errors
    /// [`KeysFull`] when the key is new and there is no room for it.
    pub fn limiter<Q>(&self, key: &Q) -> Result<Arc<RateLimiter>, KeysFull>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.with_limiter(key, Arc::clone)
    }

    /// How many keys are remembered.
    #[must_use]
    pub fn n_keys(&self) -> usize {
        self.keys.lock().limiters.len()
    }

    /// Calls `f` with the limiter of `key`, which cannot be forgotten meanwhile.
    #[inline]
    fn with_limiter<Q, R>(
        &self,
        key: &Q,
        f: impl FnOnce(&Arc<RateLimiter>) -> R,
    ) -> Result<R, KeysFull>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let mut keys = self.keys.lock();
        if let Some(limiter) = keys.limiters.get(key) {
            return Ok(f(limiter));
        }
        let now = Instant::now().duration_since(self.origin);
        if self.n_keys_max <= keys.limiters.len() {
            keys.forget_one(now, self.origin)
                .map_err(|retry_after| KeysFull { n_keys_max: self.n_keys_max, retry_after })?;
        }
        let key = key.to_owned();
        let limiter = Arc::new((self.make)(&key));
        keys.look_again(now, key.clone());
        Ok(f(keys.limiters.entry(key).or_insert(limiter)))
    }
}

impl<K: Hash + Eq> Keys<K> {
    fn look_again(&mut self, from: Duration, key: K) {
        self.fresh_from.insert((from, self.serial), key);
        self.serial += 1;
    }

    /// Forgets one idle key, or says when to ask again. Each key that was used since it was last
    /// looked at costs one more look, so a look is paid for by a call.
    fn forget_one(&mut self, now: Duration, origin: Instant) -> Result<(), Duration> {
        loop {
            let first = self.fresh_from.first_entry().expect("each key stands here once");
            let (from, _) = *first.key();
            if now < from {
                return Err(from - now);
            }
            let key = first.remove();
            let limiter = self.limiters.get(&key).expect("each key here is remembered");
            // Only this map hands limiters out, and it is locked.
            let is_held = 1 < Arc::strong_count(limiter);
            let fresh_from = limiter.fresh_from().saturating_duration_since(origin);
            if !is_held && fresh_from <= now {
                self.limiters.remove(&key);
                return Ok(());
            }
            // One that is held is looked at again soon: whoever holds it may let go at any time.
            let soon = now + limiter.interval();
            self.look_again(if is_held { fresh_from.max(soon) } else { fresh_from }, key);
        }
    }
}

impl<K> fmt::Debug for KeyedRateLimiter<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedRateLimiter")
            .field("n_keys", &self.keys.lock().limiters.len())
            .field("n_keys_max", &self.n_keys_max)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at_every_await_point, cancel_after};

    fn keyed(n_keys_max: usize) -> KeyedRateLimiter<u32> {
        KeyedRateLimiter::new("10/s".parse().unwrap(), 1, n_keys_max)
    }

    async fn advance(millis: u64) {
        tokio::time::advance(Duration::from_millis(millis)).await;
    }

    #[track_caller]
    fn check_full(keyed: &KeyedRateLimiter<u32>, key: u32, millis: u64) {
        let n_keys_max = keyed.n_keys_max;
        let full = KeysFull { n_keys_max, retry_after: Duration::from_millis(millis) };
        assert_eq!(keyed.try_acquire(&key), Err(KeyedRefusal::KeysFull(full)));
        assert_eq!(keyed.n_keys(), n_keys_max);
    }

    #[tokio::test(start_paused = true)]
    async fn each_key_has_a_rate_of_its_own() {
        let keyed = keyed(10);
        for key in 0..10 {
            keyed.try_acquire(&key).unwrap();
            let refused = keyed.try_acquire(&key).unwrap_err();
            let retry_after = Duration::from_millis(100);
            assert_eq!(refused, KeyedRefusal::WouldWait(WouldWait { retry_after }));
        }
        keyed.pause_for(&3, Duration::from_secs(5)).unwrap();
        let began = Instant::now();
        keyed.acquire(&4).await.unwrap();
        assert_eq!(began.elapsed().as_millis(), 100);
        keyed.acquire(&3).await.unwrap();
        assert_eq!(began.elapsed().as_millis(), 5000);
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_bound_the_longest_idle_key_goes_first() {
        let keyed = keyed(3);
        for key in 0..3 {
            keyed.try_acquire(&key).unwrap();
            advance(10).await;
        }
        check_full(&keyed, 3, 70);
        advance(70).await;
        keyed.try_acquire(&3).unwrap();
        assert!(!keyed.keys.lock().limiters.contains_key(&0));
        check_full(&keyed, 4, 10);
        keyed.try_acquire(&1).unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_was_used_again_stays() {
        let keyed = keyed(2);
        keyed.try_acquire(&0).unwrap();
        keyed.try_acquire(&1).unwrap();
        advance(150).await;
        keyed.try_acquire(&0).unwrap();
        keyed.try_acquire(&2).unwrap();
        assert!(keyed.keys.lock().limiters.contains_key(&0));
        check_full(&keyed, 3, 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_is_held_or_waited_for_or_paused_or_slowed_stays() {
        let keyed = keyed(1).adaptive("1/s".parse().unwrap());
        let held = keyed.limiter(&0).unwrap();
        advance(1000).await;
        check_full(&keyed, 1, 100);
        held.pause_for(Duration::from_secs(3));
        let mut waiting = Box::pin(keyed.acquire(&0));
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(held);
        advance(2999).await;
        assert!(keyed.try_acquire(&1).is_err());
        waiting.await.unwrap();
        assert!(keyed.try_acquire(&1).is_err());
        keyed.limiter(&0).unwrap().refused(None);
        advance(59_999).await;
        check_full(&keyed, 1, 1);
        advance(1).await;
        keyed.try_acquire(&1).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_dropped_at_any_point_lets_go_of_its_key() {
        let n_points = at_every_await_point(async |n_polls| {
            let keyed = keyed(1);
            keyed.acquire(&0).await.unwrap();
            let ended = cancel_after(n_polls, keyed.acquire(&0)).await;
            let limiter = keyed.limiter(&0).unwrap();
            assert_eq!(Arc::strong_count(&limiter), 2, "ours and the map's");
            drop(limiter);
            advance(200).await;
            keyed.try_acquire(&1).unwrap();
            ended.is_some()
        });
        assert_eq!(n_points.await, 1);
    }

    /// However keys come, the map stays within its bound, and no key passes faster than its rate.
    #[tokio::test(start_paused = true)]
    async fn forgetting_lets_nothing_through_that_the_rate_forbids() {
        let keyed = keyed(8);
        let mut random = fastrand::Rng::with_seed(1);
        let mut passed: HashMap<u32, Instant> = HashMap::new();
        let (mut n_passed, mut n_full) = (0, 0);
        for _ in 0..20_000 {
            advance(random.u64(0..15)).await;
            let key = random.u32(0..20);
            match keyed.try_acquire(&key) {
                Ok(()) => {
                    n_passed += 1;
                    let last = passed.insert(key, Instant::now());
                    let gap = last.map_or(Duration::MAX, |it| it.elapsed());
                    assert!(Duration::from_millis(100) <= gap, "{key} passed twice in {gap:?}");
                }
                Err(KeyedRefusal::KeysFull(_)) => n_full += 1,
                Err(KeyedRefusal::WouldWait(_)) => {}
            }
            let keys = keyed.keys.lock();
            assert!(keys.limiters.len() <= 8 && keys.limiters.len() == keys.fresh_from.len());
        }
        assert!(1000 < n_passed && 1000 < n_full, "{n_passed} passed, {n_full} were refused");
    }
}
