//! Shielded work: it finishes, whoever stops waiting for it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::shared::{RoutineKind, Shared};
use super::{Name, Unfinished};

type Unclaimed<T> = Box<dyn FnOnce(T) + Send>;

/// Work that finishes whether or not this is awaited to its end.
///
/// # Cancel safety
/// Awaiting `&mut shielded` is safe. Dropping it hands the output, now or when it comes, to the
/// function that [`TaskGroup::shield`](crate::TaskGroup::shield) was given.
pub struct Shielded<T> {
    /// `None` when the group took no more routines.
    output: Option<oneshot::Receiver<T>>,
    /// Taken by whoever finds an output without a taker: the work itself, or the drop of this.
    unclaimed: Arc<Mutex<Option<Unclaimed<T>>>>,
}

pub(super) fn shield<F>(
    shared: &Arc<Shared>,
    name: Name,
    future: F,
    unclaimed: impl FnOnce(F::Output) + Send + 'static,
) -> Shielded<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let (sender, output) = oneshot::channel();
    let unclaimed: Unclaimed<F::Output> = Box::new(unclaimed);
    let unclaimed = Arc::new(Mutex::new(Some(unclaimed)));
    let on_late = Arc::clone(&unclaimed);
    drop(shared.spawn(name, RoutineKind::Shielded, async move {
        if let Err(output) = sender.send(future.await) {
            hand_over(&on_late, output);
        }
    }));
    Shielded { output: Some(output), unclaimed }
}

fn hand_over<T>(unclaimed: &Mutex<Option<Unclaimed<T>>>, output: T) {
    let unclaimed = unclaimed.lock().take();
    if let Some(unclaimed) = unclaimed {
        unclaimed(output);
    }
}

impl<T> Future for Shielded<T> {
    type Output = Result<T, Unfinished>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let output = self.output.as_mut().expect("it is not polled after its end");
        let polled = Pin::new(output).poll(cx).map_err(|_| Unfinished::Cancelled);
        if polled.is_ready() {
            self.output = None;
        }
        polled
    }
}

impl<T> Drop for Shielded<T> {
    fn drop(&mut self) {
        let Some(mut output) = self.output.take() else { return };
        output.close();
        // It may have come before the close, with nobody left to take it.
        if let Ok(output) = output.try_recv() {
            hand_over(&self.unclaimed, output);
        }
    }
}

impl<T> std::fmt::Debug for Shielded<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shielded").field("is_taken", &self.output.is_none()).finish_non_exhaustive()
    }
}
