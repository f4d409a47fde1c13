//! Time limits that nest: a call never waits longer than those around it allow.
//!
//! # Invariants
//! - Inside a limit, an inner limit can only be shorter.
//! - A future that is ready at its deadline keeps its output.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::coop::{Unconstrained, unconstrained};
use tokio::time::{Instant, Sleep, sleep_until};

/// What a limit too large for the clock counts as.
const FAR: Duration = Duration::from_secs(86_400 * 365 * 30);

thread_local! {
    /// The nearest deadline around the code that is being polled on this thread. Set and restored
    /// by every poll under a limit, so it follows a future from thread to thread.
    static CURRENT: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Time was up; the future was dropped at its await point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TimedOut {
    /// Its own limit passed.
    #[error("timed out after {0:?}")]
    After(Duration),
    /// The deadline of a call around it passed first.
    #[error("timed out: the deadline of a call around it passed")]
    Outer,
}

/// How long the code that asks may still run: until the nearest deadline around it. `None`
/// without one, and zero when it passed. For what takes a limit of its own, such as an HTTP
/// client.
///
/// ```
/// use std::time::Duration;
/// use taskloom_flow::{remaining, timeout};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// assert_eq!(remaining(), None);
/// let left = timeout(Duration::from_secs(5), async {
///     tokio::time::sleep(Duration::from_secs(2)).await;
///     remaining()
/// });
/// assert_eq!(left.await, Ok(Some(Duration::from_secs(3))));
/// # }
/// ```
#[must_use]
pub fn remaining() -> Option<Duration> {
    current().map(|it| it.saturating_duration_since(Instant::now()))
}

/// The nearest deadline around the code that asks.
pub(crate) fn current() -> Option<Instant> {
    CURRENT.get()
}

/// Calls `f` with `until` as the deadline around it.
pub(crate) fn under<R>(until: Option<Instant>, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Instant>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0);
        }
    }
    let _restore = Restore(CURRENT.replace(until));
    f()
}

/// Runs `future` for at most `limit`, or until the nearest deadline around it.
///
/// The limit counts from the first poll. Routines that the future spawns into a
/// [`TaskGroup`](crate::TaskGroup) inherit the deadline.
///
/// # Errors
/// [`TimedOut`] when time was up first; `future` is dropped at its await point.
///
/// # Cancel safety
/// That of `future`.
///
/// ```
/// use std::time::Duration;
/// use taskloom_flow::{TimedOut, timeout};
///
/// const SECOND: Duration = Duration::from_secs(1);
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// // Ten seconds are asked for within one: the one decides.
/// let inner = timeout(SECOND * 10, std::future::pending::<()>());
/// let began = tokio::time::Instant::now();
/// assert_eq!(timeout(SECOND, inner).await, Ok(Err(TimedOut::Outer)));
/// assert_eq!(began.elapsed(), SECOND);
/// # }
/// ```
pub fn timeout<F: Future>(limit: Duration, future: F) -> Timeout<F> {
    Timeout { limit: Limit::For(limit), running: None, future }
}

/// Runs `future` until `at` at the latest, or until the nearest deadline around it.
///
/// # Errors
/// [`TimedOut`] when time was up first; `future` is dropped at its await point.
///
/// # Cancel safety
/// That of `future`.
///
/// ```
/// use std::time::Duration;
/// use taskloom_flow::deadline;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let at = tokio::time::Instant::now() + Duration::from_secs(1);
/// assert_eq!(deadline(at, async { 7 }).await, Ok(7));
/// assert!(deadline(at, std::future::pending::<()>()).await.is_err());
/// # }
/// ```
pub fn deadline<F: Future>(at: Instant, future: F) -> Timeout<F> {
    Timeout { limit: Limit::At(at), running: None, future }
}

/// Runs `future` for at most `limit` and answers what `fallback` gives when time was up.
///
/// # Cancel safety
/// That of `future`.
///
/// ```
/// use std::time::Duration;
/// use taskloom_flow::timeout_or;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let price = timeout_or(Duration::from_secs(1), std::future::pending(), || 100).await;
/// assert_eq!(price, 100);
/// # }
/// ```
pub async fn timeout_or<F: Future>(
    limit: Duration,
    future: F,
    fallback: impl FnOnce() -> F::Output,
) -> F::Output {
    timeout(limit, future).await.unwrap_or_else(|_| fallback())
}

/// Runs `future` with no deadline for it to inherit: for what it spawns or shields, which goes on
/// when the caller's time is up. The `timeout` around it still drops `future` itself.
///
/// # Cancel safety
/// That of `future`.
///
/// ```
/// use std::time::Duration;
/// use taskloom_flow::{remaining, timeout, without_deadline};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let inside = without_deadline(async { remaining() });
/// assert_eq!(timeout(Duration::from_secs(1), inside).await, Ok(None));
/// # }
/// ```
pub async fn without_deadline<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| under(None, || future.as_mut().poll(cx))).await
}

#[derive(Debug, Clone, Copy)]
enum Limit {
    For(Duration),
    At(Instant),
}

pin_project_lite::pin_project! {
    /// The future of [`timeout`] and [`deadline`].
    #[must_use = "futures do nothing unless polled"]
    #[derive(Debug)]
    pub struct Timeout<F> {
        limit: Limit,
        // Set by the first poll.
        #[pin]
        running: Option<Running>,
        #[pin]
        future: F,
    }
}

pin_project_lite::pin_project! {
    struct Running {
        until: Instant,
        said: TimedOut,
        // Without the budget of Tokio's cooperation: a future that used it up must not outlive
        // its limit.
        #[pin]
        sleep: Unconstrained<Sleep>,
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("until", &self.until).finish_non_exhaustive()
    }
}

impl Running {
    fn begin(limit: Limit) -> Running {
        let now = Instant::now();
        let own = match limit {
            Limit::For(limit) => now.checked_add(limit).unwrap_or_else(|| now + FAR),
            Limit::At(at) => at,
        };
        let outer = current().filter(|it| *it < own);
        let until = outer.unwrap_or(own);
        let said = if outer.is_some() {
            TimedOut::Outer
        } else {
            TimedOut::After(until.saturating_duration_since(now))
        };
        Running { until, said, sleep: unconstrained(sleep_until(until)) }
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, TimedOut>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if this.running.is_none() {
            this.running.set(Some(Running::begin(*this.limit)));
        }
        let running = this.running.as_pin_mut().expect("it was just set").project();
        if let Poll::Ready(output) = under(Some(*running.until), || this.future.poll(cx)) {
            return Poll::Ready(Ok(output));
        }
        running.sleep.poll(cx).map(|()| Err(*running.said))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tokio::time::sleep;

    const SECOND: Duration = Duration::from_secs(1);

    /// How long `future` took, in seconds, and what it said.
    async fn time<F: Future>(future: F) -> (f64, F::Output) {
        let began = Instant::now();
        let output = future.await;
        (began.elapsed().as_secs_f64(), output)
    }

    #[tokio::test(start_paused = true)]
    async fn the_shorter_limit_decides_at_any_depth() {
        let inner = timeout(SECOND * 9, timeout(SECOND * 2, pending::<()>()));
        let (secs, said) = time(timeout(SECOND * 5, inner)).await;
        assert_eq!((secs, said), (2.0, Ok(Ok(Err(TimedOut::After(SECOND * 2))))));

        let inner = timeout(SECOND * 9, timeout(SECOND * 7, pending::<()>()));
        let (secs, said) = time(timeout(SECOND * 5, inner)).await;
        assert_eq!((secs, said), (5.0, Ok(Ok(Err(TimedOut::Outer)))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_ends_with_its_call() {
        timeout(SECOND, async {}).await.unwrap();
        assert_eq!(remaining(), None);
        timeout(SECOND * 3, async {
            timeout(SECOND, async {}).await.unwrap();
            assert_eq!(remaining(), Some(SECOND * 3));
        })
        .await
        .unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_takes_the_deadline_with_it() {
        let broken = crate::catch_panic(timeout(SECOND, async { panic!("no luck") }));
        broken.await.unwrap_err();
        assert_eq!(remaining(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_output_ready_at_the_deadline_is_kept() {
        assert_eq!(timeout(SECOND, sleep(SECOND)).await, Ok(()));
        assert_eq!(timeout(Duration::ZERO, async { 7 }).await, Ok(7));
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_starts_at_the_first_poll() {
        let late = timeout(SECOND, sleep(SECOND / 2));
        sleep(SECOND * 5).await;
        assert_eq!(late.await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_future_that_never_yields_its_budget_times_out_all_the_same() {
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<()>(1);
        sender.try_send(()).unwrap();
        let busy = async {
            loop {
                receiver.recv().await.unwrap();
                sender.try_send(()).unwrap();
                tokio::time::advance(Duration::from_millis(1)).await;
            }
        };
        let said: Result<(), _> = timeout(SECOND, busy).await;
        assert_eq!(said, Err(TimedOut::After(SECOND)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_beyond_the_clock_is_no_limit() {
        assert_eq!(timeout(Duration::MAX, sleep(SECOND)).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_passed_leaves_one_poll() {
        let past = Instant::now();
        sleep(SECOND).await;
        assert_eq!(deadline(past, async { 7 }).await, Ok(7));
        assert_eq!(deadline(past, sleep(SECOND)).await, Err(TimedOut::After(Duration::ZERO)));
    }
}
