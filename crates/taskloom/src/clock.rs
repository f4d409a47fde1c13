//! The clocks: the only place of the program that reads the time of day.

use std::time::{SystemTime, UNIX_EPOCH};

use taskloom_model::Time;
use taskloom_store::Clock;

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Time {
        #[expect(clippy::disallowed_methods, reason = "the composition root reads the clock")]
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Time::from_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }
}

/// A clock that follows Tokio's, paused or not; it starts at a fixed moment.
#[derive(Debug, Clone, Copy)]
pub struct TokioClock {
    began: tokio::time::Instant,
}

impl TokioClock {
    /// What it shows when it starts: the first moment of 2026, in UTC.
    pub const START: Time = Time::from_millis(1_767_225_600_000);

    /// A clock that starts now. Must be called inside a Tokio runtime to follow a paused clock.
    #[must_use]
    pub fn start() -> Self {
        TokioClock { began: tokio::time::Instant::now() }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Time {
        Self::START + self.began.elapsed()
    }
}
