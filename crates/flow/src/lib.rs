//! Async patterns on Tokio, for any program. Nothing here knows of jobs.
//!
//! - [`TaskGroup`] owns the routines of one component: no routine without an owner.
//! - [`Offload`] runs CPU-bound work on a bounded number of threads.
//! - [`catch_panic`] turns a panic into a value with its backtrace.
//! - [`RateLimiter`] spaces calls out, in the order they came.

mod catch_panic;
mod offload;
mod rate;
mod rate_limiter;
mod task_group;
pub mod testing;

pub use catch_panic::{CatchPanic, Panicked, catch_panic, catch_panic_blocking};
pub use offload::{Full, Offload};
pub use rate::{Rate, RateError};
pub use rate_limiter::RateLimiter;
pub use task_group::{Drained, Ended, TaskGroup};
