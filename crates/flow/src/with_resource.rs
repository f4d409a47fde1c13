//! Open, use, close: a resource whose closing is itself asynchronous, closed whatever happens.
//!
//! # Invariants
//! - What was opened is closed once, after success, error, panic or cancellation of its use.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::panic::resume_unwind;

use crate::{Spawner, catch_panic};

/// Opens a resource, lends it to `body`, and closes it: what `async with` is in Python.
///
/// Closing is awaited, and runs to its end in a routine of `group`, shielded from the cancellation
/// of whoever waits for it. When this future is dropped while `body` runs, the resource is closed
/// there as well: the group's `join` and `drain` wait for it. Dropping the group drops the
/// resource without closing it.
///
/// # Errors
/// What `open`, `body` or `close` said. An error of the body does not keep the resource from
/// being closed, and hides no error of closing. Where the first error is enough, such as for `?`
/// in a function that returns `BoxError`: `.map_err(ResourceError::into_first)`.
///
/// # Panics
/// When `body` panics, after the resource was closed. Outside a Tokio runtime.
///
/// # Cancel safety
/// While `open` runs, that of `open`. Afterwards as told above: nothing is left open.
///
/// ```
/// use taskloom_flow::{TaskGroup, with_resource};
///
/// struct Session(Vec<&'static str>);
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let group = TaskGroup::new();
/// let open = async { Ok::<_, std::io::Error>(Session(vec!["hello"])) };
/// let body = async |session: &mut Session| {
///     session.0.push("work");
///     Ok(session.0.len())
/// };
/// let close = |session: Session| async move {
///     assert_eq!(session.0, ["hello", "work"]);
///     Ok(())
/// };
/// assert_eq!(with_resource(group.spawner(), open, body, close).await.unwrap(), 2);
/// # }
/// ```
pub async fn with_resource<R, T, E, C>(
    group: Spawner,
    open: impl Future<Output = Result<R, E>>,
    body: impl AsyncFnOnce(&mut R) -> Result<T, E>,
    close: impl FnOnce(R) -> C + Send + 'static,
) -> Result<T, ResourceError<E>>
where
    R: Send + 'static,
    E: Send + 'static,
    C: Future<Output = Result<(), E>> + Send + 'static,
{
    let resource = open.await.map_err(ResourceError::Open)?;
    let mut opened = Opened { held: Some((resource, close)), group };
    let lent = &mut opened.held.as_mut().expect("it was just opened").0;
    let said = catch_panic(body(lent)).await;
    let closed = opened.close().await;
    match (said, closed) {
        (Err(panicked), _) => resume_unwind(Box::new(panicked.message)),
        (Ok(Ok(value)), Ok(())) => Ok(value),
        (Ok(Ok(_)), Err(error)) => Err(ResourceError::Close(error)),
        (Ok(Err(error)), Ok(())) => Err(ResourceError::Body(error)),
        (Ok(Err(body)), Err(close)) => Err(ResourceError::BodyAndClose { body, close }),
    }
}

/// What went wrong around a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResourceError<E> {
    /// It could not be opened; there was nothing to close.
    Open(E),
    /// Its use failed; it was closed.
    Body(E),
    /// Its use went well, its closing did not.
    Close(E),
    /// Neither went well.
    BodyAndClose {
        /// What its use said.
        body: E,
        /// What its closing said.
        close: E,
    },
}

impl<E> ResourceError<E> {
    /// The error that came first.
    pub fn into_first(self) -> E {
        match self {
            ResourceError::Open(it) | ResourceError::Body(it) | ResourceError::Close(it) => it,
            ResourceError::BodyAndClose { body, .. } => body,
        }
    }
}

impl<E: fmt::Display> fmt::Display for ResourceError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResourceError::Open(error) => write!(f, "failed to open: {error}"),
            ResourceError::Body(error) => error.fmt(f),
            ResourceError::Close(error) => write!(f, "failed to close: {error}"),
            ResourceError::BodyAndClose { body, close } => {
                write!(f, "{body}; then failed to close: {close}")
            }
        }
    }
}

impl<E: Error + 'static> Error for ResourceError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            ResourceError::Open(error) | ResourceError::Close(error) => Some(error),
            ResourceError::Body(error) => error.source(),
            ResourceError::BodyAndClose { body, .. } => Some(body),
        }
    }
}

/// A resource that closes in a routine of `group` when this is dropped before its time.
struct Opened<R, F, C, E>
where
    R: Send + 'static,
    E: Send + 'static,
    F: FnOnce(R) -> C + Send + 'static,
    C: Future<Output = Result<(), E>> + Send + 'static,
{
    held: Option<(R, F)>,
    group: Spawner,
}

impl<R, F, C, E> Opened<R, F, C, E>
where
    R: Send + 'static,
    E: Send + 'static,
    F: FnOnce(R) -> C + Send + 'static,
    C: Future<Output = Result<(), E>> + Send + 'static,
{
    async fn close(mut self) -> Result<(), E> {
        let (resource, close) = self.held.take().expect("it is closed once");
        // A group that takes no more can't close it: then it is dropped, as the docs say.
        self.group.shield("close", close(resource), drop).await.unwrap_or(Ok(()))
    }
}

impl<R, F, C, E> Drop for Opened<R, F, C, E>
where
    R: Send + 'static,
    E: Send + 'static,
    F: FnOnce(R) -> C + Send + 'static,
    C: Future<Output = Result<(), E>> + Send + 'static,
{
    fn drop(&mut self) {
        if let Some((resource, close)) = self.held.take() {
            drop(self.group.shield("close", close(resource), drop));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TaskGroup;
    use crate::testing::{at_every_await_point, cancel_after};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;
    use tokio::time::sleep;

    const SECOND: Duration = Duration::from_secs(1);

    /// Counts what was opened and what was closed.
    #[derive(Clone, Default)]
    struct Door {
        n_opened: Arc<AtomicUsize>,
        n_closed: Arc<AtomicUsize>,
    }

    impl Door {
        async fn open(self) -> Result<Door, String> {
            sleep(SECOND).await;
            self.n_opened.fetch_add(1, Ordering::Relaxed);
            Ok(self)
        }

        async fn close(self) -> Result<(), String> {
            sleep(SECOND).await;
            self.n_closed.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }

        fn counts(&self) -> (usize, usize) {
            (self.n_opened.load(Ordering::Relaxed), self.n_closed.load(Ordering::Relaxed))
        }
    }

    async fn check(body: impl AsyncFnOnce(&mut Door) -> Result<u32, String>) -> String {
        let (group, door) = (TaskGroup::new(), Door::default());
        let spawner = group.spawner();
        let used = with_resource(spawner.clone(), door.clone().open(), body, Door::close);
        let said = crate::catch_panic(used).await;
        assert_eq!(door.counts(), (1, 1), "it is closed before anything is told");
        group.join().await.unwrap();
        match said {
            Ok(said) => said.map_or_else(|it| it.to_string(), |it| it.to_string()),
            Err(panicked) => format!("panicked: {}", panicked.message),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_closed_after_success_error_and_panic() {
        assert_eq!(check(async |_| Ok(7)).await, "7");
        assert_eq!(check(async |_| Err("no luck".to_owned())).await, "no luck");
        assert_eq!(check(async |_| panic!("no luck")).await, "panicked: no luck");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_closed_wherever_its_use_is_cancelled() {
        let n_points = at_every_await_point(async |n_polls| {
            let (group, door) = (TaskGroup::new(), Door::default());
            let spawner = group.spawner();
            let body = async |_: &mut Door| {
                sleep(SECOND).await;
                sleep(SECOND).await;
                Ok(())
            };
            let used = with_resource(spawner.clone(), door.clone().open(), body, Door::close);
            let ended = cancel_after(n_polls, used).await.is_some();
            group.join().await.unwrap();
            let (n_opened, n_closed) = door.counts();
            assert_eq!(n_opened, n_closed, "after {n_polls} polls");
            assert_eq!(n_opened, usize::from(1 < n_polls));
            ended
        });
        assert_eq!(n_points.await, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn both_errors_are_kept() {
        let group = TaskGroup::new();
        let said: Result<(), _> = with_resource(
            group.spawner(),
            async { Ok(()) },
            async |()| Err("use"),
            |()| async { Err("close") },
        )
        .await;
        let error = said.unwrap_err();
        assert_eq!(error, ResourceError::BodyAndClose { body: "use", close: "close" });
        assert_eq!(error.to_string(), "use; then failed to close: close");
        assert_eq!(error.into_first(), "use");
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_group_still_closes() {
        let (group, door) = (TaskGroup::new(), Door::default());
        let (spawner, inside) = (group.spawner(), door.clone());
        group.spawn("uses", async move {
            let body = async |_: &mut Door| {
                sleep(SECOND * 60).await;
                Ok(())
            };
            with_resource(spawner.clone(), inside.open(), body, Door::close)
                .await
                .map_err(|it| it.to_string())
        });
        sleep(SECOND * 2).await;
        group.cancel("enough");
        group.join().await.unwrap_err();
        assert_eq!(door.counts(), (1, 1));
    }
}
