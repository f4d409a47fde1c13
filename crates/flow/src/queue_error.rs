//! What a push to a queue met; the item is always given back.

/// The queue was closed; the item is inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the queue is closed and takes nothing new")]
pub struct QueueClosed<T>(pub T);

/// Why a queue did not take an item at once; the item is inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TryPushError<T> {
    /// No place is free.
    #[error("the queue is full; push later, or wait with `push`")]
    Full(T),
    /// The queue takes nothing new.
    #[error("the queue is closed and takes nothing new")]
    Closed(T),
}

impl<T> TryPushError<T> {
    /// The item that was not taken.
    #[must_use]
    pub fn into_inner(self) -> T {
        match self {
            TryPushError::Full(item) | TryPushError::Closed(item) => item,
        }
    }
}
