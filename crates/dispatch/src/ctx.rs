//! What an attempt knows of itself: its job, its deadline, its cancellation, its progress, its log.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use taskloom_model::{Fence, JobId, Time};
use taskloom_store::Clock;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Why an attempt is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelReason {
    /// Somebody cancelled the job.
    Requested,
    /// The node drains: the job returns to `ready` with its attempt given back.
    Drain,
    /// The attempt's timeout passed (seen by blocking tasks and in child processes; an async body is
    /// dropped).
    TimedOut,
    /// The lease was lost: another attempt owns the job, and nothing said here counts.
    LeaseLost,
}

impl CancelReason {
    const ALL: [CancelReason; 4] = [Self::Requested, Self::Drain, Self::TimedOut, Self::LeaseLost];
}

/// How far an attempt has come.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    /// From 0 to 1.
    pub fraction: f64,
    /// What it is doing, at most [`Progress::MESSAGE_MAX`] bytes.
    pub message: String,
}

impl Progress {
    /// The longest message kept, in bytes.
    pub const MESSAGE_MAX: usize = 200;
}

/// How much a line of a job's log matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the usual words")]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

impl LogLevel {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
        }
    }
}

/// One line of a job's log.
#[derive(Debug, Clone, PartialEq)]
pub struct LogLine {
    /// When it was written.
    pub at: Time,
    /// How much it matters.
    pub level: LogLevel,
    /// The text, at most [`Ctx::LOG_LINE_MAX`] bytes.
    pub text: String,
}

/// Where lines of log go at once, past the heartbeat: the way out of a child process.
pub(crate) trait Outlet: std::fmt::Debug + Send + Sync {
    fn log(&self, level: LogLevel, text: String);
}

/// What an attempt knows of itself. Cheap to clone; `Send` and `Sync`.
///
/// In unit tests, [`Ctx::detached`] makes one that belongs to no job.
#[derive(Clone, Debug)]
pub struct Ctx(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    job: JobId,
    task: Arc<str>,
    queue: Arc<str>,
    attempt: u32,
    max_attempts: u32,
    fence: Fence,
    idempotency_key: OnceLock<String>,
    deadline: Option<Instant>,
    cancel: CancellationToken,
    /// Why `cancel` fired, as 1 + the place in [`CancelReason::ALL`]; written once before it fires.
    reason: AtomicU8,
    /// Written by the attempt, taken by the heartbeat.
    signs: Mutex<Signs>,
    clock: Option<Arc<dyn Clock>>,
    outlet: Option<Arc<dyn Outlet>>,
}

#[derive(Debug, Default)]
struct Signs {
    progress: Option<Progress>,
    progress_changed: bool,
    n_lines: usize,
    lines: Vec<LogLine>,
}

impl Ctx {
    /// How many lines of log one attempt may write; what follows is dropped, and the last line says so.
    pub const LOG_LINES_MAX: usize = 1000;
    /// The longest line of log kept, in bytes.
    pub const LOG_LINE_MAX: usize = 4096;

    /// A context that belongs to no job, for calling a body in a unit test.
    #[must_use]
    pub fn detached() -> Ctx {
        CtxBuilder::new(JobId::compose(Time::default(), 0, 0), "detached").build()
    }

    /// The job.
    #[must_use]
    pub fn job_id(&self) -> JobId {
        self.0.job
    }

    /// The name of the task.
    #[must_use]
    pub fn task(&self) -> &str {
        &self.0.task
    }

    /// The queue that the job waited in.
    #[must_use]
    pub fn queue(&self) -> &str {
        &self.0.queue
    }

    /// Which attempt this is, from 1. Lost, interrupted and snoozed ones don't count.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.attempt
    }

    /// How many attempts the job has in all.
    #[must_use]
    pub fn max_attempts(&self) -> u32 {
        self.0.max_attempts
    }

    /// The number of the lease. It grows with each claim of the job, lost ones too: hand it to
    /// systems that can refuse a write under a lower number than they have seen.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.0.fence
    }

    /// A text that is the same for every attempt of this job and for no other job: hand it to
    /// other systems, so that they recognise a second attempt.
    #[must_use]
    pub fn idempotency_key(&self) -> &str {
        self.0.idempotency_key.get_or_init(|| self.0.job.to_string())
    }

    /// When this attempt is stopped; `None`: never.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline
    }

    /// How long this attempt still has; `None`: as long as it likes.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        self.0.deadline.map(|it| it.saturating_duration_since(Instant::now()))
    }

    /// The token that fires when the attempt should end.
    #[must_use]
    pub fn cancellation(&self) -> &CancellationToken {
        &self.0.cancel
    }

    /// Waits until the attempt is asked to end.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn cancelled(&self) {
        self.0.cancel.cancelled().await;
    }

    /// Whether the attempt was asked to end.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.cancel.is_cancelled()
    }

    /// Why it was.
    #[must_use]
    pub fn cancel_reason(&self) -> Option<CancelReason> {
        let code = self.0.reason.load(Ordering::Acquire);
        CancelReason::ALL.get(usize::from(code).checked_sub(1)?).copied()
    }

    /// Asks the attempt to end. The first reason stays.
    pub fn cancel(&self, reason: CancelReason) {
        let place = CancelReason::ALL.iter().position(|&it| it == reason).unwrap_or(0);
        let code = u8::try_from(place + 1).unwrap_or(1);
        self.0.reason.compare_exchange(0, code, Ordering::AcqRel, Ordering::Acquire).ok();
        self.0.cancel.cancel();
    }

    /// Says how far the attempt has come: `fraction` from 0 to 1. Cheap: the newest value is
    /// kept, and made durable with the next heartbeat, once a second.
    pub fn progress(&self, fraction: f64, message: impl Into<String>) {
        let fraction = if fraction.is_finite() { fraction.clamp(0.0, 1.0) } else { 0.0 };
        let message = cut(message.into(), Progress::MESSAGE_MAX);
        let mut signs = self.0.signs.lock();
        signs.progress = Some(Progress { fraction, message });
        signs.progress_changed = true;
    }

    /// The progress last said.
    #[must_use]
    pub fn last_progress(&self) -> Option<Progress> {
        self.0.signs.lock().progress.clone()
    }

    /// Writes a line to the job's log, at level info.
    pub fn log(&self, text: impl Into<String>) {
        self.log_at(LogLevel::Info, text);
    }

    /// Writes a line to the job's log. Lines become durable with the next heartbeat or with the
    /// end of the attempt.
    pub fn log_at(&self, level: LogLevel, text: impl Into<String>) {
        let mut signs = self.0.signs.lock();
        signs.n_lines += 1;
        if Self::LOG_LINES_MAX < signs.n_lines {
            return;
        }
        let text = if signs.n_lines == Self::LOG_LINES_MAX {
            format!("this attempt wrote {} lines; the rest is dropped", Self::LOG_LINES_MAX)
        } else {
            cut(text.into(), Self::LOG_LINE_MAX)
        };
        if let Some(outlet) = &self.0.outlet {
            drop(signs);
            return outlet.log(level, text);
        }
        let at = self.0.clock.as_ref().map(|it| it.now()).unwrap_or_default();
        signs.lines.push(LogLine { at, level, text });
    }

    /// Takes what is new since the last call: progress and lines of log.
    #[must_use]
    pub fn take_signs(&self) -> (Option<Progress>, Vec<LogLine>) {
        let mut signs = self.0.signs.lock();
        let progress = if signs.progress_changed { signs.progress.clone() } else { None };
        signs.progress_changed = false;
        (progress, std::mem::take(&mut signs.lines))
    }
}

fn cut(mut text: String, bytes_max: usize) -> String {
    if bytes_max < text.len() {
        let end = (0..=bytes_max).rev().find(|&it| text.is_char_boundary(it)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// Builds a [`Ctx`]: for the engine, and for tests that need a particular one.
#[derive(Debug)]
pub struct CtxBuilder(Inner);

impl CtxBuilder {
    /// A first and only attempt at `job`, without a deadline.
    #[must_use]
    pub fn new(job: JobId, task: impl Into<Arc<str>>) -> Self {
        CtxBuilder(Inner {
            job,
            task: task.into(),
            queue: Arc::from("default"),
            attempt: 1,
            max_attempts: 1,
            fence: Fence::default(),
            idempotency_key: OnceLock::new(),
            deadline: None,
            cancel: CancellationToken::new(),
            reason: AtomicU8::new(0),
            signs: Mutex::default(),
            clock: None,
            outlet: None,
        })
    }

    /// The queue.
    #[must_use]
    pub fn queue(mut self, queue: impl Into<Arc<str>>) -> Self {
        self.0.queue = queue.into();
        self
    }

    /// Which attempt of how many.
    #[must_use]
    pub fn attempt(mut self, attempt: u32, max_attempts: u32) -> Self {
        self.0.attempt = attempt;
        self.0.max_attempts = max_attempts;
        self
    }

    /// The lease.
    #[must_use]
    pub fn fence(mut self, fence: Fence) -> Self {
        self.0.fence = fence;
        self
    }

    /// When it is stopped.
    #[must_use]
    pub fn deadline(mut self, deadline: Option<Instant>) -> Self {
        self.0.deadline = deadline;
        self
    }

    /// The clock for its log lines.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.0.clock = Some(clock);
        self
    }

    /// Where its log lines go at once.
    #[must_use]
    pub(crate) fn outlet(mut self, outlet: Arc<dyn Outlet>) -> Self {
        self.0.outlet = Some(outlet);
        self
    }

    /// The context.
    #[must_use]
    pub fn build(self) -> Ctx {
        Ctx(Arc::new(self.0))
    }
}
