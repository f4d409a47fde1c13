//! One attempt: run the body under its timeout, its cancellation and its panics, and say how it
//! ended.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use taskloom_flow::{Panicked, catch_panic, catch_panic_blocking};
use taskloom_model::{Fence, JobId, Outcome, RetryPolicy, Roll, Time};
use taskloom_store::{AttemptError, Claimed, Clock, Finish, PAYLOAD_MAX};
use tokio::time::Instant;

use crate::board::new_logs;
use crate::process::{Launcher, Order, supervise};
use crate::{CancelReason, Ctx, CtxBuilder, TaskError, TaskErrorKind, TaskOptions};

/// What the body said: JSON, an error, or a panic.
pub(crate) type Said = Result<Result<String, TaskError>, Panicked>;

/// An attempt that is about to begin.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) id: JobId,
    pub(crate) fence: Fence,
    pub(crate) args: Arc<str>,
    pub(crate) ctx: Ctx,
    pub(crate) options: TaskOptions,
    pub(crate) started: Time,
    /// How long the body has between the wish to cancel and the drop.
    pub(crate) grace: Duration,
}

impl Attempt {
    pub(crate) fn new(
        claimed: &Claimed,
        options: TaskOptions,
        clock: &Arc<dyn Clock>,
        grace: Duration,
    ) -> Attempt {
        let started = clock.now();
        let by_timeout = claimed.timeout;
        let by_deadline = claimed.deadline.map(|it| it.since(started));
        let time = [by_timeout, by_deadline].into_iter().flatten().min();
        let ctx = CtxBuilder::new(claimed.id, Arc::clone(&claimed.task))
            .queue(Arc::clone(&claimed.queue))
            .attempt(claimed.attempt, claimed.max_attempts)
            .fence(claimed.fence)
            .deadline(time.and_then(|it| Instant::now().checked_add(it)))
            .clock(Arc::clone(clock))
            .build();
        let args = Arc::clone(&claimed.args);
        Attempt { id: claimed.id, fence: claimed.fence, args, ctx, options, started, grace }
    }

    /// Runs an async body to its end, its timeout, or the end of its grace. One that was asked to
    /// end before it began never begins: its lease may be another's already.
    pub(crate) async fn run(
        self,
        runner: &(
             dyn Fn(Ctx, Arc<str>) -> futures::future::BoxFuture<'static, Result<String, TaskError>>
                 + Send
                 + Sync
         ),
    ) -> Finish {
        if self.ctx.is_cancelled() {
            return self.end(None);
        }
        self.begin();
        let began = Instant::now();
        let mut busy = Duration::ZERO;
        let is_measured = self.options.measure_performance;
        let said = {
            let body = runner(self.ctx.clone(), Arc::clone(&self.args));
            let mut body = std::pin::pin!(catch_panic(body));
            // Wall time tells what a user waits for, poll time what the attempt costs a core.
            let body = std::future::poll_fn(|cx| {
                if !is_measured {
                    return body.poll_unpin(cx);
                }
                let polled = Instant::now();
                let poll = body.poll_unpin(cx);
                busy += polled.elapsed();
                poll
            });
            self.limit(body).await
        };
        if is_measured {
            self.measured(began.elapsed(), format_args!("of which {busy:.1?} on a core"));
        }
        self.end(said)
    }

    /// Waits for the body, but no longer than allowed. `None`: it was dropped.
    async fn limit(&self, body: impl Future<Output = Said>) -> Option<Said> {
        let mut body = std::pin::pin!(body);
        let deadline = self.ctx.deadline();
        let out_of_time = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let mut out_of_time = std::pin::pin!(out_of_time);
        tokio::select! {
            biased;
            said = &mut body => return Some(said),
            () = &mut out_of_time => {
                self.ctx.cancel(CancelReason::TimedOut);
                return None;
            }
            () = self.ctx.cancelled() => {}
        }
        tokio::select! {
            biased;
            said = &mut body => Some(said),
            () = out_of_time => None,
            () = tokio::time::sleep(self.grace) => None,
        }
    }

    /// Runs a blocking body to its end, on this thread; not one that was asked to end before.
    pub(crate) fn run_blocking(
        self,
        runner: &(dyn Fn(&Ctx, &str) -> Result<String, TaskError> + Send + Sync),
    ) -> Finish {
        if self.ctx.is_cancelled() {
            return self.end(None);
        }
        self.begin();
        let began = std::time::Instant::now();
        let said = catch_panic_blocking(|| runner(&self.ctx, &self.args));
        if self.options.measure_performance {
            self.measured(began.elapsed(), format_args!("on a thread of its own"));
        }
        self.end(Some(said))
    }

    /// Runs the body in a child process, to its end or that of its grace.
    pub(crate) async fn run_in_child(self, launcher: &Launcher) -> Finish {
        self.begin();
        let began = Instant::now();
        let process = self.options.process.unwrap_or_default();
        let grace = process.grace.unwrap_or(self.grace);
        let order = Order { ctx: &self.ctx, args: &self.args, memory: process.memory, grace };
        let said = supervise(launcher, order).await;
        if self.options.measure_performance {
            self.measured(began.elapsed(), format_args!("in a process of its own"));
        }
        self.end(said)
    }

    fn begin(&self) {
        if self.options.log_execution {
            let (task, attempt) = (self.ctx.task(), self.ctx.attempt());
            tracing::info!(job = %self.id, task, attempt, "the attempt begins");
            self.ctx.log(format!("attempt {attempt} begins"));
        }
    }

    fn measured(&self, wall: Duration, how: std::fmt::Arguments<'_>) {
        self.ctx.log(format!("took {wall:.1?}, {how}"));
    }

    fn end(self, said: Option<Said>) -> Finish {
        let (outcome, result, error) = outcome_of(said, self.ctx.cancel_reason(), &self.ctx);
        if self.options.log_execution {
            let word = outcome.as_str();
            tracing::info!(job = %self.id, task = self.ctx.task(), outcome = word, "the attempt ended");
            self.ctx.log(format!("attempt {} ended: {word}", self.ctx.attempt()));
        }
        Finish {
            id: self.id,
            fence: self.fence,
            outcome,
            roll: Roll(fastrand::f64()),
            started: self.started,
            result,
            error,
            logs: new_logs(self.ctx.take_signs().1),
        }
    }
}

/// What is recorded of an attempt that was cut off, or never began.
pub(crate) fn interrupted(id: JobId, fence: Fence, started: Time) -> Finish {
    Finish {
        id,
        fence,
        outcome: Outcome::Interrupted,
        roll: Roll(0.0),
        started,
        result: None,
        error: None,
        logs: Vec::new(),
    }
}

type Ended = (Outcome, Option<String>, Option<AttemptError>);

fn outcome_of(said: Option<Said>, reason: Option<CancelReason>, ctx: &Ctx) -> Ended {
    match said {
        Some(Ok(Ok(result))) if PAYLOAD_MAX < result.len() => {
            error_outcome(&result_too_large(result.len()), None)
        }
        Some(Ok(Ok(result))) => (Outcome::Succeeded, Some(result), None),
        Some(Ok(Err(task_error))) => error_outcome(&task_error, reason),
        Some(Err(panicked)) => {
            let message = format!("panicked at {}: {}", panicked.location, panicked.message);
            let error = AttemptError {
                backtrace: Some(panicked.backtrace),
                ..error(message, Some("task.panic"))
            };
            errored(false, None, error)
        }
        None => match reason {
            Some(CancelReason::TimedOut) | None => timed_out(ctx),
            Some(reason) => stopped(reason, ctx),
        },
    }
}

/// The error of a body whose result is not kept.
pub(crate) fn result_too_large(bytes: usize) -> TaskError {
    let message = format!(
        "the result is {bytes} bytes, over the limit of {PAYLOAD_MAX}; store it elsewhere and \
         return a reference"
    );
    TaskError::permanent(message).code("task.result_too_large")
}

fn error(message: String, code: Option<&str>) -> AttemptError {
    AttemptError { message, code: code.map(str::to_owned), backtrace: None }
}

fn errored(permanent: bool, hint: Option<Duration>, error: AttemptError) -> Ended {
    let hint = hint.map(|it| it.min(RetryPolicy::HINT_MAX));
    (Outcome::Errored { permanent, hint }, None, Some(error))
}

fn timed_out(ctx: &Ctx) -> Ended {
    let message = format!("attempt {} ran out of time and was stopped", ctx.attempt());
    (Outcome::TimedOut, None, Some(error(message, Some("task.timeout"))))
}

/// The outcome of an attempt that ended because it was asked to.
fn stopped(reason: CancelReason, ctx: &Ctx) -> Ended {
    match reason {
        CancelReason::Requested => (Outcome::Cancelled, None, None),
        CancelReason::Drain | CancelReason::LeaseLost => (Outcome::Interrupted, None, None),
        CancelReason::TimedOut => timed_out(ctx),
    }
}

fn error_outcome(task_error: &TaskError, reason: Option<CancelReason>) -> Ended {
    let described = error(task_error.message().to_owned(), task_error.code_str());
    match (task_error.kind(), reason) {
        (TaskErrorKind::Snooze(delay), _) => (Outcome::Snoozed { delay }, None, None),
        // Whatever a body says after it was asked to end is most likely for that reason.
        (_, Some(CancelReason::Drain | CancelReason::LeaseLost)) => {
            (Outcome::Interrupted, None, None)
        }
        (_, Some(CancelReason::TimedOut)) => (Outcome::TimedOut, None, Some(described)),
        (_, Some(CancelReason::Requested)) | (TaskErrorKind::Cancelled, None) => {
            (Outcome::Cancelled, None, Some(described))
        }
        (TaskErrorKind::Permanent, None) => errored(true, None, described),
        (TaskErrorKind::Transient, None) => {
            errored(false, task_error.retry_after_hint(), described)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node that was taken for dead may hear of it just after it has given a job a slot.
    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_was_asked_to_end_before_it_began_never_begins() {
        let ctx = Ctx::detached();
        ctx.cancel(CancelReason::LeaseLost);
        let attempt = Attempt {
            id: ctx.job_id(),
            fence: Fence(1),
            args: Arc::from("{}"),
            ctx,
            options: TaskOptions::default(),
            started: Time::default(),
            grace: Duration::from_secs(5),
        };
        let finish = attempt.run(&|_, _| panic!("the body begins")).await;
        assert_eq!(finish.outcome, Outcome::Interrupted);
    }
}
