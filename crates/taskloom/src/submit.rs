//! What can be submitted at once: one invocation, a tuple, an array, a vector.

use taskloom_model::Rules;
use taskloom_store::{Accepted, NewJob};

use crate::handle::{JobHandle, Link};
use crate::{Invocation, InvocationError, Request};

/// Invocations that are accepted together, all or none.
pub trait Submit: sealed::Sealed + Send {
    /// The handles, in the same shape.
    type Handles;

    /// What the store has answered, in the same shape.
    type Accepted;

    #[doc(hidden)]
    fn accepted(accepted: Vec<Accepted>) -> Self::Accepted;

    #[doc(hidden)]
    fn into_requests(self) -> Result<Vec<Request>, InvocationError>;

    #[doc(hidden)]
    fn handles(
        accepted: &mut dyn Iterator<Item = Accepted>,
        n: usize,
        link: &Link,
    ) -> Self::Handles;
}

mod sealed {
    pub trait Sealed {}
}

const ANSWERED: &str = "the store answers for every job";

fn handle<T>(accepted: &mut dyn Iterator<Item = Accepted>, link: &Link) -> JobHandle<T> {
    let accepted = accepted.next().expect(ANSWERED);
    JobHandle::new(accepted.id, accepted.duplicate, link.clone())
}

impl<T> sealed::Sealed for Invocation<T> {}

impl<T> Submit for Invocation<T> {
    type Handles = JobHandle<T>;
    type Accepted = Accepted;

    fn accepted(accepted: Vec<Accepted>) -> Accepted {
        accepted.into_iter().next().expect(ANSWERED)
    }

    fn into_requests(self) -> Result<Vec<Request>, InvocationError> {
        Ok(vec![self.into_request()?])
    }

    fn handles(
        accepted: &mut dyn Iterator<Item = Accepted>,
        _n: usize,
        link: &Link,
    ) -> JobHandle<T> {
        handle(accepted, link)
    }
}

impl<T> sealed::Sealed for Vec<Invocation<T>> {}

impl<T> Submit for Vec<Invocation<T>> {
    type Handles = Vec<JobHandle<T>>;
    type Accepted = Vec<Accepted>;

    fn accepted(accepted: Vec<Accepted>) -> Vec<Accepted> {
        accepted
    }

    fn into_requests(self) -> Result<Vec<Request>, InvocationError> {
        self.into_iter().map(Invocation::into_request).collect()
    }

    fn handles(
        accepted: &mut dyn Iterator<Item = Accepted>,
        n: usize,
        link: &Link,
    ) -> Vec<JobHandle<T>> {
        (0..n).map(|_| handle(accepted, link)).collect()
    }
}

impl<T, const N: usize> sealed::Sealed for [Invocation<T>; N] {}

impl<T, const N: usize> Submit for [Invocation<T>; N] {
    type Handles = [JobHandle<T>; N];
    type Accepted = [Accepted; N];

    fn accepted(accepted: Vec<Accepted>) -> [Accepted; N] {
        accepted.try_into().expect(ANSWERED)
    }

    fn into_requests(self) -> Result<Vec<Request>, InvocationError> {
        self.into_iter().map(Invocation::into_request).collect()
    }

    fn handles(
        accepted: &mut dyn Iterator<Item = Accepted>,
        _n: usize,
        link: &Link,
    ) -> [JobHandle<T>; N] {
        std::array::from_fn(|_| handle(accepted, link))
    }
}

macro_rules! submit_tuples {
    ($($name:ident $place:tt),+) => {
        impl<$($name),+> sealed::Sealed for ($(Invocation<$name>,)+) {}

        impl<$($name),+> Submit for ($(Invocation<$name>,)+) {
            type Handles = ($(JobHandle<$name>,)+);
            type Accepted = [Accepted; [$($place),+].len()];

            fn accepted(accepted: Vec<Accepted>) -> Self::Accepted {
                accepted.try_into().expect(ANSWERED)
            }

            fn into_requests(self) -> Result<Vec<Request>, InvocationError> {
                Ok(vec![$(self.$place.into_request()?),+])
            }

            fn handles(
                accepted: &mut dyn Iterator<Item = Accepted>,
                _n: usize,
                link: &Link,
            ) -> Self::Handles {
                ($(handle::<$name>(accepted, link),)+)
            }
        }
    };
}

submit_tuples!(A 0);
submit_tuples!(A 0, B 1);
submit_tuples!(A 0, B 1, C 2);
submit_tuples!(A 0, B 1, C 2, D 3);
submit_tuples!(A 0, B 1, C 2, D 3, E 4);
submit_tuples!(A 0, B 1, C 2, D 3, E 4, F 5);
submit_tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
submit_tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);

impl From<Request> for NewJob {
    fn from(request: Request) -> NewJob {
        NewJob {
            task: request.task,
            queue: request.queue,
            priority: request.priority,
            args: request.args,
            rules: Rules {
                retry: request.retry,
                run_at: request.run_at,
                deadline: request.deadline,
                on_dependency_failure: request.on_dependency_failure,
            },
            delay: request.delay,
            timeout: request.timeout,
            key: request.key,
            unique: request.unique,
            after: request.after,
        }
    }
}
