//! Streams and iterators, taken alike.

use futures::Stream;
use futures::stream::{Iter, iter};

/// What a function here takes its inputs from: any [`Stream`], and whatever can be iterated over.
///
/// `Kind` tells the two apart and is always inferred.
pub trait Inputs<Kind> {
    /// One input.
    type Item;
    /// The inputs as a stream.
    type Stream: Stream<Item = Self::Item>;

    /// Makes a stream of them.
    fn into_inputs(self) -> Self::Stream;
}

/// The kind of [`Inputs`] that are a stream.
#[derive(Debug)]
pub struct FromStream;

/// The kind of [`Inputs`] that can be iterated over.
#[derive(Debug)]
pub struct FromIterator;

impl<S: Stream> Inputs<FromStream> for S {
    type Item = S::Item;
    type Stream = S;

    fn into_inputs(self) -> S {
        self
    }
}

impl<I: IntoIterator> Inputs<FromIterator> for I {
    type Item = I::Item;
    type Stream = Iter<I::IntoIter>;

    fn into_inputs(self) -> Iter<I::IntoIter> {
        iter(self)
    }
}
