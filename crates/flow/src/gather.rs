//! Several futures at once: all, the first, some, or each as it comes.
//!
//! These run in the caller's own routine, so they may borrow. They are concurrent and not
//! parallel: for several threads, spawn routines into a [`TaskGroup`](crate::TaskGroup) and pass
//! those.

mod race;
mod several;
mod wait;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::stream::{FuturesUnordered, Stream, StreamExt as _};

use crate::Failure;

pub use self::race::{Race, RaceError, race, race_ok};
pub use self::several::{Gather, GatherSettled};
pub use self::wait::{Until, Waited, wait, wait_at_most};

/// Runs futures at once and gives their values in the order of the inputs. The first error ends
/// it: the others are dropped at their await points.
///
/// Takes a vector or an array of futures of one type, or a tuple of up to twelve of different
/// types with one type of error.
///
/// # Errors
/// The first error to come.
///
/// # Cancel safety
/// Dropping it drops all the futures.
///
/// ```
/// use taskloom_flow::gather;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), std::num::ParseIntError> {
/// let (n, words) = gather((async { "7".parse::<u32>() }, async { Ok("seven") })).await?;
/// assert_eq!((n, words), (7, "seven"));
///
/// let numbers: Vec<_> = ["1", "2", "3"].into_iter().map(|it| async { it.parse::<u32>() }).collect();
/// assert_eq!(gather(numbers).await?, [1, 2, 3]);
/// # Ok(())
/// # }
/// ```
pub async fn gather<G: Gather>(inputs: G) -> Result<G::Values, G::Error> {
    inputs.run().await
}

/// Runs futures at once and keeps what each of them came to, in the order of the inputs: a value,
/// an error, or a panic, which ends that future alone.
///
/// Takes what [`gather`] takes, and tuples of different types of errors.
///
/// # Cancel safety
/// Dropping it drops all the futures.
///
/// ```
/// use taskloom_flow::{Failure, gather_settled};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let numbers = ["1", "x"].map(|it| async move { it.parse::<u32>() });
/// let [good, bad] = gather_settled(numbers).await;
/// assert_eq!(good, Ok(1));
/// assert!(matches!(bad, Err(Failure::Error(_))));
/// # }
/// ```
pub async fn gather_settled<G: GatherSettled>(inputs: G) -> G::Settled {
    inputs.run_settled().await
}

/// Runs futures at once and gives each output as it comes, with the index of its input.
///
/// ```
/// use futures::StreamExt as _;
/// use std::time::Duration;
/// use taskloom_flow::as_completed;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let naps = [3, 1, 2].map(|it| tokio::time::sleep(Duration::from_secs(it)));
/// let order: Vec<usize> = as_completed(naps).map(|(index, ())| index).collect().await;
/// assert_eq!(order, [1, 2, 0]);
/// # }
/// ```
pub fn as_completed<F: Future>(inputs: impl IntoIterator<Item = F>) -> AsCompleted<F> {
    let indexed = inputs.into_iter().enumerate();
    AsCompleted { running: indexed.map(|(index, future)| Indexed { index, future }).collect() }
}

/// The stream of [`as_completed`]: `(index of the input, output)`.
///
/// # Cancel safety
/// Waiting for the next is safe. Dropping it drops the futures that have not ended.
#[must_use = "streams do nothing unless polled"]
#[derive(Debug)]
pub struct AsCompleted<F> {
    running: FuturesUnordered<Indexed<F>>,
}

impl<F: Future> Stream for AsCompleted<F> {
    type Item = (usize, F::Output);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.running.poll_next_unpin(cx)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.running.len(), Some(self.running.len()))
    }
}

pin_project_lite::pin_project! {
    #[derive(Debug)]
    struct Indexed<F> {
        index: usize,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Indexed<F> {
    type Output = (usize, F::Output);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let output = ready!(this.future.poll(cx));
        Poll::Ready((*this.index, output))
    }
}

/// Runs a future to a value, an error, or a panic.
async fn settle<T, E>(future: impl Future<Output = Result<T, E>>) -> Result<T, Failure<E>> {
    match crate::catch_panic(future).await {
        Ok(result) => result.map_err(Failure::Error),
        Err(panicked) => Err(Failure::Panicked(panicked)),
    }
}

#[cfg(test)]
mod tests;
