//! The weather: how often calls to the store go wrong just now, and how slow they are.

use std::time::Duration;

use fastrand::Rng;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::chance::{chance, millis};

/// How often what happens to a call, in a hundred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Rates {
    pub(crate) error: u32,
    pub(crate) lost_answer: u32,
    pub(crate) slow: u32,
    pub(crate) slow_max: Duration,
}

impl Rates {
    pub(crate) fn draw(rng: &mut Rng) -> Rates {
        let slow_max = match rng.u32(..10) {
            0 => Duration::from_secs(40), // Longer than a lease.
            1..=4 => Duration::from_secs(3),
            _ => Duration::from_millis(300),
        };
        match rng.u32(..5) {
            0 | 1 => Rates::default(),
            2 => Rates { slow: 30, slow_max, ..Rates::default() },
            3 => Rates { error: 10, lost_answer: 10, slow: 20, slow_max },
            _ => Rates { error: 40, lost_answer: 20, slow: 20, slow_max },
        }
    }
}

/// What happens to one call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fate {
    pub(crate) before: Duration,
    pub(crate) is_refused: bool,
    pub(crate) after: Duration,
    pub(crate) is_answer_lost: bool,
}

#[derive(Debug)]
pub(crate) struct Weather {
    rng: Mutex<Rng>,
    rates: Mutex<Rates>,
    /// Tells slow calls that they are slow no more.
    calm: Notify,
}

impl Weather {
    pub(crate) fn new(rng: Rng) -> Self {
        Weather { rng: Mutex::new(rng), rates: Mutex::default(), calm: Notify::new() }
    }

    pub(crate) fn set(&self, rates: Rates) {
        *self.rates.lock() = rates;
        if rates == Rates::default() {
            self.calm.notify_waiters();
        }
    }

    pub(crate) fn fate(&self) -> Fate {
        let rates = *self.rates.lock();
        let rng = &mut *self.rng.lock();
        let delay = |rng: &mut Rng| {
            if rates.slow == 0 || !chance(rng, rates.slow) {
                return Duration::ZERO;
            }
            millis(rng, 1..u64::try_from(rates.slow_max.as_millis()).unwrap_or(2).max(2))
        };
        Fate {
            before: delay(rng),
            is_refused: chance(rng, rates.error),
            after: delay(rng),
            is_answer_lost: chance(rng, rates.lost_answer),
        }
    }

    /// Waits for `delay`, or until the weather is calm: then nothing is slow any more.
    pub(crate) async fn delay(&self, delay: Duration) {
        let is_calm = *self.rates.lock() == Rates::default();
        if !delay.is_zero() && !is_calm {
            tokio::time::timeout(delay, self.calm.notified()).await.ok();
        }
    }
}
