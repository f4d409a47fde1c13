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
mod health;
mod heartbeat;
mod node;
mod pool;
mod process;
mod registry;
mod task;
mod upkeep;
mod watch;

pub use ctx::{CancelReason, Ctx, CtxBuilder, LogLevel, LogLine, Progress};
pub use error::{TaskError, TaskErrorKind};
pub use node::{Hurry, Node, NodeConfig, Retention};
pub use pool::PoolConfig;
pub use process::{CHILD_VARIABLE, ChildWish};
pub use registry::{Entry, Registry, RegistryError, Runner, SlotKind};
pub use task::{BlockingTask, ProcessOptions, Task, TaskOptions};
pub use taskloom_model::{DurationError, parse_duration};
