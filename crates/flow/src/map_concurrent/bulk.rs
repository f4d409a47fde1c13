//! Inputs by the chunk: one call for many of them.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use futures::StreamExt as _;
use futures::stream::Fuse;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::Inputs;

/// Gathers `inputs` (a stream or an iterator) in chunks of `chunk_max`; the last may be smaller.
/// 0 counts as 1.
///
/// For several calls at a time, one a chunk: `map_concurrent(chunked(rows, 500), 4, insert)`.
///
/// ```
/// use futures::StreamExt;
/// use taskloom_flow::chunked;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let chunks: Vec<Vec<u32>> = chunked(0..5, 2).collect().await;
/// assert_eq!(chunks, [vec![0, 1], vec![2, 3], vec![4]]);
/// # }
/// ```
pub fn chunked<K, I: Inputs<K>>(inputs: I, chunk_max: usize) -> Chunked<I::Stream> {
    Chunked {
        inputs: inputs.into_inputs().fuse(),
        chunk_max: chunk_max.max(1),
        delay_max: None,
        chunk: Vec::new(),
        due: None,
    }
}

/// Calls `f` with `inputs` (a stream or an iterator) in chunks of `chunk_max`, one call after the
/// other, and yields the output of each call. 0 counts as 1.
///
/// The next chunk is gathered after the output of the last call was taken.
///
/// ```
/// use std::time::Duration;
/// use futures::StreamExt;
/// use taskloom_flow::bulk;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let insert = |rows: Vec<u32>| async move { rows.len() };
/// let inserts = bulk(0..250, 100, insert).or_after(Duration::from_millis(50));
/// let n_rows: Vec<usize> = inserts.collect().await;
/// assert_eq!(n_rows, [100, 100, 50]);
/// # }
/// ```
pub fn bulk<K, I, F, Fut>(inputs: I, chunk_max: usize, f: F) -> Bulk<I::Stream, F, Fut>
where
    I: Inputs<K>,
    F: FnMut(Vec<I::Item>) -> Fut,
    Fut: Future,
{
    Bulk { chunks: chunked(inputs, chunk_max), f, call: None }
}

pin_project_lite::pin_project! {
    /// The stream of [`chunked`].
    #[must_use = "streams do nothing unless polled"]
    pub struct Chunked<S: Stream> {
        #[pin]
        inputs: Fuse<S>,
        chunk_max: usize,
        delay_max: Option<Duration>,
        chunk: Vec<S::Item>,
        // When the chunk begun has waited long enough.
        due: Option<Pin<Box<Sleep>>>,
    }
}

impl<S: Stream> Chunked<S> {
    /// Yields a chunk that is not full when its first input has waited for `delay_max`.
    pub fn or_after(mut self, delay_max: Duration) -> Self {
        self.delay_max = Some(delay_max);
        self
    }
}

pin_project_lite::pin_project! {
    /// The stream of [`bulk`].
    #[must_use = "streams do nothing unless polled"]
    pub struct Bulk<S: Stream, F, Fut> {
        #[pin]
        chunks: Chunked<S>,
        f: F,
        // Boxed, so that this can be polled without pinning it when the inputs can.
        call: Option<Pin<Box<Fut>>>,
    }
}

impl<S: Stream, F, Fut> Bulk<S, F, Fut> {
    /// Calls `f` with a chunk that is not full when its first input has waited for `delay_max`.
    pub fn or_after(mut self, delay_max: Duration) -> Self {
        self.chunks = self.chunks.or_after(delay_max);
        self
    }
}

impl<S: Stream, F, Fut> fmt::Debug for Bulk<S, F, Fut> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bulk")
            .field("chunks", &self.chunks)
            .field("in_call", &self.call.is_some())
            .finish_non_exhaustive()
    }
}

impl<S, F, Fut> Stream for Bulk<S, F, Fut>
where
    S: Stream,
    F: FnMut(Vec<S::Item>) -> Fut,
    Fut: Future,
{
    type Item = Fut::Output;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Fut::Output>> {
        let mut this = self.project();
        if this.call.is_none() {
            let Some(chunk) = ready!(this.chunks.as_mut().poll_next(cx)) else {
                return Poll::Ready(None);
            };
            *this.call = Some(Box::pin((this.f)(chunk)));
        }
        let call = this.call.as_mut().expect("a call was begun just now, or before");
        let output = ready!(call.as_mut().poll(cx));
        *this.call = None;
        Poll::Ready(Some(output))
    }
}

impl<S: Stream> fmt::Debug for Chunked<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunked")
            .field("chunk_max", &self.chunk_max)
            .field("delay_max", &self.delay_max)
            .field("n_gathered", &self.chunk.len())
            .finish_non_exhaustive()
    }
}

impl<S: Stream> Stream for Chunked<S> {
    type Item = Vec<S::Item>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Vec<S::Item>>> {
        let mut this = self.project();
        while this.chunk.len() < *this.chunk_max {
            match this.inputs.as_mut().poll_next(cx) {
                Poll::Ready(Some(input)) => this.chunk.push(input),
                Poll::Ready(None) if this.chunk.is_empty() => return Poll::Ready(None),
                Poll::Ready(None) => break,
                Poll::Pending => {
                    let Some(delay) = *this.delay_max else { return Poll::Pending };
                    if this.chunk.is_empty() {
                        return Poll::Pending;
                    }
                    let due = || Box::pin(sleep_until(Instant::now() + delay));
                    ready!(this.due.get_or_insert_with(due).as_mut().poll(cx));
                    break;
                }
            }
        }
        *this.due = None;
        Poll::Ready(Some(std::mem::take(this.chunk)))
    }
}
