//! Calls in flight that are routines of their own: they run whether the stream is polled or not.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::stream::{Fuse, FuturesOrdered, FuturesUnordered};
use futures::{FutureExt as _, Stream, StreamExt as _};
use tokio::sync::oneshot;

use crate::{Inputs, TaskGroup};

type Ended<T> = Result<T, Box<dyn Any + Send>>;

/// Calls `f` with each of `inputs` (a stream or an iterator), `n` at a time, each call in a routine
/// of its own, and yields the outputs in the order of the inputs. 0 counts as 1.
///
/// The calls run on all threads of the runtime, and go on while nobody polls the stream: the cure
/// for the trap of [`map_concurrent`](crate::map_concurrent). New ones are begun only when the
/// stream is polled, so that never more than `n` outputs wait. Dropping the stream aborts them all.
///
/// A panic of a call is raised again where the stream is polled.
///
/// ```
/// use std::time::Duration;
/// use futures::StreamExt;
/// use taskloom_flow::spawn_concurrent;
/// use tokio::time::sleep;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let began = tokio::time::Instant::now();
/// let fetch = |id: u32| async move {
///     sleep(Duration::from_secs(1)).await;
///     id
/// };
/// let mut pages = spawn_concurrent(0..4, 4, fetch);
/// while let Some(_page) = pages.next().await {
///     sleep(Duration::from_secs(1)).await; // The other calls go on.
/// }
/// assert_eq!(began.elapsed(), Duration::from_secs(5));
/// # }
/// ```
///
/// # Panics
/// When the stream is polled outside a Tokio runtime.
pub fn spawn_concurrent<K, I, F, Fut>(
    inputs: I,
    n: usize,
    f: F,
) -> SpawnConcurrent<I::Stream, F, Fut::Output>
where
    I: Inputs<K>,
    F: FnMut(I::Item) -> Fut,
    Fut: Future<Output: Send + 'static> + Send + 'static,
{
    let in_flight = InFlight::InOrder(FuturesOrdered::new());
    SpawnConcurrent::new(inputs.into_inputs(), n, f, in_flight)
}

/// The same as [`spawn_concurrent`], with the outputs in the order they are ready.
///
/// ```
/// use futures::StreamExt;
/// use taskloom_flow::spawn_concurrent_unordered;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let squares = spawn_concurrent_unordered(1..=3_u32, 2, |it| async move { it * it });
/// assert_eq!(squares.fold(0, |sum, it| async move { sum + it }).await, 14);
/// # }
/// ```
///
/// # Panics
/// When the stream is polled outside a Tokio runtime.
pub fn spawn_concurrent_unordered<K, I, F, Fut>(
    inputs: I,
    n: usize,
    f: F,
) -> SpawnConcurrent<I::Stream, F, Fut::Output>
where
    I: Inputs<K>,
    F: FnMut(I::Item) -> Fut,
    Fut: Future<Output: Send + 'static> + Send + 'static,
{
    let in_flight = InFlight::AsReady(FuturesUnordered::new());
    SpawnConcurrent::new(inputs.into_inputs(), n, f, in_flight)
}

pin_project_lite::pin_project! {
    /// The stream of [`spawn_concurrent`] and [`spawn_concurrent_unordered`]; dropping it aborts
    /// the calls in flight.
    #[must_use = "streams do nothing unless polled"]
    pub struct SpawnConcurrent<S, F, T> {
        #[pin]
        inputs: Fuse<S>,
        n: usize,
        f: F,
        in_flight: InFlight<T>,
        group: TaskGroup,
    }
}

enum InFlight<T> {
    InOrder(FuturesOrdered<oneshot::Receiver<Ended<T>>>),
    AsReady(FuturesUnordered<oneshot::Receiver<Ended<T>>>),
}

impl<T> InFlight<T> {
    fn len(&self) -> usize {
        match self {
            InFlight::InOrder(calls) => calls.len(),
            InFlight::AsReady(calls) => calls.len(),
        }
    }

    fn push(&mut self, call: oneshot::Receiver<Ended<T>>) {
        match self {
            InFlight::InOrder(calls) => calls.push_back(call),
            InFlight::AsReady(calls) => calls.push(call),
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Ended<T>>> {
        let ended = match self {
            InFlight::InOrder(calls) => calls.poll_next_unpin(cx),
            InFlight::AsReady(calls) => calls.poll_next_unpin(cx),
        };
        // Without an answer the runtime is shutting down: nothing comes any more.
        ended.map(|ended| ended.and_then(Result::ok))
    }
}

impl<S: Stream, F, T> SpawnConcurrent<S, F, T> {
    fn new(inputs: S, n: usize, f: F, in_flight: InFlight<T>) -> Self {
        let group = TaskGroup::isolated();
        SpawnConcurrent { inputs: inputs.fuse(), n: n.max(1), f, in_flight, group }
    }
}

impl<S, F, T> fmt::Debug for SpawnConcurrent<S, F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpawnConcurrent")
            .field("n", &self.n)
            .field("n_in_flight", &self.in_flight.len())
            .finish_non_exhaustive()
    }
}

impl<S, F, Fut> Stream for SpawnConcurrent<S, F, Fut::Output>
where
    S: Stream,
    F: FnMut(S::Item) -> Fut,
    Fut: Future<Output: Send + 'static> + Send + 'static,
{
    type Item = Fut::Output;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Fut::Output>> {
        let mut this = self.project();
        while this.in_flight.len() < *this.n {
            let Poll::Ready(Some(input)) = this.inputs.as_mut().poll_next(cx) else { break };
            let call = AssertUnwindSafe((this.f)(input)).catch_unwind();
            let (tell, told) = oneshot::channel();
            this.group.spawn("concurrent call", call.map(|ended| drop(tell.send(ended))));
            this.in_flight.push(told);
        }
        match this.in_flight.poll_next(cx) {
            Poll::Ready(Some(Ok(output))) => Poll::Ready(Some(output)),
            Poll::Ready(Some(Err(panic))) => resume_unwind(panic),
            Poll::Ready(None) if this.inputs.is_done() => Poll::Ready(None),
            // The inputs are awaited: they have our waker.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}
