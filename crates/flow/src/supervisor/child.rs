//! A supervisor's child: how it is made and kept, and what a run of it is given.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::{BoxError, Cancellation};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::Instant;

pub(super) type Make =
    Arc<dyn Fn(ChildContext) -> BoxFuture<'static, Result<(), BoxError>> + Send + Sync>;

/// How long a child may take to stop, unless told: as in Erlang.
const GRACE: Duration = Duration::from_secs(5);

/// Longer spans count as this one, 30 years: moments so far ahead don't overflow.
pub(super) const SPAN_MAX: Duration = Duration::from_secs(30 * 365 * 86_400);

/// Whether a child that ended by itself is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RestartPolicy {
    /// Always, even after it ended without an error: it is there to stay.
    #[default]
    Permanent,
    /// Only after an error or a panic.
    Transient,
    /// Never, not even when it was stopped only because of another child.
    Temporary,
}

/// A child to be: its name, how each run of it is made, and how it is kept.
///
/// ```
/// use std::time::Duration;
/// use taskloom_flow::{ChildSpec, RestartPolicy};
///
/// let child = ChildSpec::new("feed", |child| async move {
///     child.ready(); // Connected.
///     child.stopped().await;
///     Ok(())
/// });
/// let child = child
///     .restart(RestartPolicy::Transient)
///     .grace(Duration::from_secs(10))
///     .ready_within(Duration::from_secs(3));
/// ```
#[must_use = "give it to `Supervisor::child`"]
pub struct ChildSpec {
    pub(super) name: Arc<str>,
    pub(super) make: Make,
    pub(super) restart: RestartPolicy,
    pub(super) grace: Duration,
    pub(super) heartbeat: Option<Duration>,
    pub(super) ready_within: Option<Duration>,
}

impl ChildSpec {
    /// A permanent child with 5 seconds of grace. `make` is called for each run of it; a panic in
    /// it counts as one of the run.
    pub fn new<F, R>(name: impl Into<Arc<str>>, make: F) -> Self
    where
        F: Fn(ChildContext) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        ChildSpec {
            name: name.into(),
            make: Arc::new(move |context| make(context).boxed()),
            restart: RestartPolicy::default(),
            grace: GRACE,
            heartbeat: None,
            ready_within: None,
        }
    }

    /// Whether it is started again after it ended.
    pub fn restart(mut self, restart: RestartPolicy) -> Self {
        self.restart = restart;
        self
    }

    /// How long it may take to stop, from when its token fires to when it is aborted. Zero aborts
    /// at once. One that is a supervisor itself needs the graces of all its children.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace.min(SPAN_MAX);
        self
    }

    /// The child promises a [`Heartbeat::beat`] at least every `every`, from when it is ready; one
    /// that breaks the promise is stopped and counts as failed. Under 1 ms counts as 1 ms.
    pub fn heartbeat(mut self, every: Duration) -> Self {
        self.heartbeat = Some(every.clamp(Duration::from_millis(1), SPAN_MAX));
        self
    }

    /// The child promises to call [`ChildContext::ready`] within `span` of its start. It counts as
    /// starting until then, and those after it wait; one that breaks the promise is stopped and
    /// counts as failed. Without this a child is ready at once.
    pub fn ready_within(mut self, span: Duration) -> Self {
        self.ready_within = Some(span.min(SPAN_MAX));
        self
    }
}

impl fmt::Debug for ChildSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildSpec")
            .field("name", &self.name)
            .field("restart", &self.restart)
            .field("grace", &self.grace)
            .field("heartbeat", &self.heartbeat)
            .field("ready_within", &self.ready_within)
            .finish_non_exhaustive()
    }
}

/// What one run of a child is given.
#[derive(Debug, Clone)]
pub struct ChildContext {
    pub(super) stop: Cancellation,
    pub(super) signs: Arc<Signs>,
}

impl ChildContext {
    /// The token that fires when this run is to stop, and at its end in any case. The run waits
    /// for it and returns within its grace; whatever it returns then is no failure.
    #[must_use]
    pub fn cancellation(&self) -> &Cancellation {
        &self.stop
    }

    /// Waits until this run is to stop: the wait for [`ChildContext::cancellation`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// What tells the supervisor that this run lives.
    #[must_use]
    pub fn heartbeat(&self) -> Heartbeat {
        Heartbeat { signs: Arc::clone(&self.signs) }
    }

    /// Says that this run has started: see [`ChildSpec::ready_within`].
    pub fn ready(&self) {
        if !self.signs.ready.swap(true, Ordering::AcqRel) {
            self.signs.changed.notify_one();
        }
    }
}

/// A run's sign of life. Clones are of the same run, and a run that ended helps no later one.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    signs: Arc<Signs>,
}

impl Heartbeat {
    /// Tells the supervisor that this run lives. Costs one look at the clock and one atomic store.
    pub fn beat(&self) {
        self.signs.beat(Instant::now());
    }
}

/// What a run says of itself. Written by the run, read by its supervisor and by handles.
#[derive(Debug)]
pub(super) struct Signs {
    began: Instant,
    /// Nanoseconds from `began` to the last beat, plus one; zero before the first.
    beat: AtomicU64,
    ready: AtomicBool,
    /// Tells the supervisor of `ready`. A beat tells nobody: it is looked at when it is due.
    changed: Arc<Notify>,
}

impl Signs {
    pub(super) fn new(began: Instant, changed: &Arc<Notify>) -> Arc<Self> {
        let (beat, ready) = (AtomicU64::new(0), AtomicBool::new(false));
        Arc::new(Signs { began, beat, ready, changed: Arc::clone(changed) })
    }

    fn beat(&self, now: Instant) {
        let nanos = now.saturating_duration_since(self.began).as_nanos();
        self.beat.store(u64::try_from(nanos).unwrap_or(u64::MAX - 1) + 1, Ordering::Release);
    }

    pub(super) fn last_beat(&self) -> Option<Instant> {
        let nanos = self.beat.load(Ordering::Acquire).checked_sub(1)?;
        Some(self.began + Duration::from_nanos(nanos))
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }
}
