//! Async patterns on Tokio, for any program. Nothing here knows of jobs.
//!
//! - [`TaskGroup`] owns the routines of one component: no routine without an owner.
//! - [`Offload`] runs CPU-bound work on a bounded number of threads.
//! - [`catch_panic`] turns a panic into a value with its backtrace.
//! - [`RateLimiter`] spaces calls out, in the order they came; [`KeyedRateLimiter`] does so for
//!   each key.
//! - [`Retry`] tries again, after the delays of a [`Backoff`] and within a [`RetryBudget`].
//! - [`CircuitBreaker`] leaves a service alone that fails, and tries it again with care.
//! - [`Cache`] keeps values for a while, and loads each once however many ask.
//! - [`Pool`] lends connections and the like, and opens and closes them.
//! - [`RateLimiter`] spaces calls out, in the order they came.
//! - [`PriorityQueue`] hands out the highest priority first, to several consumers.
//! - [`WorkQueue`] knows when all that was pushed is done; [`WorkerPool`] works it off.
//! - [`map_concurrent`] and [`spawn_concurrent`] call a function with many inputs, `n` at a time;
//!   [`bulk`] calls it with chunks of them.
//! - [`Stages`] is a pipeline of such functions, async and CPU-bound, with bounded lines between.
//! - [`Supervisor`] starts named routines in order, and again when they fail, as Erlang/OTP does.
//! - [`Every`] runs something at a steady pace, with jitter, and says how late it is.
//! - [`EventBus`] hands typed events to whoever subscribed, over bounded backlogs.

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
pub use work_queue::{WorkItem, WorkPlace, WorkQueue, WorkQueueStats};
pub use worker_pool::{WorkSource, WorkerFailure, WorkerPool, WorkerPoolReport, WorkerStats};
