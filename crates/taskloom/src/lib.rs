//! Durable tasks and live data in one Rust program.
//!
//! Write an async function and mark it [`macro@task`]; every call of it becomes a job that
//! survives crashes, retries itself, and can be watched. See [`TaskSystem`] for the way in and
//! [`testing`] for how to test it.

mod builder;
mod child;
mod clock;
mod duration;
mod error;
mod handle;
mod health;
mod invocation;
mod registration;
mod submit;
pub mod submit_in;
mod system;
pub mod testing;
#[cfg(feature = "torture")]
pub mod torture;
mod waiters;

pub use builder::{Builder, MAX_WORKERS_DEFAULT};
pub use child::run_child_if_asked;
pub use clock::{SystemClock, TokioClock};
pub use duration::IntoDuration;
pub use error::{Error, JobError};
pub use handle::JobHandle;
pub use health::{Health, Reason};
pub use invocation::{
    IntoJobIds, Invocation, InvocationError, Invoke, InvokeBlocking, QUEUE_DEFAULT, Request,
};
pub use submit::Submit;
pub use system::TaskSystem;
pub use taskloom_dispatch::{
    BlockingTask, CancelReason, Ctx, CtxBuilder, Entry, LogLevel, ProcessOptions, Progress,
    RegistryError, Retention, Task, TaskError, TaskErrorKind, TaskOptions,
};
pub use taskloom_macros::{
    log_execution, measure_performance, priority, queue, retry, task, timeout,
};
pub use taskloom_model::{
    Backoff, DependencyPolicy, DurationError, EventKind, FailReason, Fence, Jitter, JobId, NodeId,
    Outcome, Priority, Refusal, RetryPolicy, SizeError, StateName, Time, parse_duration,
    parse_size,
};
pub use taskloom_store::sqlite::Synchronous;
#[cfg(feature = "torture")]
pub use taskloom_store::sqlite::WriteHold;
pub use taskloom_store::{
    Accepted, AttemptError, AttemptView, Breach, Changed, Clock, Count, Event, EventCursor, Events,
    Filter, JobView, Listed, LogView, NodeView, Page, PartError, PartHealth, Schema, ServerHealth,
    Store, StoreError, StoreInfo,
};
#[cfg(feature = "tasks")]
pub use taskloom_tasks as tasks;

/// What most programs need, in one line.
pub mod prelude {
    pub use crate::{
        BlockingTask, Ctx, Invocation, Invoke as _, JobError, JobHandle, JobId, RetryPolicy,
        StateName, Task, TaskError, TaskOptions, TaskSystem, task,
    };
}

/// What the expansion of [`macro@task`] uses.
#[doc(hidden)]
pub mod __private {
    pub use inventory;
    pub use serde;

    pub use crate::handle::Link;
    pub use crate::registration::Registration;
}
