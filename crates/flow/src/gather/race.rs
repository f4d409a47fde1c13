//! The first of several futures.

use std::error::Error;
use std::fmt;
use std::future::Future;

use futures::stream::{FuturesUnordered, StreamExt as _};

/// Runs futures at once and gives the first output, whatever it is; the others are dropped at
/// their await points. When several are ready at once, any of them may win.
///
/// Takes a vector or an array of futures of one type, or a tuple of up to eight of different
/// types with one type of output.
///
/// # Panics
/// Without any input, as there would never be an output.
///
/// # Cancel safety
/// Dropping it drops all the futures.
///
/// ```
/// use std::time::Duration;
/// use taskloom_flow::race;
///
/// async fn answer_after(secs: u64) -> u64 {
///     tokio::time::sleep(Duration::from_secs(secs)).await;
///     secs
/// }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// assert_eq!(race([answer_after(2), answer_after(1)]).await, 1);
/// assert_eq!(race((answer_after(2), async { 0 })).await, 0);
/// # }
/// ```
pub async fn race<R: Race>(inputs: R) -> R::Output {
    inputs.run().await
}

/// Runs futures at once and gives the first value; errors are put aside, and told only when there
/// is nothing else. Such as asking several mirrors.
///
/// # Errors
/// [`RaceError`] with every error, in the order they came, when all failed.
///
/// # Cancel safety
/// Dropping it drops all the futures.
///
/// ```
/// use taskloom_flow::race_ok;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let numbers = ["x", "7"].map(|it| async move { it.parse::<u32>() });
/// assert_eq!(race_ok(numbers).await.unwrap(), 7);
/// # }
/// ```
pub async fn race_ok<T, E>(
    inputs: impl IntoIterator<Item: Future<Output = Result<T, E>>>,
) -> Result<T, RaceError<E>> {
    let mut running: FuturesUnordered<_> = inputs.into_iter().collect();
    let mut errors = Vec::new();
    while let Some(output) = running.next().await {
        match output {
            Ok(value) => return Ok(value),
            Err(error) => errors.push(error),
        }
    }
    Err(RaceError { errors })
}

/// None of the futures of a race gave a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaceError<E> {
    /// What they said, in the order it came.
    pub errors: Vec<E>,
}

impl<E: fmt::Display> fmt::Display for RaceError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errors.last() {
            None => f.write_str("a race without futures has no winner"),
            Some(last) => write!(f, "all {} failed, the last with: {last}", self.errors.len()),
        }
    }
}

impl<E: Error> Error for RaceError<E> {}

/// Futures of which the first output counts, in [`race`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a vector, an array, or a tuple of futures",
    note = "collect an iterator first: `.collect::<Vec<_>>()`; the futures of a tuple have one \
            type of output"
)]
pub trait Race: sealed::Sealed {
    /// What each of them gives.
    type Output;

    #[doc(hidden)]
    fn run(self) -> impl Future<Output = Self::Output>;
}

mod sealed {
    pub trait Sealed {}
}

async fn first<F: Future>(inputs: impl IntoIterator<Item = F>) -> F::Output {
    let mut running: FuturesUnordered<F> = inputs.into_iter().collect();
    running.next().await.expect("a race needs at least one future")
}

impl<F> sealed::Sealed for Vec<F> {}

impl<F: Future> Race for Vec<F> {
    type Output = F::Output;

    async fn run(self) -> F::Output {
        first(self).await
    }
}

impl<F, const N: usize> sealed::Sealed for [F; N] {}

impl<F: Future, const N: usize> Race for [F; N] {
    type Output = F::Output;

    async fn run(self) -> F::Output {
        first(self).await
    }
}

macro_rules! tuples {
    ($($future:ident),+) => {
        impl<$($future),+> sealed::Sealed for ($($future,)+) {}

        impl<$($future: Future<Output = T>,)+ T> Race for ($($future,)+) {
            type Output = T;

            #[expect(non_snake_case, reason = "the names of the types name the futures")]
            async fn run(self) -> T {
                let ($($future,)+) = self;
                tokio::select! { $(output = $future => output,)+ }
            }
        }
    };
}

tuples!(F1);
tuples!(F1, F2);
tuples!(F1, F2, F3);
tuples!(F1, F2, F3, F4);
tuples!(F1, F2, F3, F4, F5);
tuples!(F1, F2, F3, F4, F5, F6);
tuples!(F1, F2, F3, F4, F5, F6, F7);
tuples!(F1, F2, F3, F4, F5, F6, F7, F8);
