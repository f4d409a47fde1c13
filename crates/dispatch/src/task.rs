//! What a task is: a name, typed arguments, a typed result, and a body.

use std::future::Future;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use taskloom_model::{Priority, RetryPolicy};

use crate::{Ctx, TaskError};

/// The defaults of a task's jobs; a single job may override each of them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TaskOptions {
    /// The queue its jobs wait in; `None` is the queue `default`.
    pub queue: Option<&'static str>,
    /// How urgent they are.
    pub priority: Priority,
    /// When an errored one is tried again.
    pub retry: RetryPolicy,
    /// How long one attempt may take; `None`: as long as it likes.
    pub timeout: Option<Duration>,
    /// Log each attempt's start and end at level info.
    pub log_execution: bool,
    /// Record each attempt's wall time and its busy (poll) time in its log.
    pub measure_performance: bool,
    /// Run each attempt in a child process; `None`: inside the node.
    pub process: Option<ProcessOptions>,
}

/// How attempts run in a child process of their own: for a body that may leak, crash, or must be
/// killable.
///
/// The child is the node's own program, with the same arguments and environment. It does what
/// `main` does up to `TaskSystem::start`, so that the task has its state, then runs one attempt
/// and exits: it neither opens the store nor comes back from `start`. **Whatever `main` does before
/// that runs in every child too.** A crash of the child is an errored attempt. When the attempt
/// should end, by a timeout, a cancellation or a drain, the child's [`Ctx`] is cancelled, and after
/// `grace` the child is killed, with every process of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProcessOptions {
    /// How much memory the child may have, in bytes: what is private and writable, which is less
    /// than its address space. A body that needs more ends as `task.out_of_memory`. It holds on
    /// Linux. `None`: as much as the system gives.
    pub memory: Option<u64>,
    /// How long the body has between the wish to end and the kill; `None`: as the node says.
    pub grace: Option<Duration>,
}

/// Work with a name, run on the async slots of a node.
///
/// State, clients and configuration are fields of the type: dependency injection by value.
///
/// ```
/// use taskloom_dispatch::{Ctx, Task, TaskError};
///
/// struct Greet { greeting: String }
///
/// impl Task for Greet {
///     const NAME: &'static str = "greet";
///     type Args = String;
///     type Output = String;
///
///     async fn run(&self, _ctx: &Ctx, name: String) -> Result<String, TaskError> {
///         Ok(format!("{}, {name}", self.greeting))
///     }
/// }
/// ```
pub trait Task: Send + Sync + 'static {
    /// The name, unique among the tasks of a program and stable over its versions.
    const NAME: &'static str;
    /// The arguments: one JSON object keyed by parameter name, for a `#[task]` function.
    type Args: Serialize + DeserializeOwned + Send + 'static;
    /// The result, stored with the job as one JSON value.
    type Output: Serialize + DeserializeOwned + Send + 'static;

    /// The defaults of its jobs.
    fn options(&self) -> TaskOptions {
        TaskOptions::default()
    }

    /// One attempt.
    ///
    /// # Cancel safety
    /// The future is dropped at its timeout, and some seconds after [`Ctx::cancelled`] fires, so
    /// whatever it does across an `.await` must bear that. It may run again: at least once.
    fn run(
        &self,
        ctx: &Ctx,
        args: Self::Args,
    ) -> impl Future<Output = Result<Self::Output, TaskError>> + Send;
}

/// CPU-bound or blocking work with a name, run on threads of its own.
///
/// A thread can't be stopped from outside: a timeout or a cancellation sets
/// [`Ctx::is_cancelled`], and the slot stays taken until the body returns.
pub trait BlockingTask: Send + Sync + 'static {
    /// The name, unique among the tasks of a program and stable over its versions.
    const NAME: &'static str;
    /// The arguments.
    type Args: Serialize + DeserializeOwned + Send + 'static;
    /// The result.
    type Output: Serialize + DeserializeOwned + Send + 'static;

    /// The defaults of its jobs.
    fn options(&self) -> TaskOptions {
        TaskOptions::default()
    }

    /// One attempt.
    ///
    /// # Errors
    /// What the work meets; [`TaskError`] says whether another attempt makes sense.
    fn run(&self, ctx: &Ctx, args: Self::Args) -> Result<Self::Output, TaskError>;
}
