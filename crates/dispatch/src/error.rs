//! How an attempt says that it went wrong, and what should follow.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// What should follow an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskErrorKind {
    /// Another attempt may succeed: the retry policy decides.
    Transient,
    /// No attempt can succeed: the job fails at once.
    Permanent,
    /// Not an error: try again after this long, without counting the attempt.
    Snooze(Duration),
    /// The attempt ended because it was asked to.
    Cancelled,
}

/// The error of a task. Every [`std::error::Error`] turns into a transient one with `?`.
///
/// ```
/// use std::time::Duration;
/// use taskloom_dispatch::TaskError;
///
/// fn parse(text: &str) -> Result<i64, TaskError> {
///     if text.is_empty() {
///         return Err(TaskError::permanent("nothing to parse").code("parse.empty"));
///     }
///     Ok(text.parse::<i64>()?)
/// }
///
/// let busy = TaskError::new("the other side is busy").retry_after(Duration::from_secs(30));
/// assert_eq!(busy.to_string(), "the other side is busy");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskError {
    kind: TaskErrorKind,
    message: String,
    code: Option<Cow<'static, str>>,
    retry_after: Option<Duration>,
}

impl TaskError {
    /// The longest message kept, in bytes; the rest is cut off.
    pub const MESSAGE_MAX: usize = 8 * 1024;

    fn of(kind: TaskErrorKind, message: String) -> Self {
        TaskError { kind, message: cut(message), code: None, retry_after: None }
    }

    /// A transient error.
    pub fn new(message: impl Into<String>) -> Self {
        Self::of(TaskErrorKind::Transient, message.into())
    }

    /// A permanent error.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self::of(TaskErrorKind::Permanent, message.into())
    }

    /// Asks to be tried again after `delay`, without counting the attempt.
    #[must_use]
    pub fn snooze(delay: Duration) -> Self {
        Self::of(TaskErrorKind::Snooze(delay), format!("snoozed for {delay:?}"))
    }

    /// Says that the attempt ended because it was asked to.
    #[must_use]
    pub fn cancelled() -> Self {
        Self::of(TaskErrorKind::Cancelled, "cancelled".into())
    }

    /// Makes it permanent.
    #[must_use]
    pub fn into_permanent(mut self) -> Self {
        self.kind = TaskErrorKind::Permanent;
        self
    }

    /// Waits this long before the next attempt, whatever the policy says (`Retry-After`).
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// Names the cause by a stable code, such as `http.status.404`, for filters and counts.
    #[must_use]
    pub fn code(mut self, code: impl Into<Cow<'static, str>>) -> Self {
        self.code = Some(code.into());
        self
    }

    /// What should follow.
    #[must_use]
    pub fn kind(&self) -> TaskErrorKind {
        self.kind
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The stable code, when one was given.
    #[must_use]
    pub fn code_str(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// The delay asked for, when one was.
    #[must_use]
    pub fn retry_after_hint(&self) -> Option<Duration> {
        self.retry_after
    }
}

fn cut(mut message: String) -> String {
    if TaskError::MESSAGE_MAX < message.len() {
        let end = (0..=TaskError::MESSAGE_MAX).rev().find(|&it| message.is_char_boundary(it));
        message.truncate(end.unwrap_or(0));
    }
    message
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

// `TaskError` is no `std::error::Error` itself: that is what allows this conversion.
impl<E: std::error::Error> From<E> for TaskError {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            source = cause.source();
        }
        TaskError::new(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_turns_into_a_transient_one() {
        let error: TaskError = "x".parse::<i64>().unwrap_err().into();
        assert_eq!(error.kind(), TaskErrorKind::Transient);
        assert_eq!(error.message(), "invalid digit found in string");
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let error = TaskError::new("é".repeat(TaskError::MESSAGE_MAX));
        assert_eq!(error.message().len(), TaskError::MESSAGE_MAX);
        let error = TaskError::new(format!("x{}", "é".repeat(TaskError::MESSAGE_MAX)));
        assert_eq!(error.message().len(), TaskError::MESSAGE_MAX - 1);
    }
}
