//! The node's side of one attempt in a child: hands it over, hears it, ends it.

use std::convert::Infallible;
use std::future::pending;
use std::pin::Pin;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::value::RawValue;
use taskloom_flow::Every;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::death::Death;
use super::launch::{Child, Launcher};
use super::peak_memory;
use super::wire::{self, Begin, End, FROM_CHILD_MAX, FromChild, TO_CHILD_MAX, ToChild, WireError};
use crate::attempt::Said;
use crate::{CancelReason, Ctx, LogLevel, TaskError};

/// How long a child may take to come to its task.
const START_MAX: Duration = Duration::from_secs(60);
/// How long a child may take to be gone after it said its last, or was killed.
const EXIT_MAX: Duration = Duration::from_secs(5);
/// How long to read on what an ended child has left in its pipes, should somebody hold them open.
const LEFTOVERS_MAX: Duration = Duration::from_millis(200);
/// How often its memory is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What an attempt in a child is given.
#[derive(Debug)]
pub(crate) struct Order<'a> {
    pub(crate) ctx: &'a Ctx,
    pub(crate) args: &'a str,
    /// The cap on its memory, in bytes.
    pub(crate) memory: Option<u64>,
    /// How long the body has between the wish to end and the kill.
    pub(crate) grace: Duration,
}

/// How the conversation with a child ended.
enum Verdict {
    Heard(Result<Option<End>, WireError>),
    Exited,
    /// Its time is over, and so is its grace.
    OutOfTime,
    /// It never came to the task.
    StartedLate,
}

/// Runs an attempt in a child. `None`: it was killed, for the reason in its context.
///
/// # Cancel safety
/// Dropping it kills the child.
pub(crate) async fn supervise(launcher: &Launcher, order: Order<'_>) -> Option<Said> {
    match launcher.launch(order.ctx.task()).await {
        Ok(child) => attend(child, &order).await,
        Err(error) => {
            let error = TaskError::new(format!("the child could not be started: {error}"));
            Some(Ok(Err(error.code("task.process.start"))))
        }
    }
}

async fn attend(child: Child, order: &Order<'_>) -> Option<Said> {
    let Child { pid, line, mut output, mut exited, group } = child;
    let begin = match begin(order) {
        Ok(begin) => begin,
        Err(error) => return Some(Ok(Err(message_error(&error)))),
    };
    let (begun, peak) = (watch::Sender::new(false), AtomicU64::new(0));
    let (ear, mouth) = line.into_split();
    let mut ended = None;
    let verdict = {
        let side = async {
            futures::join!(tell(mouth, begin, order.ctx), look(pid, &peak), output.read_to_end());
            pending().await
        };
        let mut side = std::pin::pin!(side);
        let mut listen = std::pin::pin!(listen(ear, order.ctx, &begun));
        let verdict = beside(side.as_mut(), async {
            tokio::select! {
                biased;
                heard = &mut listen => Verdict::Heard(heard),
                it = &mut exited => {
                    ended = Some(it.ok().flatten());
                    Verdict::Exited
                }
                () = late_start(&begun) => Verdict::StartedLate,
                () = out_of_time(order) => Verdict::OutOfTime,
            }
        })
        .await;
        let verdict = match verdict {
            // What it said last may still be on the way.
            Verdict::Exited => match timeout(LEFTOVERS_MAX, listen).await {
                Ok(heard) => Verdict::Heard(heard),
                Err(_) => Verdict::Exited,
            },
            other => other,
        };
        let may_end = matches!(verdict, Verdict::Heard(Ok(_)));
        if ended.is_none() && may_end {
            ended = beside(side.as_mut(), exit(&mut exited)).await;
        }
        if ended.is_none() {
            group.kill();
            ended = beside(side.as_mut(), exit(&mut exited)).await;
        }
        verdict
    };
    timeout(LEFTOVERS_MAX, output.read_to_end()).await.ok();
    let peak = Some(peak.into_inner()).filter(|it| 0 < *it);
    let has_begun = *begun.borrow();
    let status = ended.flatten();
    let death = Death { status, has_begun, memory: order.memory, peak, output: output.lines() };
    conclude(verdict, death, order.ctx)
}

/// What follows from how it ended, with a line in the log, and more when it died.
fn conclude(verdict: Verdict, mut death: Death, ctx: &Ctx) -> Option<Said> {
    let said = match verdict {
        Verdict::Heard(Ok(Some(end))) => {
            death.peak = death.peak.max(end.peak);
            ctx.log_at(LogLevel::Debug, death.told());
            return Some(end.said.into_said());
        }
        Verdict::Heard(Err(error)) => Some(Ok(Err(message_error(&error)))),
        Verdict::Heard(Ok(None)) | Verdict::Exited => Some(Ok(Err(death.error()))),
        Verdict::StartedLate => {
            let message = format!(
                "the child did not come to the task within {START_MAX:?}: what stands before \
                 `TaskSystem::start` runs in it too, and must come to an end"
            );
            Some(Ok(Err(TaskError::new(message).code("task.process.start"))))
        }
        Verdict::OutOfTime => None,
    };
    ctx.log_at(LogLevel::Warn, death.told());
    for line in death.output {
        ctx.log_at(LogLevel::Warn, format!("printed: {line}"));
    }
    said
}

fn message_error(error: &WireError) -> TaskError {
    TaskError::new(format!("the node and its child can't understand each other: {error}"))
        .code("task.process.message")
}

/// The first message.
fn begin(order: &Order<'_>) -> Result<Vec<u8>, WireError> {
    let ctx = order.ctx;
    let begin = Begin {
        job: ctx.job_id(),
        queue: ctx.queue().to_owned(),
        attempt: ctx.attempt(),
        max_attempts: ctx.max_attempts(),
        time_left: ctx.time_left(),
        memory: order.memory,
        args: RawValue::from_string(order.args.to_owned())?,
    };
    wire::encode(&ToChild::Begin(Box::new(begin)), TO_CHILD_MAX)
}

/// Says what to do, and later perhaps to end. A child that is gone is heard of elsewhere.
async fn tell(mut mouth: OwnedWriteHalf, begin: Vec<u8>, ctx: &Ctx) {
    if mouth.write_all(&begin).await.is_ok() {
        drop(begin);
        ctx.cancelled().await;
        let reason = ctx.cancel_reason().unwrap_or(CancelReason::Requested);
        if let Ok(cancel) = wire::encode(&ToChild::Cancel(reason), TO_CHILD_MAX) {
            mouth.write_all(&cancel).await.ok();
        }
    }
    // An end closed here would end the child.
    pending::<()>().await;
}

/// Hears the child until it has said how the body ended, or has gone.
async fn listen(
    mut ear: OwnedReadHalf,
    ctx: &Ctx,
    begun: &watch::Sender<bool>,
) -> Result<Option<End>, WireError> {
    while let Some(message) = wire::read(&mut ear, FROM_CHILD_MAX).await? {
        match message {
            FromChild::Begun => drop(begun.send_replace(true)),
            FromChild::Log(level, text) => ctx.log_at(level, text),
            FromChild::Progress(it) => ctx.progress(it.fraction, it.message),
            FromChild::End(end) => return Ok(Some(end)),
        }
    }
    Ok(None)
}

/// Looks at its memory as long as it lives: a child that dies can't say.
async fn look(pid: u32, peak: &AtomicU64) {
    let mut every = Every::new(LOOK_EVERY);
    loop {
        every.tick().await;
        if let Some(bytes) = peak_memory(pid) {
            peak.fetch_max(bytes, Ordering::Relaxed);
        }
    }
}

/// Fires when the child should have come to its task long ago.
async fn late_start(begun: &watch::Sender<bool>) {
    let mut begun = begun.subscribe();
    let is_begun = begun.wait_for(|it| *it);
    if timeout(START_MAX, is_begun).await.is_ok() {
        pending().await
    }
}

/// Fires when the attempt should end and its grace is over.
async fn out_of_time(order: &Order<'_>) {
    let deadline = async {
        match order.ctx.deadline() {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => pending().await,
        }
    };
    tokio::select! {
        () = order.ctx.cancelled() => {}
        () = deadline => order.ctx.cancel(CancelReason::TimedOut),
    }
    tokio::time::sleep(order.grace).await;
}

/// Waits for its end, but not for ever. `None`: it lives on.
async fn exit(exited: &mut oneshot::Receiver<Option<ExitStatus>>) -> Option<Option<ExitStatus>> {
    Some(timeout(EXIT_MAX, exited).await.ok()?.ok().flatten())
}

/// Waits for `main` while `side`, which has no end, goes on.
async fn beside<T>(
    side: Pin<&mut impl Future<Output = Infallible>>,
    main: impl Future<Output = T>,
) -> T {
    tokio::select! {
        biased;
        done = main => done,
        never = side => match never {},
    }
}
