//! A routine, seen from outside and from inside.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::shared::Shared;
use super::{BoxError, End, Failure, RoutineOutput};
use crate::Panicked;
use crate::timeout::under;

/// Why there is no value from a routine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfinished {
    /// It returned an error, which its group tells of.
    #[error("the routine failed; its group has the error")]
    Failed,
    /// It panicked; its group has the message.
    #[error("the routine panicked; its group has the message")]
    Panicked,
    /// It was cancelled before it ended.
    #[error("the routine was cancelled")]
    Cancelled,
}

/// A routine of a [`TaskGroup`](crate::TaskGroup): await it for its value. Dropping it changes
/// nothing, as the group owns the routine.
///
/// # Cancel safety
/// Awaiting `&mut routine` is safe: the value stays to be taken.
pub struct Routine<T> {
    /// `None` when the group took no more routines.
    handle: Option<JoinHandle<Result<T, Unfinished>>>,
}

impl<T> Routine<T> {
    pub(super) fn new(handle: JoinHandle<Result<T, Unfinished>>) -> Self {
        Routine { handle: Some(handle) }
    }

    pub(super) fn refused() -> Self {
        Routine { handle: None }
    }

    /// Aborts this routine alone, at its next await point. Its siblings go on, and the group does
    /// not count it as failed.
    pub fn abort(&self) {
        if let Some(handle) = &self.handle {
            handle.abort();
        }
    }

    /// Whether it has ended, one way or another.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.handle.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl<T> Future for Routine<T> {
    type Output = Result<T, Unfinished>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(handle) = &mut self.get_mut().handle else {
            return Poll::Ready(Err(Unfinished::Cancelled));
        };
        Poll::Ready(match ready!(Pin::new(handle).poll(cx)) {
            Ok(result) => result,
            Err(error) if error.is_panic() => Err(Unfinished::Panicked),
            Err(_) => Err(Unfinished::Cancelled),
        })
    }
}

impl<T> fmt::Debug for Routine<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routine").field("is_finished", &self.is_finished()).finish_non_exhaustive()
    }
}

pin_project_lite::pin_project! {
    /// What runs inside a routine: the user's future, and the group's knowledge of its end.
    pub(super) struct Tracked<F> {
        // Empty once it ended: the group hears of an end only when everything it held is dropped.
        #[pin]
        future: Option<F>,
        deadline: Option<Instant>,
        membership: Membership,
    }
}

impl<F> Tracked<F> {
    pub(super) fn new(future: F, deadline: Option<Instant>, membership: Membership) -> Self {
        Tracked { future: Some(future), deadline, membership }
    }
}

impl<F> Future for Tracked<F>
where
    F: Future<Output: RoutineOutput<Error: Into<BoxError>>>,
{
    type Output = Result<<F::Output as RoutineOutput>::Value, Unfinished>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let future = this.future.as_mut().as_pin_mut().expect("it is not polled after its end");
            let output = ready!(under(*this.deadline, || future.poll(cx)));
            this.future.set(None);
            Poll::Ready(output)
        }));
        let failure = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => match output.into_result() {
                Ok(value) => {
                    this.membership.end(End::Returned);
                    return Poll::Ready(Ok(value));
                }
                Err(error) => Failure::Error(error.into()),
            },
            Err(payload) => {
                // The rest of it is dropped under a catch too: one panic seldom comes alone.
                catch_unwind(AssertUnwindSafe(|| this.future.set(None))).ok();
                Failure::Panicked(Panicked::told_by_hook(payload.as_ref()))
            }
        };
        let unfinished = match &failure {
            Failure::Error(_) => Unfinished::Failed,
            Failure::Panicked(_) => Unfinished::Panicked,
        };
        this.membership.end(End::Failed(failure));
        Poll::Ready(Err(unfinished))
    }
}

/// A routine's place in its group; given up at its end, or when it is dropped before.
pub(super) struct Membership {
    /// `None` once given up.
    shared: Option<Arc<Shared>>,
    key: usize,
}

impl Membership {
    pub(super) fn new(shared: Arc<Shared>, key: usize) -> Self {
        Membership { shared: Some(shared), key }
    }

    fn end(&mut self, end: End) {
        if let Some(shared) = self.shared.take() {
            shared.ended(self.key, end);
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.end(End::Cancelled);
    }
}
