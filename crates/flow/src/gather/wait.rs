//! Waiting for some of several routines, while the others go on.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// What a [`wait`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// One has ended.
    FirstCompleted,
    /// One has failed; or all have ended, when none fails.
    FirstError,
    /// All have ended.
    All,
}

/// What a wait came to. Each comes with the index of its input, and in that order.
#[derive(Debug)]
pub struct Waited<F: Future> {
    /// What those said that have ended.
    pub done: Vec<(usize, F::Output)>,
    /// Those that have not: to be awaited again, or dropped.
    pub pending: Vec<(usize, F)>,
}

/// Waits for some of `inputs`, and gives back the others unharmed.
///
/// Meant for routines ([`Routine`](crate::Routine), which a group spawned): those go on whether or
/// not somebody waits for them. Any other future that is [`Unpin`], such as a boxed one, goes on
/// only while it is awaited.
///
/// # Cancel safety
/// Dropping it drops the inputs, with the outputs of those that had ended. Routines go on, as
/// their group owns them. To wait for a limited time, use [`wait_at_most`].
///
/// ```
/// use std::time::Duration;
/// use taskloom_flow::{TaskGroup, Until, wait};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let group = TaskGroup::new();
/// let naps = [3, 1, 2].map(|it| group.spawn("nap", tokio::time::sleep(Duration::from_secs(it))));
/// let first = wait(naps, Until::FirstCompleted).await;
/// assert_eq!(first.done, [(1, Ok(()))]);
/// // The others went on meanwhile; two more seconds end them.
/// let rest = wait(first.pending.into_iter().map(|(_, it)| it), Until::All).await;
/// assert!(rest.pending.is_empty());
/// # }
/// ```
pub async fn wait<F, T, E>(inputs: impl IntoIterator<Item = F>, until: Until) -> Waited<F>
where
    F: Future<Output = Result<T, E>> + Unpin,
{
    let mut waiting = Waiting::new(inputs, until);
    poll_fn(|cx| waiting.poll(cx)).await;
    waiting.into_waited()
}

/// The same for at most `limit`: then it gives what has ended so far.
///
/// # Cancel safety
/// That of [`wait`].
///
/// ```
/// use std::time::Duration;
/// use taskloom_flow::{TaskGroup, Until, wait_at_most};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let group = TaskGroup::new();
/// let naps = [3, 1, 2].map(|it| group.spawn("nap", tokio::time::sleep(Duration::from_secs(it))));
/// let waited = wait_at_most(Duration::from_millis(2500), naps, Until::All).await;
/// assert_eq!((waited.done.len(), waited.pending.len()), (2, 1));
/// # }
/// ```
pub async fn wait_at_most<F, T, E>(
    limit: Duration,
    inputs: impl IntoIterator<Item = F>,
    until: Until,
) -> Waited<F>
where
    F: Future<Output = Result<T, E>> + Unpin,
{
    let mut waiting = Waiting::new(inputs, until);
    // Time being up is as good an end as any other.
    crate::timeout(limit, poll_fn(|cx| waiting.poll(cx))).await.ok();
    waiting.into_waited()
}

struct Waiting<F: Future> {
    inputs: Vec<Input<F>>,
    until: Until,
}

enum Input<F: Future> {
    Pending(F),
    Done(F::Output),
}

impl<F, T, E> Waiting<F>
where
    F: Future<Output = Result<T, E>> + Unpin,
{
    fn new(inputs: impl IntoIterator<Item = F>, until: Until) -> Self {
        Waiting { inputs: inputs.into_iter().map(Input::Pending).collect(), until }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for input in &mut self.inputs {
            let Input::Pending(future) = input else { continue };
            if let Poll::Ready(output) = Pin::new(future).poll(cx) {
                *input = Input::Done(output);
            }
        }
        let mut done = self.inputs.iter().filter_map(|it| match it {
            Input::Done(output) => Some(output),
            Input::Pending(_) => None,
        });
        let all_done = done.clone().count() == self.inputs.len();
        let is_met = match self.until {
            Until::FirstCompleted => done.next().is_some(),
            Until::FirstError => done.any(Result::is_err),
            Until::All => false,
        };
        if is_met || all_done { Poll::Ready(()) } else { Poll::Pending }
    }

    fn into_waited(self) -> Waited<F> {
        let mut waited = Waited { done: Vec::new(), pending: Vec::new() };
        for (index, input) in self.inputs.into_iter().enumerate() {
            match input {
                Input::Done(output) => waited.done.push((index, output)),
                Input::Pending(future) => waited.pending.push((index, future)),
            }
        }
        waited
    }
}
