//! Task groups: every routine has an owner, which spawns it, hears how it ended, and ends it.
//!
//! # Invariants
//! - No routine outlives its group: dropping the group aborts what is left.
//! - A routine's panic is a failure like an error: it ends that routine, never the process.
//! - What a group remembers of ended routines is bounded.

mod bounded;
mod error;
mod output;
mod routine;
mod shared;
mod shield;

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

pub use self::bounded::{BoundedSpawner, BoundedTaskGroup};
pub use self::error::{BoxError, Drained, End, Ended, Failure, GroupError};
pub use self::output::RoutineOutput;
pub use self::routine::{Routine, Unfinished};
pub use self::shared::{RoutineInfo, RoutineKind};
pub use self::shield::Shielded;

use self::shared::{OnFailure, Shared};
use crate::{Cancellation, Cancelled, Reason};

/// How long a routine that holds the group's token may take to end well, unless the group says
/// otherwise.
const GRACE: Duration = Duration::from_secs(5);

/// How long an aborted routine has to let go of what it holds, before an owner stops waiting for
/// it. A future is dropped at its next `.await`; only one stuck in blocking code takes longer.
const ABORT_WAIT: Duration = Duration::from_secs(1);

/// The name of a routine.
pub type Name = Cow<'static, str>;

/// Owns every routine of one piece of work or of one component.
///
/// # Kinds of groups
/// In a group made by [`new`](TaskGroup::new) the routines are parts of one work: the first that
/// fails, by an error or a panic, cancels its siblings, and [`join`](TaskGroup::join) tells of all
/// failures together. In an [`isolated`](TaskGroup::isolated) one they are a component's loops
/// and connections: the end of one is no matter of the others, the owner hears of it by
/// [`join_next`](TaskGroup::join_next), and ends all of them with [`drain`](TaskGroup::drain).
///
/// # What cancelling does
/// The group's token fires, with the reason. Routines of [`spawn`](TaskGroup::spawn) are dropped
/// at their next await point. Those of [`spawn_with`](TaskGroup::spawn_with) hold the token, and
/// have the group's grace to clean up and end. Those of [`shield`](TaskGroup::shield) go on and
/// are waited for. A group that was cancelled takes no more routines but shielded ones, with which
/// the others clean up.
///
/// ```
/// use taskloom_flow::TaskGroup;
///
/// async fn square(n: u64) -> Result<u64, std::io::Error> {
///     Ok(n * n)
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let group = TaskGroup::new();
/// let three = group.spawn("three", square(3));
/// let four = group.spawn("four", square(4));
/// group.join().await.expect("none failed");
/// assert_eq!((three.await, four.await), (Ok(9), Ok(16)));
///
/// let group = TaskGroup::new();
/// group.spawn("waits for ever", std::future::pending::<()>());
/// group.spawn("fails", async { Err::<(), _>("no luck") });
/// let error = group.join().await.unwrap_err();
/// assert_eq!(error.to_string(), "1 routine failed: fails: no luck");
/// # }
/// ```
pub struct TaskGroup {
    shared: Arc<Shared>,
    grace: Duration,
}

impl Default for TaskGroup {
    fn default() -> Self {
        TaskGroup::new()
    }
}

impl TaskGroup {
    /// A group whose first failure cancels the siblings.
    #[must_use]
    pub fn new() -> Self {
        TaskGroup::with(Cancellation::new(), OnFailure::CancelSiblings)
    }

    /// A group in which each routine stands for itself.
    #[must_use]
    pub fn isolated() -> Self {
        TaskGroup::with(Cancellation::new(), OnFailure::Tell)
    }

    /// A group of this kind that is cancelled also when `parent` is; for a group that has not
    /// spawned yet. While the owner does not join, the parent only fires the group's token.
    #[must_use]
    pub fn under(self, parent: &Cancellation) -> Self {
        TaskGroup::with(parent.child(), self.shared.on_failure).grace(self.grace)
    }

    /// The same group with another grace than 5 seconds for routines that hold its token.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    fn with(cancellation: Cancellation, on_failure: OnFailure) -> Self {
        TaskGroup { shared: Arc::new(Shared::new(cancellation, on_failure)), grace: GRACE }
    }

    /// Runs `body` with a group of its own, and returns when it and every routine that it spawned
    /// have ended: what `async with asyncio.TaskGroup()` is in Python.
    ///
    /// The first failure, be it the body's, cancels the rest.
    ///
    /// # Errors
    /// [`GroupError`] with every failure; that of the body has the name `body`.
    ///
    /// # Cancel safety
    /// Dropping this future drops the body and aborts every routine.
    ///
    /// ```
    /// use taskloom_flow::{BoxError, TaskGroup};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let sum = TaskGroup::scope(async |group| {
    ///     let a = group.spawn("a", async { Ok::<_, BoxError>(1) });
    ///     let b = group.spawn("b", async { Ok::<_, BoxError>(2) });
    ///     Ok::<_, BoxError>(a.await? + b.await?)
    /// });
    /// assert_eq!(sum.await.unwrap(), 3);
    /// # }
    /// ```
    pub async fn scope<T, E: Into<BoxError>>(
        body: impl AsyncFnOnce(&TaskGroup) -> Result<T, E>,
    ) -> Result<T, GroupError> {
        let group = TaskGroup::new();
        let said = group.shared.cancellation.run(crate::catch_panic(body(&group))).await;
        let failure = match said {
            Ok(Ok(Ok(value))) => {
                group.join().await?;
                return Ok(value);
            }
            Ok(Ok(Err(error))) => Failure::Error(error.into()),
            Ok(Err(panicked)) => Failure::Panicked(panicked),
            Err(Cancelled { reason }) => {
                group.join().await?;
                return Err(GroupError { failures: Vec::new(), n_more: 0, reason: Some(reason) });
            }
        };
        group.shared.fail("body".into(), failure);
        Err(group.join().await.expect_err("its body failed"))
    }

    /// Starts a routine that returns `()` or a `Result`; cancelling the group drops it at its next
    /// await point. `name` is for whoever hears of its end.
    ///
    /// The answer may be awaited for what the routine returned, or dropped: the routine is the
    /// group's. It inherits the deadline around the caller ([`timeout`](crate::timeout)). A group
    /// that was cancelled drops `future` without running it.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn spawn<F>(
        &self,
        name: impl Into<Name>,
        future: F,
    ) -> Routine<<F::Output as RoutineOutput>::Value>
    where
        F: Future<Output: RoutineOutput<Value: Send, Error: Into<BoxError>>> + Send + 'static,
    {
        self.shared.spawn(name.into(), RoutineKind::Plain, future)
    }

    /// Starts a routine that holds the group's token: when the group is cancelled it is expected
    /// to clean up and return, and is aborted only after the group's grace.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    ///
    /// ```
    /// use taskloom_flow::TaskGroup;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let group = TaskGroup::new();
    /// let ticker = group.spawn_with("ticker", |cancel| async move {
    ///     let reason = cancel.cancelled().await;
    ///     Ok::<_, std::io::Error>(format!("ended well: {reason}"))
    /// });
    /// group.cancel("no more time");
    /// group.join().await.expect("it ended by itself");
    /// assert_eq!(ticker.await.unwrap(), "ended well: no more time");
    /// # }
    /// ```
    pub fn spawn_with<F>(
        &self,
        name: impl Into<Name>,
        make: impl FnOnce(Cancellation) -> F,
    ) -> Routine<<F::Output as RoutineOutput>::Value>
    where
        F: Future<Output: RoutineOutput<Value: Send, Error: Into<BoxError>>> + Send + 'static,
    {
        let future = make(self.shared.cancellation.clone());
        self.shared.spawn(name.into(), RoutineKind::Graceful, future)
    }

    /// Starts work that finishes although whoever waits for it is cancelled, and although this
    /// group is: `join` and `drain` wait for it, without a grace. Only the deadline of a drain, or
    /// dropping the group, aborts it.
    ///
    /// What it returned goes to whoever awaits the answer; when that was dropped, to `unclaimed`.
    /// Pass `drop` when it is of no further use.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    ///
    /// ```
    /// use std::time::Duration;
    /// use taskloom_flow::{TaskGroup, timeout};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let (sender, receiver) = tokio::sync::oneshot::channel();
    /// let group = TaskGroup::new();
    /// let charge = async {
    ///     tokio::time::sleep(Duration::from_secs(3)).await;
    ///     "charged once"
    /// };
    /// let charged = group.shield("charge", charge, move |late| drop(sender.send(late)));
    /// // The caller has a second only; the card is charged all the same, and nothing is lost.
    /// assert!(timeout(Duration::from_secs(1), charged).await.is_err());
    /// group.join().await.unwrap();
    /// assert_eq!(receiver.await, Ok("charged once"));
    /// # }
    /// ```
    pub fn shield<F>(
        &self,
        name: impl Into<Name>,
        future: F,
        unclaimed: impl FnOnce(F::Output) + Send + 'static,
    ) -> Shielded<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        shield::shield(&self.shared, name.into(), future, unclaimed)
    }

    /// What spawns into this group from elsewhere, such as from its own routines.
    #[must_use]
    pub fn spawner(&self) -> Spawner {
        Spawner { shared: Arc::clone(&self.shared) }
    }

    /// The group's token: it fires when the group is cancelled or drains.
    #[must_use]
    pub fn cancellation(&self) -> &Cancellation {
        &self.shared.cancellation
    }

    /// Cancels every routine; see [the group](TaskGroup#what-cancelling-does).
    pub fn cancel(&self, reason: impl Into<Reason>) {
        self.shared.cancel(reason.into());
    }

    /// How many routines have not ended.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.len()
    }

    /// Whether all have.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The routines that have not ended, oldest first: what the group is doing.
    #[must_use]
    pub fn routines(&self) -> Vec<RoutineInfo> {
        self.shared.routines()
    }

    /// Waits for a routine to end and tells how; `None` when all have ended and were told of.
    ///
    /// Failures are told first. A group remembers the latest 256 good ends that nobody asked for,
    /// and the first 256 failures.
    ///
    /// # Cancel safety
    /// Safe: an end that was not told stays to be told.
    pub async fn join_next(&mut self) -> Option<Ended> {
        self.shared.next_end().await
    }

    /// Waits until every routine has ended. When the group was cancelled, from inside by a failure
    /// or from outside, it enforces the grace.
    ///
    /// # Errors
    /// [`GroupError`] when a routine failed and [`join_next`](TaskGroup::join_next) has not told
    /// of it, or when cancelling the group cut one short.
    ///
    /// # Cancel safety
    /// Dropping this future aborts every routine still running.
    pub async fn join(self) -> Result<(), GroupError> {
        tokio::select! {
            biased;
            () = self.shared.closed() => {}
            reason = self.shared.cancellation.cancelled() => self.end_cancelled(reason).await,
        }
        self.shared.take_error().map_or(Ok(()), Err)
    }

    /// Ends what a cancelled group still runs.
    async fn end_cancelled(&self, reason: Reason) {
        // It may have been a parent's token that fired: then nothing has been dropped yet.
        self.shared.cancel(reason);
        let graceful = self.shared.all_ended_but_shielded();
        if tokio::time::timeout(self.grace, graceful).await.is_err() {
            self.shared.abort(RoutineKind::Graceful);
        }
        self.shared.closed().await;
    }

    /// Takes nothing back and waits: fires the token with [`Reason::Draining`], lets every routine
    /// finish until `deadline`, then aborts and counts the rest.
    ///
    /// Aborted routines are given one more second to drop what they hold; one stuck in blocking
    /// code is then left to itself.
    ///
    /// # Cancel safety
    /// Dropping this future aborts every routine still running.
    pub async fn drain(self, deadline: Duration) -> Drained {
        self.shared.cancellation.cancel(Reason::Draining);
        if tokio::time::timeout(deadline, self.shared.closed()).await.is_ok() {
            return self.shared.drained(0);
        }
        self.shared.close();
        let n_aborted = self.shared.abort(RoutineKind::Shielded);
        tokio::time::timeout(ABORT_WAIT, self.shared.closed()).await.ok();
        self.shared.drained(n_aborted)
    }
}

impl Drop for TaskGroup {
    fn drop(&mut self) {
        self.shared.close();
        self.shared.abort(RoutineKind::Shielded);
        self.shared.cancellation.cancel(Reason::OwnerDropped);
    }
}

impl fmt::Debug for TaskGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<Name> = self.routines().into_iter().map(|it| it.name).collect();
        f.debug_struct("TaskGroup").field("routines", &names).finish_non_exhaustive()
    }
}

/// Spawns into a group that somebody else owns. Clones spawn into the same group.
///
/// ```
/// use taskloom_flow::{Spawner, TaskGroup};
///
/// /// Tells of a number and, in routines of the same group, of its children.
/// fn visit(n: u32, spawner: &Spawner, seen: tokio::sync::mpsc::Sender<u32>) {
///     let inner = spawner.clone();
///     spawner.spawn("visit", async move {
///         seen.send(n).await.ok();
///         for child in [2 * n, 2 * n + 1].into_iter().filter(|it| *it < 8) {
///             visit(child, &inner, seen.clone());
///         }
///     });
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let group = TaskGroup::new();
/// let (sender, mut receiver) = tokio::sync::mpsc::channel(16);
/// visit(1, &group.spawner(), sender);
/// group.join().await.unwrap();
/// let mut seen = Vec::new();
/// receiver.recv_many(&mut seen, 16).await;
/// seen.sort();
/// assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7]);
/// # }
/// ```
#[derive(Clone)]
pub struct Spawner {
    shared: Arc<Shared>,
}

impl Spawner {
    /// As [`TaskGroup::spawn`]. When the group has ended or was dropped, `future` is dropped
    /// without running and the answer is [`Unfinished::Cancelled`].
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn spawn<F>(
        &self,
        name: impl Into<Name>,
        future: F,
    ) -> Routine<<F::Output as RoutineOutput>::Value>
    where
        F: Future<Output: RoutineOutput<Value: Send, Error: Into<BoxError>>> + Send + 'static,
    {
        self.shared.spawn(name.into(), RoutineKind::Plain, future)
    }

    /// As [`TaskGroup::spawn_with`].
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn spawn_with<F>(
        &self,
        name: impl Into<Name>,
        make: impl FnOnce(Cancellation) -> F,
    ) -> Routine<<F::Output as RoutineOutput>::Value>
    where
        F: Future<Output: RoutineOutput<Value: Send, Error: Into<BoxError>>> + Send + 'static,
    {
        let future = make(self.shared.cancellation.clone());
        self.shared.spawn(name.into(), RoutineKind::Graceful, future)
    }

    /// As [`TaskGroup::shield`].
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn shield<F>(
        &self,
        name: impl Into<Name>,
        future: F,
        unclaimed: impl FnOnce(F::Output) + Send + 'static,
    ) -> Shielded<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        shield::shield(&self.shared, name.into(), future, unclaimed)
    }

    /// The group's token.
    #[must_use]
    pub fn cancellation(&self) -> &Cancellation {
        &self.shared.cancellation
    }
}

impl fmt::Debug for Spawner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spawner").field("n_routines", &self.shared.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
