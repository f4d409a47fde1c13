//! The wall clock of a history: it follows Tokio's paused clock, and can be set wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use taskloom_model::Time;
use taskloom_store::Clock;
use tokio::time::Instant;

/// What it shows at the start: the first moment of 2026, in UTC.
const START: Time = Time::from_millis(1_767_225_600_000);

#[derive(Debug, Clone)]
pub(crate) struct SimClock {
    began: Instant,
    /// How wrong it is, in milliseconds.
    offset: Arc<AtomicI64>,
}

impl SimClock {
    pub(crate) fn start() -> Self {
        SimClock { began: Instant::now(), offset: Arc::default() }
    }

    pub(crate) fn jump(&self, millis: i64) {
        self.offset.fetch_add(millis, Ordering::SeqCst);
    }

    /// How long the history has lasted, whatever the wall clock says.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// How far it goes behind the time that has passed.
    pub(crate) fn behind(&self) -> Duration {
        let offset = self.offset.load(Ordering::SeqCst);
        Duration::from_millis(u64::try_from(-offset).unwrap_or(0))
    }
}

impl Clock for SimClock {
    fn now(&self) -> Time {
        let passed = START + self.began.elapsed();
        Time::from_millis(passed.as_millis() + self.offset.load(Ordering::SeqCst))
    }
}
