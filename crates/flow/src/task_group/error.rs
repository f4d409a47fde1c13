//! How routines and groups end.

use std::error::Error;
use std::fmt;

use super::{Name, Unfinished};
use crate::{Cancelled, Panicked, Reason};

/// Any error, as routines of one group return different ones.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Why something failed: it said so, or it panicked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure<E = BoxError> {
    /// It returned this error.
    Error(E),
    /// It panicked.
    Panicked(Panicked),
}

impl<E: fmt::Display> fmt::Display for Failure<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Error(error) => error.fmt(f),
            Failure::Panicked(panicked) => panicked.fmt(f),
        }
    }
}

impl<E: Error> Error for Failure<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Failure::Error(error) => error.source(),
            Failure::Panicked(_) => None,
        }
    }
}

impl Failure {
    /// Whether it only says that the work was cancelled, and no more than the group knows.
    pub(super) fn is_cancellation(&self) -> bool {
        let Failure::Error(error) = self else { return false };
        let mut error: Option<&(dyn Error + 'static)> = Some(error.as_ref());
        while let Some(cause) = error {
            if cause.is::<Cancelled>() || cause.is::<Unfinished>() {
                return true;
            }
            error = cause.source();
        }
        false
    }
}

/// How a routine ended.
#[derive(Debug)]
pub enum End {
    /// By itself, and well.
    Returned,
    /// By an error or a panic.
    Failed(Failure),
    /// It was aborted, or returned [`Cancelled`] after its group had been cancelled.
    Cancelled,
}

/// A routine that ended.
#[derive(Debug)]
pub struct Ended {
    /// The name it was spawned with.
    pub name: Name,
    /// How it ended.
    pub end: End,
}

impl Ended {
    /// Its failure, if it is one.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match &self.end {
            End::Failed(failure) => Some(failure),
            End::Returned | End::Cancelled => None,
        }
    }

    /// The message of its panic, if it panicked.
    #[must_use]
    pub fn panic(&self) -> Option<&str> {
        match self.failure()? {
            Failure::Panicked(panicked) => Some(&panicked.message),
            Failure::Error(_) => None,
        }
    }
}

/// What a drain met.
#[derive(Debug, Default)]
pub struct Drained {
    /// How many routines did not end before the deadline and were aborted.
    pub n_aborted: usize,
    /// The failures that nobody has been told of: the first 256 at most.
    pub failures: Vec<(Name, Failure)>,
    /// How many more there were.
    pub n_more: usize,
}

/// What went wrong in a group: every failure, in the order they came.
///
/// ```
/// use taskloom_flow::TaskGroup;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let group = TaskGroup::new();
/// group.spawn("parse", async { "x".parse::<u32>() });
/// let error = group.join().await.unwrap_err();
/// // Like `except*` in Python: ask for one type among them.
/// assert!(error.find::<std::num::ParseIntError>().is_some());
/// # }
/// ```
#[derive(Debug)]
pub struct GroupError {
    /// The first 256 failures, each with the name of its routine. The first of all is the cause.
    pub failures: Vec<(Name, Failure)>,
    /// How many more there were.
    pub n_more: usize,
    /// Why the group was cancelled.
    pub reason: Option<Reason>,
}

impl GroupError {
    /// The first error of type `E`, among the failures and their sources.
    #[must_use]
    pub fn find<E: Error + 'static>(&self) -> Option<&E> {
        self.failures.iter().find_map(|(_, failure)| {
            let Failure::Error(error) = failure else { return None };
            let mut error: Option<&(dyn Error + 'static)> = Some(error.as_ref());
            while let Some(cause) = error {
                if let Some(found) = cause.downcast_ref() {
                    return Some(found);
                }
                error = cause.source();
            }
            None
        })
    }
}

impl fmt::Display for GroupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.failures.len() + self.n_more;
        match (&self.reason, n) {
            (Some(reason), 0) => return write!(f, "cancelled: {reason}"),
            (None, 0) => return f.write_str("cancelled"),
            (_, 1) => f.write_str("1 routine failed: ")?,
            (_, n) => write!(f, "{n} routines failed: ")?,
        }
        for (i, (name, failure)) in self.failures.iter().enumerate() {
            let gap = if i == 0 { "" } else { "; " };
            write!(f, "{gap}{name}: {failure}")?;
        }
        if 0 < self.n_more { write!(f, "; and {} more", self.n_more) } else { Ok(()) }
    }
}

impl Error for GroupError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self.failures.first() {
            Some((_, Failure::Error(error))) => Some(error.as_ref()),
            Some((_, Failure::Panicked(_))) | None => None,
        }
    }
}
