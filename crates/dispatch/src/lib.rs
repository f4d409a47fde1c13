//! The moving part of Taskloom: what a task is, and how claimed jobs become attempts.
//!
//! - [`Task`], [`BlockingTask`], [`Ctx`], [`TaskError`]: what an author of tasks sees.
//! - [`Registry`]: the tasks one node can run.
//! - [`Node`]: one running copy of the program: its dispatcher, its heartbeat, its upkeep.

mod attempt;
mod board;
mod ctx;
mod dispatcher;
mod error;
mod heartbeat;
mod node;
mod pool;
mod registry;
mod task;
mod upkeep;

pub use ctx::{CancelReason, Ctx, CtxBuilder, LogLevel, LogLine, Progress};
pub use error::{TaskError, TaskErrorKind};
pub use node::{Hurry, Node, NodeConfig, Retention};
pub use pool::PoolConfig;
pub use registry::{Entry, Registry, RegistryError, Runner};
pub use task::{BlockingTask, Task, TaskOptions};
pub use taskloom_model::{DurationError, parse_duration};
