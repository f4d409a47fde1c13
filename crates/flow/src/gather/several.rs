//! What can be gathered: a vector, an array, a tuple.

use std::future::Future;

use futures::StreamExt as _;
use futures::future::join_all;

use super::{as_completed, settle};
use crate::Failure;

/// Futures that are awaited together, in [`gather`](crate::gather).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a vector, an array, or a tuple of futures of `Result`s",
    note = "collect an iterator first: `.collect::<Vec<_>>()`; let a future that can't fail \
            return `Ok::<_, Infallible>(value)`; the futures of a tuple have one type of error"
)]
pub trait Gather: sealed::Sealed {
    /// The values, in the shape of the inputs.
    type Values;
    /// The error of any of them.
    type Error;

    #[doc(hidden)]
    fn run(self) -> impl Future<Output = Result<Self::Values, Self::Error>>;
}

/// Futures that are awaited together, in [`gather_settled`](crate::gather_settled).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a vector, an array, or a tuple of futures of `Result`s",
    note = "collect an iterator first: `.collect::<Vec<_>>()`; let a future that can't fail \
            return `Ok::<_, Infallible>(value)`"
)]
pub trait GatherSettled: sealed::Sealed {
    /// What each came to, in the shape of the inputs.
    type Settled;

    #[doc(hidden)]
    fn run_settled(self) -> impl Future<Output = Self::Settled>;
}

mod sealed {
    pub trait Sealed {}
}

impl<F> sealed::Sealed for Vec<F> {}

impl<F: Future<Output = Result<T, E>>, T, E> Gather for Vec<F> {
    type Values = Vec<T>;
    type Error = E;

    async fn run(self) -> Result<Vec<T>, E> {
        all_or_first_error(self).await
    }
}

impl<F: Future<Output = Result<T, E>>, T, E> GatherSettled for Vec<F> {
    type Settled = Vec<Result<T, Failure<E>>>;

    async fn run_settled(self) -> Self::Settled {
        join_all(self.into_iter().map(settle)).await
    }
}

impl<F, const N: usize> sealed::Sealed for [F; N] {}

impl<F: Future<Output = Result<T, E>>, T, E, const N: usize> Gather for [F; N] {
    type Values = [T; N];
    type Error = E;

    async fn run(self) -> Result<[T; N], E> {
        Ok(in_array(all_or_first_error(self.into()).await?))
    }
}

impl<F: Future<Output = Result<T, E>>, T, E, const N: usize> GatherSettled for [F; N] {
    type Settled = [Result<T, Failure<E>>; N];

    async fn run_settled(self) -> Self::Settled {
        in_array(join_all(self.map(settle)).await)
    }
}

/// Unlike `try_join_all` of the crate futures, it hears of an error at once however many inputs
/// there are: that one waits for those before it as soon as there are over thirty.
async fn all_or_first_error<F, T, E>(inputs: Vec<F>) -> Result<Vec<T>, E>
where
    F: Future<Output = Result<T, E>>,
{
    let mut values: Vec<Option<T>> = inputs.iter().map(|_| None).collect();
    let mut completed = as_completed(inputs);
    while let Some((index, output)) = completed.next().await {
        values[index] = Some(output?);
    }
    Ok(values.into_iter().map(|it| it.expect("every input has ended")).collect())
}

fn in_array<T, const N: usize>(outputs: Vec<T>) -> [T; N] {
    outputs.try_into().ok().expect("there are as many outputs as inputs")
}

macro_rules! tuples {
    ($($future:ident $value:ident $error:ident),+) => {
        impl<$($future),+> sealed::Sealed for ($($future,)+) {}

        impl<$($future: Future<Output = Result<$value, E>>, $value,)+ E> Gather for ($($future,)+) {
            type Values = ($($value,)+);
            type Error = E;

            #[expect(non_snake_case, reason = "the names of the types name the futures")]
            async fn run(self) -> Result<Self::Values, E> {
                let ($($future,)+) = self;
                tokio::try_join!($($future),+)
            }
        }

        impl<$($future: Future<Output = Result<$value, $error>>, $value, $error),+> GatherSettled
            for ($($future,)+)
        {
            type Settled = ($(Result<$value, Failure<$error>>,)+);

            #[expect(non_snake_case, reason = "the names of the types name the futures")]
            async fn run_settled(self) -> Self::Settled {
                let ($($future,)+) = self;
                tokio::join!($(settle($future)),+)
            }
        }
    };
}

tuples!(F1 T1 E1);
tuples!(F1 T1 E1, F2 T2 E2);
tuples!(F1 T1 E1, F2 T2 E2, F3 T3 E3);
tuples!(F1 T1 E1, F2 T2 E2, F3 T3 E3, F4 T4 E4);
tuples!(F1 T1 E1, F2 T2 E2, F3 T3 E3, F4 T4 E4, F5 T5 E5);
tuples!(F1 T1 E1, F2 T2 E2, F3 T3 E3, F4 T4 E4, F5 T5 E5, F6 T6 E6);
tuples!(F1 T1 E1, F2 T2 E2, F3 T3 E3, F4 T4 E4, F5 T5 E5, F6 T6 E6, F7 T7 E7);
tuples!(F1 T1 E1, F2 T2 E2, F3 T3 E3, F4 T4 E4, F5 T5 E5, F6 T6 E6, F7 T7 E7, F8 T8 E8);
tuples!(
    F1 T1 E1, F2 T2 E2, F3 T3 E3, F4 T4 E4, F5 T5 E5, F6 T6 E6, F7 T7 E7, F8 T8 E8, F9 T9 E9
);
tuples!(
    F1 T1 E1, F2 T2 E2, F3 T3 E3, F4 T4 E4, F5 T5 E5, F6 T6 E6, F7 T7 E7, F8 T8 E8, F9 T9 E9,
    F10 T10 E10
);
tuples!(
    F1 T1 E1, F2 T2 E2, F3 T3 E3, F4 T4 E4, F5 T5 E5, F6 T6 E6, F7 T7 E7, F8 T8 E8, F9 T9 E9,
    F10 T10 E10, F11 T11 E11
);
tuples!(
    F1 T1 E1, F2 T2 E2, F3 T3 E3, F4 T4 E4, F5 T5 E5, F6 T6 E6, F7 T7 E7, F8 T8 E8, F9 T9 E9,
    F10 T10 E10, F11 T11 E11, F12 T12 E12
);
