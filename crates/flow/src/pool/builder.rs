//! The settings of a pool.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::keeper::keep;
use super::shared::Shared;
use super::state::State;
use super::{Pool, PoolManager};
use crate::TaskGroup;

/// The settings of a [`Pool`]; made by [`Pool::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct PoolBuilder<M> {
    manager: M,
    limits: Limits,
}

#[derive(Debug, Clone)]
pub(super) struct Limits {
    pub(super) n_min: usize,
    pub(super) n_max: usize,
    pub(super) idle_max: Option<Duration>,
    pub(super) age_max: Option<Duration>,
    pub(super) acquire_timeout: Duration,
    pub(super) open_timeout: Duration,
    pub(super) check_after: Duration,
}

impl<M: PoolManager> PoolBuilder<M> {
    pub(super) fn new(manager: M) -> Self {
        let limits = Limits {
            n_min: 0,
            n_max: 10,
            idle_max: None,
            age_max: None,
            acquire_timeout: Duration::from_secs(30),
            open_timeout: Duration::from_secs(30),
            check_after: Duration::from_secs(1),
        };
        PoolBuilder { manager, limits }
    }

    /// How many resources are kept open even when nobody asks, 0 by default; at most `n_max`. They
    /// are opened in the background.
    pub fn n_min(mut self, n_min: usize) -> Self {
        self.limits.n_min = n_min;
        self
    }

    /// How many resources may be open at once, 10 by default; 0 counts as 1. One that is being
    /// closed does not count any more.
    pub fn n_max(mut self, n_max: usize) -> Self {
        self.limits.n_max = n_max.max(1);
        self
    }

    /// Closes a resource that nobody has used for so long, except the last `n_min`. Without it an
    /// idle one stays.
    pub fn idle_max(mut self, idle_max: Duration) -> Self {
        self.limits.idle_max = Some(idle_max);
        self
    }

    /// Closes a resource so long after it was opened, as soon as nobody uses it. Without it no age
    /// is too high.
    pub fn age_max(mut self, age_max: Duration) -> Self {
        self.limits.age_max = Some(age_max);
        self
    }

    /// How long a call of [`Pool::acquire`] may take in all, 30 seconds by default.
    pub fn acquire_timeout(mut self, acquire_timeout: Duration) -> Self {
        self.limits.acquire_timeout = acquire_timeout;
        self
    }

    /// How long [`PoolManager::open`] may take, 30 seconds by default. It may be longer than the
    /// acquire timeout: an opening goes on when its caller has left.
    pub fn open_timeout(mut self, open_timeout: Duration) -> Self {
        self.limits.open_timeout = open_timeout;
        self
    }

    /// Checks a resource before it is used when it was idle for so long, 1 second by default; zero
    /// checks each time. One that came back in a panic is always checked.
    pub fn check_after(mut self, check_after: Duration) -> Self {
        self.limits.check_after = check_after;
        self
    }

    /// The pool, which begins to open its `n_min` resources.
    ///
    /// # Panics
    /// Outside a Tokio runtime: the pool's upkeep runs in the runtime it was built in.
    #[must_use]
    pub fn build(mut self) -> Pool<M> {
        self.limits.n_min = self.limits.n_min.min(self.limits.n_max);
        let shared = Arc::new(Shared {
            manager: self.manager,
            limits: self.limits,
            state: Mutex::new(State::new(Instant::now())),
            changed: Notify::new(),
            emptied: Notify::new(),
        });
        let upkeep = TaskGroup::isolated();
        upkeep.spawn("pool upkeep", keep(Arc::clone(&shared)));
        Pool { shared, upkeep: Mutex::new(upkeep) }
    }
}

impl Limits {
    /// When a resource becomes too old.
    pub(super) fn age_end(&self, opened_at: Instant) -> Option<Instant> {
        self.age_max.and_then(|it| opened_at.checked_add(it))
    }

    /// When a resource has been idle too long.
    pub(super) fn idle_end(&self, since: Instant) -> Option<Instant> {
        self.idle_max.and_then(|it| since.checked_add(it))
    }
}
