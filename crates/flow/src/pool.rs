//! A pool of resources that are slow to open and can be used again: connections, clients.
//!
//! # Invariants
//! - At most `n_max` resources are open or being opened.
//! - Who waits is served in the order of asking; who stops waiting loses nothing for the others.
//! - A resource is in use by one holder, idle, or being closed; none is lost on the way.

mod builder;
mod error;
mod guard;
mod keeper;
mod owner;
mod shared;
mod state;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

pub use self::builder::PoolBuilder;
pub use self::error::{PoolError, PoolOpenError};
pub use self::guard::PoolGuard;

use self::shared::{Shared, Turn};
use crate::TaskGroup;

/// How the resources of a [`Pool`] are opened, checked and closed.
pub trait PoolManager: Send + Sync + 'static {
    /// What is pooled.
    type Resource: Send + 'static;
    /// Why one could not be opened, or is unfit.
    type Error: Error + Send + Sync + 'static;

    /// Opens a resource. Runs in the background, and ends early only by the open timeout or with
    /// the pool.
    ///
    /// # Cancel safety
    /// Must be safe to drop: a resource that is half open must close itself.
    fn open(&self) -> impl Future<Output = Result<Self::Resource, Self::Error>> + Send;

    /// Says whether an idle resource is still fit; called before it is lent. An error closes it,
    /// and another takes its place. By default every one is fit.
    ///
    /// # Cancel safety
    /// It may be dropped at any point; the resource is then closed.
    fn check(
        &self,
        resource: &mut Self::Resource,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send {
        let _ = resource;
        async { Ok(()) }
    }

    /// Closes a resource, in the background; by default it is dropped. After 5 seconds, or with the
    /// pool, this future is dropped.
    ///
    /// # Cancel safety
    /// It may be dropped at any point.
    fn close(&self, resource: Self::Resource) -> impl Future<Output = ()> + Send {
        async move { drop(resource) }
    }
}

/// What a [`Pool`] holds, and has done since it was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolStats {
    /// Resources open now: those idle and those in use.
    pub open: usize,
    /// Resources nobody uses now.
    pub idle: usize,
    /// Resources lent, or being checked for someone.
    pub in_use: usize,
    /// Resources being opened.
    pub opening: usize,
    /// Resources being closed.
    pub closing: usize,
    /// Callers that wait for a resource.
    pub waiting: usize,
    /// Resources ever opened.
    pub opened: u64,
    /// Resources ever closed, dropped or taken out.
    pub closed: u64,
    /// Openings that failed.
    pub failed: u64,
    /// Checks that found a resource unfit.
    pub failed_checks: u64,
    /// Calls that found no resource in time.
    pub timed_out: u64,
    /// How long the calls that got a resource have waited for it, together.
    pub wait_total: Duration,
    /// How long the longest of them waited.
    pub wait_max: Duration,
}

/// A bounded pool of resources that are slow to open and can be used again.
///
/// [`acquire`](Pool::acquire) lends one by a [`PoolGuard`] and waits for its turn when all are in
/// use. Openings run in the background, so one whose caller left is there for the next; after a
/// failed one the pool waits a little longer each time (50 ms up to 2 s) and tries one at a time. Of
/// the idle ones the latest used is lent first. Dropping the pool drops what is idle and ends its
/// upkeep, and guards still out drop their resource; [`close`](Pool::close) does it politely. Share
/// the pool by an `Arc`.
///
/// In debug builds a call that timed out because its own task, and every other holder, waits in the
/// same way panics with the cure, in place of an error.
///
/// ```
/// use std::convert::Infallible;
/// use std::time::Duration;
/// use taskloom_flow::{Pool, PoolManager};
///
/// struct Connections;
///
/// impl PoolManager for Connections {
///     type Resource = Vec<u8>;
///     type Error = Infallible;
///
///     async fn open(&self) -> Result<Vec<u8>, Infallible> {
///         Ok(Vec::new())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let pool = Pool::builder(Connections).n_max(4).idle_max(Duration::from_secs(60)).build();
/// let mut connection = pool.acquire().await.unwrap();
/// connection.push(7);
/// drop(connection);
///
/// assert_eq!(*pool.acquire().await.unwrap(), [7], "it is the same one");
/// assert_eq!(pool.stats().opened, 1);
/// assert_eq!(pool.close(Duration::from_secs(5)).await, 0);
/// # }
/// ```
pub struct Pool<M: PoolManager> {
    shared: Arc<Shared<M>>,
    /// Its upkeep; emptied when the pool is closed.
    upkeep: Mutex<TaskGroup>,
}

impl<M: PoolManager> std::fmt::Debug for Pool<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl<M: PoolManager> Pool<M> {
    /// The settings of a pool, with at most 10 resources.
    pub fn builder(manager: M) -> PoolBuilder<M> {
        PoolBuilder::new(manager)
    }

    /// Lends a resource, idle or new, as soon as it is this caller's turn.
    ///
    /// # Errors
    /// [`PoolError::Open`] when none could be opened, [`PoolError::TimedOut`] after the acquire
    /// timeout (30 s by default), [`PoolError::Closed`] when the pool is.
    ///
    /// # Panics
    /// In debug builds after the acquire timeout, when this task holds a resource itself and every
    /// other one is held by a task that waits as well: such a wait can't end.
    ///
    /// # Cancel safety
    /// Safe: who stops waiting leaves the line, what it was just given goes to the next, and an
    /// opening begun for it goes on. A resource in the middle of its check is closed.
    pub async fn acquire(&self) -> Result<PoolGuard<M>, PoolError<M::Error>> {
        let turn = match self.shared.take_or_wait(false)? {
            Turn::Ready(guard) if !guard.is_suspect() => return Ok(guard),
            turn => turn,
        };
        let since = Instant::now();
        match timeout(self.shared.limits.acquire_timeout, self.fit(turn)).await {
            Ok(acquired) => acquired.inspect(|_| self.shared.waited(since)),
            Err(_) => Err(self.shared.timed_out(since)),
        }
    }

    /// Closes the pool: who waits is told, what is idle is closed, and what is in use is closed when
    /// it comes back. Waits up to `deadline` until all are, and returns how many are still in use;
    /// those are dropped when they come back.
    ///
    /// # Cancel safety
    /// Safe: the pool stays closed, and another call waits on.
    pub async fn close(&self, deadline: Duration) -> usize {
        self.shared.refuse();
        let all_closed = async {
            loop {
                let emptied = self.shared.emptied.notified();
                if self.shared.is_empty() {
                    return;
                }
                emptied.await;
            }
        };
        timeout(deadline, all_closed).await.ok();
        let n_left = self.shared.abandon();
        drop(std::mem::take(&mut *self.upkeep.lock()));
        n_left
    }

    /// What it holds now, and has done so far.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        self.shared.stats()
    }

    /// Waits for a resource that stands its check.
    async fn fit(&self, mut turn: Turn<M>) -> Result<PoolGuard<M>, PoolError<M::Error>> {
        loop {
            let guard = match turn {
                Turn::Ready(guard) => guard,
                Turn::Wait(waiting) => waiting.given().await?,
            };
            if !guard.is_suspect() {
                return Ok(guard);
            }
            if let Some(guard) = guard.check().await {
                return Ok(guard);
            }
            // It was this caller's turn, and still is.
            turn = self.shared.take_or_wait(true)?;
        }
    }
}

impl<M: PoolManager> Drop for Pool<M> {
    fn drop(&mut self) {
        self.shared.abandon();
    }
}
