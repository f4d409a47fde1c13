//! Async patterns on Tokio, for any program: structured concurrency, cancellation, limits,
//! resilience, caching, queues, pipelines, supervision. One vocabulary, and one rule: whatever is
//! dropped, at any await point, leaks nothing and loses nothing that was accepted.
//!
//! It needs Tokio and nothing else of Taskloom. All of it follows Tokio's clock, paused or not,
//! and everything is bounded. Where Tokio's own primitive is the best answer already (`Mutex`,
//! `Semaphore`, `Notify`, channels, `spawn_blocking`, `fs`) there is nothing here; the [cookbook]
//! shows those as well.
//!
//! [cookbook]: https://github.com/taskloom/taskloom/tree/main/docs/cookbook
//!
//! | in asyncio, or elsewhere | here | |
//! |---|---|---|
//! | `asyncio.TaskGroup`, `create_task` | [`TaskGroup`], [`BoundedTaskGroup`], [`Spawner`] | owns what it spawns; the first failure cancels the siblings |
//! | `asyncio.gather` | [`gather`], [`gather_settled`] | in the order of the inputs; all or nothing, or what there is |
//! | `asyncio.wait`, `as_completed` | [`wait`], [`as_completed`], [`race`], [`race_ok`] | some of several, while the others go on |
//! | `asyncio.timeout`, `timeout_at` | [`timeout`], [`deadline`], [`timeout_or`], [`remaining`] | limits that nest |
//! | `Task.cancel`, `CancelledError` | [`Cancellation`], [`TaskGroup::spawn_with`] | a tree of tokens with reasons, and a grace to clean up |
//! | `asyncio.shield` | [`TaskGroup::shield`] | it finishes, and its output is not lost |
//! | `async with` | [`with_resource`] | closed after success, error, panic and cancellation |
//! | `asyncio.Queue`, `PriorityQueue` | [`WorkQueue`], [`PriorityQueue`], [`WorkerPool`] | bounded, several on each side, an end without sentinels |
//! | `aiostream.map`, `Semaphore` in a loop | [`map_concurrent`], [`spawn_concurrent`], [`bulk`], [`chunked`] | at most so many at a time |
//! | `aiolimiter` | [`RateLimiter`], [`KeyedRateLimiter`] | fair, never over its rate, adapts to refusals |
//! | `tenacity` | [`Retry`], [`Backoff`], [`RetryBudget`] | jitter, hints from the error, no storms |
//! | `aiobreaker` | [`CircuitBreaker`] | leaves a failing service alone |
//! | `aiocache`, `functools.cache` | [`Cache`] | single flight, negative caching, stale while it refreshes |
//! | connection pools | [`Pool`] | fair, checked, given back on cancellation |
//! | supervisors of Erlang | [`Supervisor`], [`ChildSpec`] | restarts, heartbeats, escalation |
//! | `while True: ...; await sleep(n)` | [`Every`] | a steady pace with jitter and lateness |
//! | `blinker`, signals | [`EventBus`] | typed, bounded, handlers isolated |
//! | `aiostream` pipelines | [`Stages`] | workers, order, failures and statistics for each stage |
//! | `run_in_executor` | [`Offload`] | bounded threads for CPU-bound work |
//! | `except Exception` | [`catch_panic`] | panics as values, with their place |
//! | tests | [`testing`] | drop a future at each of its await points |

mod cache;
mod cancellation;
mod catch_panic;
mod circuit_breaker;
mod event_bus;
mod gather;
mod inputs;
mod interval;
mod map_concurrent;
mod offload;
mod pool;
mod priority_queue;
mod queue_error;
mod rate;
mod rate_limiter;
mod retry;
mod stages;
mod supervisor;
mod task_group;
pub mod testing;
mod timeout;
mod with_resource;
mod work_queue;
mod worker_pool;

pub use cache::{Cache, CacheBuilder, CacheStats};
pub use cancellation::{Cancellation, Cancelled, Reason};
pub use catch_panic::{CatchPanic, Panicked, catch_panic, catch_panic_blocking};
pub use circuit_breaker::{
    BreakerError, BreakerRules, BreakerRulesError, BreakerState, BreakerStats, BreakerTrip,
    CircuitBreaker,
};
pub use event_bus::{
    BusHandler, BusPublisher, EventBus, EventsMissed, HandlerReport, HandlerTrouble, Overflow,
    Published, SubscriberStats, Subscription, SubscriptionOptions, TopicStats,
};
pub use gather::{
    AsCompleted, Gather, GatherSettled, Race, RaceError, Until, Waited, as_completed, gather,
    gather_settled, race, race_ok, wait, wait_at_most,
};
pub use inputs::{FromIterator, FromStream, Inputs};
pub use interval::{Every, EveryStats, MissedTicks, Tick};
pub use map_concurrent::{
    Bulk, Chunked, SpawnConcurrent, bulk, chunked, map_concurrent, map_concurrent_unordered,
    spawn_concurrent, spawn_concurrent_unordered,
};
pub use offload::{CancelFlag, Full, Offload, OffloadError};
pub use pool::{Pool, PoolBuilder, PoolError, PoolGuard, PoolManager, PoolOpenError, PoolStats};
pub use priority_queue::PriorityQueue;
pub use queue_error::{QueueClosed, TryPushError};
pub use rate::{Rate, RateError};
pub use rate_limiter::{
    KeyedRateLimiter, KeyedRefusal, KeysFull, OverBurst, RateLimiter, WouldWait,
};
pub use retry::{
    Backoff, BackoffDelays, BackoffError, Jitter, Retry, RetryBudget, RetryError, RetryNotice,
    RetryStop,
};
pub use stages::{
    StageFailure, StageFailures, StageStats, Stages, StagesReport, StagesRun, StagesStream,
};
pub use supervisor::{
    ChildContext, ChildHealth, ChildSpec, ChildState, Escalation, Heartbeat, RestartPolicy,
    RestartStrategy, Supervisor, SupervisorError, SupervisorHandle,
};
pub use task_group::{
    BoundedSpawner, BoundedTaskGroup, BoxError, Drained, End, Ended, Failure, GroupError, Name,
    Routine, RoutineInfo, RoutineKind, RoutineOutput, Shielded, Spawner, TaskGroup, Unfinished,
};
pub use timeout::{TimedOut, Timeout, deadline, remaining, timeout, timeout_or, without_deadline};
pub use with_resource::{ResourceError, with_resource};
pub use work_queue::{WorkItem, WorkItems, WorkPlace, WorkQueue, WorkQueueStats};
pub use worker_pool::{WorkSource, WorkerFailure, WorkerPool, WorkerPoolReport, WorkerStats};
