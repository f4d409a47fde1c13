//! What can be said where a duration is wanted.

use std::time::Duration;

use taskloom_model::{DurationError, parse_duration};

/// What can be said where a duration is wanted: a [`Duration`], or a text such as `"10s"`.
pub trait IntoDuration {
    /// The duration.
    ///
    /// # Errors
    /// [`DurationError`] for a text that is none.
    fn into_duration(self) -> Result<Duration, DurationError>;
}

impl IntoDuration for Duration {
    fn into_duration(self) -> Result<Duration, DurationError> {
        Ok(self)
    }
}

impl IntoDuration for &str {
    fn into_duration(self) -> Result<Duration, DurationError> {
        parse_duration(self)
    }
}
