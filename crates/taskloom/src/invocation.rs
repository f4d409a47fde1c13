//! A typed invocation: a task with its arguments and options, not submitted yet.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use taskloom_dispatch::{BlockingTask, Task, TaskOptions};
use taskloom_model::{DependencyPolicy, JobId, Priority, PriorityError, RetryPolicy, Time};

use crate::{DurationError, IntoDuration, JobHandle};

/// The queue of jobs that name none.
pub const QUEUE_DEFAULT: &str = "default";

/// A task with its arguments: nothing runs before it is submitted.
///
/// A bad option is remembered and told by [`crate::TaskSystem::submit`].
#[must_use = "an invocation does nothing before it is submitted"]
pub struct Invocation<T> {
    request: Result<Request, InvocationError>,
    result: PhantomData<fn() -> T>,
}

/// What is asked of the store: an invocation without its type.
#[derive(Debug, Clone)]
pub struct Request {
    /// The task.
    pub task: Arc<str>,
    /// The queue.
    pub queue: Arc<str>,
    /// The arguments: JSON.
    pub args: String,
    /// How urgent.
    pub priority: Priority,
    /// When an errored attempt is followed by another.
    pub retry: RetryPolicy,
    /// How long an attempt may take.
    pub timeout: Option<Duration>,
    /// Not before this long after it is accepted.
    pub delay: Option<Duration>,
    /// Not before this moment.
    pub run_at: Option<Time>,
    /// Not after this moment.
    pub deadline: Option<Time>,
    /// What limits and fairness count it by.
    pub key: Option<String>,
    /// While an unfinished job has this text, that one is returned.
    pub unique: Option<String>,
    /// The jobs that must end first.
    pub after: Vec<JobId>,
    /// What a failed or cancelled one of them does.
    pub on_dependency_failure: DependencyPolicy,
}

/// An option or arguments that can't be submitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvocationError {
    /// The arguments can't be written as JSON.
    #[error("the arguments of task `{task}` can't be written as JSON: {why}")]
    Args {
        /// The task.
        task: String,
        /// What the serializer says.
        why: String,
    },
    /// A duration can't be read.
    #[error(transparent)]
    Duration(#[from] DurationError),
    /// A timeout is zero.
    #[error("a timeout of zero would stop every attempt before it begins; leave it out for none")]
    TimeoutZero,
    /// A priority is over 9.
    #[error(transparent)]
    Priority(#[from] PriorityError),
}

impl<T> fmt::Debug for Invocation<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invocation").field("request", &self.request).finish_non_exhaustive()
    }
}

impl<T> Clone for Invocation<T> {
    fn clone(&self) -> Self {
        Invocation { request: self.request.clone(), result: PhantomData }
    }
}

impl<T> Invocation<T> {
    /// An invocation of the task named `task`, with its default `options`.
    #[doc(hidden)]
    pub fn new<A: Serialize>(task: &str, options: TaskOptions, args: &A) -> Self {
        let request = match serde_json::to_string(args) {
            Ok(args) => Ok(Request {
                task: Arc::from(task),
                queue: Arc::from(options.queue.unwrap_or(QUEUE_DEFAULT)),
                args,
                priority: options.priority,
                retry: options.retry,
                timeout: options.timeout,
                delay: None,
                run_at: None,
                deadline: None,
                key: None,
                unique: None,
                after: Vec::new(),
                on_dependency_failure: DependencyPolicy::default(),
            }),
            Err(error) => {
                Err(InvocationError::Args { task: task.to_owned(), why: error.to_string() })
            }
        };
        Invocation { request, result: PhantomData }
    }

    fn with(mut self, set: impl FnOnce(&mut Request) -> Result<(), InvocationError>) -> Self {
        if let Ok(request) = &mut self.request
            && let Err(error) = set(request)
        {
            self.request = Err(error);
        }
        self
    }

    /// Not before this long after it is accepted: a [`Duration`], or a text such as `"10s"`.
    pub fn delay(self, delay: impl IntoDuration) -> Self {
        self.with(|it| {
            it.delay = Some(delay.into_duration()?);
            Ok(())
        })
    }

    /// Not before this moment.
    pub fn run_at(self, at: Time) -> Self {
        self.with(|it| {
            it.run_at = Some(at);
            Ok(())
        })
    }

    /// How urgent it is: 0 to 9, 9 first.
    pub fn priority(self, level: u8) -> Self {
        self.with(|it| {
            it.priority = Priority::new(level)?;
            Ok(())
        })
    }

    /// The queue to wait in.
    pub fn queue(self, queue: impl Into<Arc<str>>) -> Self {
        self.with(|it| {
            it.queue = queue.into();
            Ok(())
        })
    }

    /// What limits and fairness count it by: a tenant, a host.
    pub fn key(self, key: impl Into<String>) -> Self {
        self.with(|it| {
            it.key = Some(key.into());
            Ok(())
        })
    }

    /// While an unfinished job has this text, submitting returns that one, marked as a duplicate.
    pub fn unique(self, text: impl Into<String>) -> Self {
        self.with(|it| {
            it.unique = Some(text.into());
            Ok(())
        })
    }

    /// When an errored attempt is followed by another.
    pub fn retry(self, policy: RetryPolicy) -> Self {
        self.with(|it| {
            it.retry = policy;
            Ok(())
        })
    }

    /// How many attempts it has in all.
    pub fn max_attempts(self, n: u32) -> Self {
        self.with(|it| {
            it.retry.max_attempts = n;
            Ok(())
        })
    }

    /// How long one attempt may take: a [`Duration`], or a text such as `"30s"`.
    pub fn timeout(self, timeout: impl IntoDuration) -> Self {
        self.with(|it| {
            let timeout = timeout.into_duration()?;
            if timeout.is_zero() {
                return Err(InvocationError::TimeoutZero);
            }
            it.timeout = Some(timeout);
            Ok(())
        })
    }

    /// Past this moment it fails instead of being tried again.
    pub fn deadline(self, deadline: Time) -> Self {
        self.with(|it| {
            it.deadline = Some(deadline);
            Ok(())
        })
    }

    /// The jobs that must end first: a [`JobId`], a handle, or several of one kind.
    pub fn after(self, jobs: impl IntoJobIds) -> Self {
        self.with(|it| {
            it.after.extend(jobs.into_job_ids());
            Ok(())
        })
    }

    /// Runs it even if a job it depends on fails or is cancelled; otherwise it is cancelled too.
    pub fn run_even_if_dependencies_fail(self) -> Self {
        self.with(|it| {
            it.on_dependency_failure = DependencyPolicy::Run;
            Ok(())
        })
    }

    /// What is asked of the store.
    ///
    /// # Errors
    /// The first bad option.
    pub fn into_request(self) -> Result<Request, InvocationError> {
        self.request
    }
}

impl Invocation<serde_json::Value> {
    /// An invocation of a task by its name, with arguments and result as JSON: for tasks that
    /// another program has.
    pub fn named(task: impl AsRef<str>, args: serde_json::Value) -> Self {
        Invocation::new(task.as_ref(), TaskOptions::default(), &args)
    }
}

/// Tasks that are types can be invoked: `fetch.invoke(args)`.
pub trait Invoke: Task + Sized {
    /// A typed invocation with the task's defaults.
    fn invoke(&self, args: Self::Args) -> Invocation<Self::Output> {
        Invocation::new(Self::NAME, self.options(), &args)
    }
}

impl<T: Task> Invoke for T {}

/// Blocking tasks that are types can be invoked too.
pub trait InvokeBlocking: BlockingTask + Sized {
    /// A typed invocation with the task's defaults.
    fn invoke(&self, args: Self::Args) -> Invocation<Self::Output> {
        Invocation::new(Self::NAME, self.options(), &args)
    }
}

impl<T: BlockingTask> InvokeBlocking for T {}

/// One job or several, by id or by handle.
pub trait IntoJobIds {
    /// Their ids.
    fn into_job_ids(self) -> Vec<JobId>;
}

impl IntoJobIds for JobId {
    fn into_job_ids(self) -> Vec<JobId> {
        vec![self]
    }
}

impl<T> IntoJobIds for &JobHandle<T> {
    fn into_job_ids(self) -> Vec<JobId> {
        vec![self.id()]
    }
}

impl IntoJobIds for Vec<JobId> {
    fn into_job_ids(self) -> Vec<JobId> {
        self
    }
}

impl<T> IntoJobIds for &[JobHandle<T>] {
    fn into_job_ids(self) -> Vec<JobId> {
        self.iter().map(JobHandle::id).collect()
    }
}

impl<T> IntoJobIds for &Vec<JobHandle<T>> {
    fn into_job_ids(self) -> Vec<JobId> {
        self.as_slice().into_job_ids()
    }
}
