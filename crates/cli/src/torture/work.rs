//! The tasks of the workers: each notes its begin and its end, and does one thing in between.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use taskloom::{
    Backoff, BlockingTask, Ctx, Invocation, Invoke, InvokeBlocking, Jitter, RetryPolicy, Task,
    TaskError, TaskOptions,
};

use super::notes::{Notes, What};
use crate::args::Sabotage;

/// The code of an error that a job was told to end with.
pub(super) const TOLD: &str = "torture.told";
/// The code of an error because nothing could be noted.
pub(super) const NOT_NOTED: &str = "torture.not_noted";

/// How often a job that errors does so before it succeeds.
const N_ERRORS: u32 = 2;
/// How long an attempt that shall run out of time has.
const TIMEOUT: Duration = Duration::from_millis(200);
/// A job that is about to be cancelled goes on for this long when it is not.
const PATIENT: Duration = Duration::from_secs(2);
/// One in so many attempts is spoilt by a [`Sabotage`].
const SPOIL_EVERY: u64 = 20;

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// Nothing.
    Instant,
    /// Sleeps for some milliseconds.
    Sleeping,
    /// Errors some times, then succeeds.
    Erroring,
    /// Runs out of time once, then succeeds.
    TimingOut,
    /// Blocks a thread for some milliseconds.
    Blocking,
    /// Nothing, once another job has ended.
    Depending,
    /// Sleeps for seconds, and is cancelled by whoever submitted it.
    Cancelled,
    /// Never ends.
    Held,
}

/// The arguments of a job.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Args {
    pub(super) kind: Kind,
    pub(super) micros: u64,
}

/// What both tasks share.
#[derive(Debug, Clone)]
pub(super) struct Work {
    pub(super) notes: Arc<Notes>,
    /// Say each begin on standard output.
    pub(super) says_start: bool,
    pub(super) sabotage: Option<Sabotage>,
}

/// The task of jobs that block a thread.
#[derive(Debug, Clone)]
pub(super) struct BlockingWork(pub(super) Work);

impl Work {
    fn note(&self, ctx: &Ctx, what: What) -> Result<(), TaskError> {
        let noted = self.notes.write(what, [(ctx.job_id(), ctx.fence())]);
        noted.map_err(|error| TaskError::new(error.to_string()).code(NOT_NOTED))
    }

    fn is_spoilt(&self, ctx: &Ctx, by: Sabotage) -> bool {
        self.sabotage == Some(by) && ctx.job_id().key().is_multiple_of(SPOIL_EVERY)
    }

    fn begin(&self, ctx: &Ctx) -> Result<(), TaskError> {
        self.note(ctx, What::Start)?;
        if self.is_spoilt(ctx, Sabotage::StartTwice) {
            self.note(ctx, What::Start)?;
        }
        if self.says_start {
            crate::print::line(format!("started {}", ctx.job_id()))
                .map_err(|error| TaskError::new(error.to_string()))?;
        }
        Ok(())
    }

    fn end(&self, ctx: &Ctx) -> Result<(), TaskError> {
        if self.is_spoilt(ctx, Sabotage::SkipEnd) {
            return Ok(());
        }
        self.note(ctx, What::End)
    }
}

/// Errors come as often as the disk is full: whatever they are, a job is tried again.
fn options() -> TaskOptions {
    let backoff = Backoff {
        delay_first: Duration::from_millis(50),
        factor: 2.0,
        delay_max: Duration::from_secs(1),
        jitter: Jitter::Full,
    };
    TaskOptions { retry: RetryPolicy { max_attempts: 10_000, backoff }, ..TaskOptions::default() }
}

impl Task for Work {
    const NAME: &'static str = "torture";
    type Args = Args;
    type Output = ();

    fn options(&self) -> TaskOptions {
        options()
    }

    async fn run(&self, ctx: &Ctx, args: Args) -> Result<(), TaskError> {
        self.begin(ctx)?;
        match args.kind {
            Kind::Erroring if ctx.attempt() <= N_ERRORS => {
                return Err(TaskError::new("as it was told to").code(TOLD));
            }
            Kind::TimingOut if ctx.attempt() == 1 => std::future::pending().await,
            Kind::Held => std::future::pending().await,
            Kind::Cancelled => tokio::time::sleep(PATIENT).await,
            Kind::Sleeping => tokio::time::sleep(Duration::from_micros(args.micros)).await,
            Kind::Instant | Kind::Depending | Kind::Erroring | Kind::TimingOut | Kind::Blocking => {
            }
        }
        self.end(ctx)
    }
}

impl BlockingTask for BlockingWork {
    const NAME: &'static str = "torture_blocking";
    type Args = Args;
    type Output = ();

    fn options(&self) -> TaskOptions {
        options()
    }

    fn run(&self, ctx: &Ctx, args: Args) -> Result<(), TaskError> {
        self.0.begin(ctx)?;
        std::thread::sleep(Duration::from_micros(args.micros));
        self.0.end(ctx)
    }
}

impl Work {
    /// A job of a kind, without what it depends on.
    pub(super) fn job(&self, kind: Kind, micros: u64) -> Invocation<()> {
        let args = Args { kind, micros };
        match kind {
            Kind::Blocking => BlockingWork(self.clone()).invoke(args),
            Kind::TimingOut => self.invoke(args).timeout(TIMEOUT),
            _ => self.invoke(args),
        }
    }
}
