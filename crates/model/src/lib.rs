//! The life of a job, as data.
//!
//! This crate is the specification that every backend is tested against. It does no I/O, reads
//! no clock and draws no random numbers: time and chance are arguments. Start with
//! [`Job::submit`] and [`apply`], then read `tests/life_of_a_job.rs`.

mod apply;
mod duration;
mod id;
mod job;
mod retry;
mod size;
mod time;

pub use apply::{Command, Effect, EventKind, Refusal, apply};
pub use duration::{DurationError, parse_duration};
pub use id::{Fence, JobId, NodeId, Priority, PriorityError};
pub use job::{
    CRASHES_MAX, DependencyPolicy, FailReason, Job, Life, Outcome, Rules, State, StateName,
};
pub use retry::{Backoff, Jitter, RetryPolicy, RetryPolicyError, Roll};
pub use size::{SizeError, parse_size};
pub use time::Time;
