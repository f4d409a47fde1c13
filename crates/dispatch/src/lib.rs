//! The moving part of Taskloom: what a task is, and how claimed jobs become attempts.
//!
//! - [`Task`], [`BlockingTask`], [`Ctx`], [`TaskError`]: what an author of tasks sees.
//! - [`Registry`]: the tasks one node can run.

mod ctx;
mod error;
mod registry;
mod task;

pub use ctx::{CancelReason, Ctx, CtxBuilder, LogLevel, LogLine, Progress};
pub use error::{TaskError, TaskErrorKind};
pub use registry::{Entry, Registry, RegistryError, Runner};
pub use task::{BlockingTask, Task, TaskOptions};
