//! For tests of async code: what happens when a future is dropped, at any of its await points.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

/// How many await points [`at_every_await_point`] tries before it gives up: a future with more
/// than these never ends, or is too large a thing to test so.
const POINTS_MAX: usize = 10_000;

/// Polls `future` until it is ready, and drops it when `n_polls` polls were not enough; the
/// answer is then `None`. It is polled only when it asked to be, as by a runtime.
///
/// # Cancel safety
/// That of `future`.
pub async fn cancel_after<F: Future>(n_polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut n_left = n_polls;
    poll_fn(move |cx| {
        if n_left == 0 {
            return Poll::Ready(None);
        }
        n_left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if n_left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Drops a future at each of its await points in turn: `attempt(1)` must make a world of its own,
/// run the future under [`cancel_after`] with that many polls, check what the drop left behind,
/// and answer whether the future ended by itself. It is called with 1, 2, 3 … until it did.
/// Returns how many points were tried.
///
/// ```
/// use taskloom_flow::testing::{at_every_await_point, cancel_after};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let n_points = at_every_await_point(async |n_polls| {
///     let semaphore = tokio::sync::Semaphore::new(1);
///     let work = async {
///         let _permit = semaphore.acquire().await.unwrap();
///         tokio::task::yield_now().await;
///     };
///     let ended = cancel_after(n_polls, work).await;
///     assert_eq!(semaphore.available_permits(), 1, "no permit is lost at {n_polls}");
///     ended.is_some()
/// })
/// .await;
/// assert_eq!(n_points, 1);
/// # }
/// ```
///
/// # Panics
/// When the future has not ended after 10,000 polls.
///
/// # Cancel safety
/// Safe.
pub async fn at_every_await_point(mut attempt: impl AsyncFnMut(usize) -> bool) -> usize {
    for n_polls in 1..=POINTS_MAX {
        if attempt(n_polls).await {
            return n_polls - 1;
        }
    }
    panic!("the future has not ended after {POINTS_MAX} polls");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_await_point_is_met_once() {
        let n_points = at_every_await_point(async |n_polls| {
            let mut n_begun = 0;
            let work = async {
                for _ in 0..5 {
                    n_begun += 1;
                    tokio::task::yield_now().await;
                }
            };
            let ended = cancel_after(n_polls, work).await;
            assert_eq!(n_begun, n_polls.min(5));
            ended.is_some()
        });
        assert_eq!(n_points.await, 5);
    }

    #[tokio::test]
    async fn no_poll_at_all_is_possible() {
        assert_eq!(cancel_after(0, async { unreachable!("it is never polled") }).await, None::<()>);
    }
}
