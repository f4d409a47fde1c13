//! What a routine may return.

use std::convert::Infallible;

/// What a routine returns: `()`, or a `Result` whose error the group can tell of. A loop that
/// never ends may be a routine as well.
///
/// Nothing is asked of `T` and `E` here, but where routines are spawned: bounds of an
/// implementation follow the type into every future that holds it, where the compiler has
/// forgotten lifetimes and finds `Box<dyn Error>` "not general enough".
#[diagnostic::on_unimplemented(
    message = "a routine returns `()` or a `Result`, not `{Self}`",
    note = "wrap the value: `async {{ Ok::<_, taskloom_flow::BoxError>(value) }}`"
)]
pub trait RoutineOutput: sealed::Sealed {
    /// What the routine gives when all went well.
    type Value;
    /// What it gives otherwise.
    type Error;

    #[doc(hidden)]
    fn into_result(self) -> Result<Self::Value, Self::Error>;
}

mod sealed {
    pub trait Sealed {}
}

impl sealed::Sealed for () {}

impl RoutineOutput for () {
    type Value = ();
    type Error = Infallible;

    fn into_result(self) -> Result<(), Infallible> {
        Ok(())
    }
}

impl<T, E> sealed::Sealed for Result<T, E> {}

impl<T, E> RoutineOutput for Result<T, E> {
    type Value = T;
    type Error = E;

    fn into_result(self) -> Result<T, E> {
        self
    }
}

/// The type `!`, which has no name of its own on stable Rust.
type Never = <fn() -> ! as HasOutput>::Output;

#[doc(hidden)]
pub trait HasOutput {
    type Output;
}

impl<O> HasOutput for fn() -> O {
    type Output = O;
}

impl sealed::Sealed for Never {}

impl RoutineOutput for Never {
    type Value = Infallible;
    type Error = Infallible;

    fn into_result(self) -> Result<Infallible, Infallible> {
        self
    }
}
