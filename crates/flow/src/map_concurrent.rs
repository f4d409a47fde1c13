//! A function called with many inputs, so many at a time: bounded concurrency over streams.
//!
//! # Invariants
//! - Never more than `n` calls are in flight, those whose output was not taken yet included.
//! - An input is pulled only when there is room for its call.
//! - Dropping the stream drops, or aborts, what is in flight.

mod bulk;
mod spawned;

use std::future::Future;

use futures::{Stream, StreamExt as _};

pub use bulk::{Bulk, Chunked, bulk, chunked};
pub use spawned::{SpawnConcurrent, spawn_concurrent, spawn_concurrent_unordered};

use crate::Inputs;

/// Calls `f` with each of `inputs` (a stream or an iterator), `n` at a time, and yields the outputs
/// in the order of the inputs. 0 counts as 1.
///
/// For the first error to end it all, collect with [`futures::TryStreamExt::try_collect`] or
/// [`try_for_each`](futures::TryStreamExt::try_for_each): what is in flight is dropped with the
/// stream.
///
/// The trap of such streams, `buffered` included: what is in flight moves on only while the stream
/// is polled. A slow loop body holds up every request, and their timeouts run out. When the body
/// takes long, use [`spawn_concurrent`], whose calls run by themselves.
///
/// A panic of `f` goes through to whoever polls.
///
/// ```
/// use std::time::Duration;
/// use futures::TryStreamExt;
/// use taskloom_flow::map_concurrent;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let began = tokio::time::Instant::now();
/// let fetch = |id: u64| async move {
///     tokio::time::sleep(Duration::from_secs(1)).await;
///     if id < 100 { Ok(id * id) } else { Err("no such page") }
/// };
/// let pages: Result<Vec<u64>, _> = map_concurrent(0..20, 10, fetch).try_collect().await;
/// assert_eq!(pages.unwrap()[..4], [0, 1, 4, 9]);
/// assert_eq!(began.elapsed(), Duration::from_secs(2));
///
/// let pages: Result<Vec<u64>, _> = map_concurrent([7, 100, 8], 2, fetch).try_collect().await;
/// assert_eq!(pages, Err("no such page"));
/// # }
/// ```
pub fn map_concurrent<K, I, F, Fut>(inputs: I, n: usize, f: F) -> impl Stream<Item = Fut::Output>
where
    I: Inputs<K>,
    F: FnMut(I::Item) -> Fut,
    Fut: Future,
{
    inputs.into_inputs().map(f).buffered(n.max(1))
}

/// The same as [`map_concurrent`], with the outputs in the order they are ready: a slow call holds
/// up none that came after it.
///
/// ```
/// use std::time::Duration;
/// use futures::StreamExt;
/// use taskloom_flow::map_concurrent_unordered;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let nap = |secs: u64| async move {
///     tokio::time::sleep(Duration::from_secs(secs)).await;
///     secs
/// };
/// let ended: Vec<u64> = map_concurrent_unordered([9, 2, 5], 2, nap).collect().await;
/// assert_eq!(ended, [2, 5, 9]);
/// # }
/// ```
pub fn map_concurrent_unordered<K, I, F, Fut>(
    inputs: I,
    n: usize,
    f: F,
) -> impl Stream<Item = Fut::Output>
where
    I: Inputs<K>,
    F: FnMut(I::Item) -> Fut,
    Fut: Future,
{
    inputs.into_inputs().map(f).buffer_unordered(n.max(1))
}

#[cfg(test)]
mod tests;
