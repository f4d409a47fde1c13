//! Why a pool gives no resource.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use crate::Panicked;

/// Why [`Pool::acquire`](crate::Pool::acquire) gave no resource.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PoolError<E: Error + 'static> {
    /// The pool was closed, before the call or during it.
    #[error("the pool is closed")]
    Closed,
    /// The manager could not open a resource. Others may have got the same error: it is told to
    /// the one who waits longest, and to all who wait when nothing is open that could come back.
    #[error("a resource could not be opened")]
    Open(#[source] Arc<PoolOpenError<E>>),
    /// No resource came free in time.
    #[error(
        "no resource came free within {waited:?}: {in_use} of at most {n_max} are in use and \
         {waiting} more callers wait; if no load explains it, look for a task that holds one and \
         waits for another"
    )]
    TimedOut {
        /// How long the call waited: the acquire timeout.
        waited: Duration,
        /// Resources in use when it gave up.
        in_use: usize,
        /// How many the pool may have.
        n_max: usize,
        /// The other callers that waited then.
        waiting: usize,
        /// Why the last opening failed, when none has succeeded since.
        #[source]
        open_error: Option<Arc<PoolOpenError<E>>>,
    },
}

/// Why a resource could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum PoolOpenError<E: Error + 'static> {
    /// The manager's own error.
    #[error("the manager failed to open it")]
    Failed(#[source] E),
    /// [`PoolManager::open`](crate::PoolManager::open) did not end within the open timeout.
    #[error("it was not open within {0:?}")]
    TimedOut(Duration),
    /// [`PoolManager::open`](crate::PoolManager::open) panicked.
    #[error("the manager panicked")]
    Panicked(#[source] Panicked),
}
