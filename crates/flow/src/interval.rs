//! Loops at a steady pace. To Tokio's `interval` they add jitter, bounded catching up, lateness,
//! a period that may change, and a run that ends and begins again.
//!
//! # Invariants
//! - Without jitter, ticks fall on a grid of whole periods from the first: lateness never adds up.
//! - A tick never comes before its time, and a run's ticks never overlap.
//! - Jitter moves each tick by itself, so the mean pace is the period.

#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::Cancellation;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::Heartbeat;

/// Longer spans count as this one, 30 years: moments so far ahead don't overflow.
const SPAN_MAX: Duration = Duration::from_secs(30 * 365 * 86_400);

/// What becomes of ticks whose time passed while the loop was busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MissedTicks {
    /// The latest comes at once, the others never; then the grid goes on.
    #[default]
    Skip,
    /// The latest come at once, one after another, at most so many; those before never. Zero
    /// counts as 1, which is [`MissedTicks::Skip`].
    CatchUp(u32),
}

/// One tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// How many came before it since the loop was begun.
    pub n_before: u64,
    /// When it was due.
    pub due: Instant,
    /// How much later it came. Under about a millisecond is the timer's own.
    pub late: Duration,
    /// How many ticks just before it were missed and never come.
    pub n_missed: u64,
}

/// What a loop has met, since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EveryStats {
    /// Ticks that came.
    pub n_ticks: u64,
    /// Ticks that never came, since the loop was busy for too long.
    pub n_missed: u64,
    /// The latest a tick ever came.
    pub late_max: Duration,
}

/// A loop that ticks once every period.
///
/// The first tick comes at once unless told otherwise, counted from the first
/// [`Every::tick`], or from the begin of [`Every::run`].
///
/// ```
/// use std::time::Duration;
/// use taskloom_flow::{Cancellation, Every};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let (began, stop) = (tokio::time::Instant::now(), Cancellation::new());
/// let mut every = Every::new(Duration::from_secs(10)).first_after(Duration::from_secs(1));
/// let ended = every.run(&stop, async |tick| {
///     tokio::time::sleep(Duration::from_secs(25)).await; // Misses the ticks at 11 and 21 s.
///     if tick.n_before == 1 {
///         assert_eq!((tick.n_missed, tick.late), (1, Duration::from_secs(5)));
///         stop.cancel("the show is over");
///     }
///     Ok::<(), std::io::Error>(())
/// });
/// ended.await.unwrap();
/// assert_eq!(began.elapsed(), Duration::from_secs(1 + 25 + 25));
/// # }
/// ```
#[derive(Debug)]
pub struct Every {
    period: Duration,
    /// Told of changes of the period, if there is anybody to tell.
    periods: Option<watch::Receiver<Duration>>,
    first_after: Duration,
    /// The part of a period that a tick may be moved by, 0 to 1.
    jitter: f64,
    rng: fastrand::Rng,
    missed: MissedTicks,
    heartbeat: Option<Heartbeat>,
    next: Option<Next>,
    n_before: u64,
    stats: EveryStats,
}

/// The tick to come.
#[derive(Debug, Clone, Copy)]
struct Next {
    /// Its place on the grid.
    place: Instant,
    /// Its place, moved by jitter.
    due: Instant,
}

impl Every {
    /// A loop with one tick a `period`, the first at once, without jitter, that skips what it
    /// missed. A period under 1 ms counts as 1 ms, which is as fine as Tokio's timer is.
    #[must_use]
    pub fn new(period: Duration) -> Self {
        Every {
            period: clamp(period),
            periods: None,
            first_after: Duration::ZERO,
            jitter: 0.0,
            rng: fastrand::Rng::new(),
            missed: MissedTicks::default(),
            heartbeat: None,
            next: None,
            n_before: 0,
            stats: EveryStats::default(),
        }
    }

    /// The first tick comes after `delay`, not at once.
    #[must_use]
    pub fn first_after(mut self, delay: Duration) -> Self {
        self.first_after = delay.min(SPAN_MAX);
        self
    }

    /// Each tick, the first too, comes later than its place by a random part of the period, up to
    /// `fraction` of it (0 to 1; others count as the nearest), so that many loops that began
    /// together don't tick together.
    #[must_use]
    pub fn jitter(mut self, fraction: f64) -> Self {
        self.jitter = if fraction.is_nan() { 0.0 } else { fraction.clamp(0.0, 1.0) };
        self
    }

    /// The seed of the jitter, for tests and simulations that repeat. Random unless told.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.rng = fastrand::Rng::with_seed(seed);
        self
    }

    /// What becomes of ticks whose time passed while the loop was busy.
    #[must_use]
    pub fn missed(mut self, missed: MissedTicks) -> Self {
        self.missed = missed;
        self
    }

    /// Each tick, and each end of one in [`Every::run`], is a sign of life of a supervised child.
    /// What the child promises must be longer than a period and the longest tick.
    #[must_use]
    pub fn heartbeat(mut self, heartbeat: Heartbeat) -> Self {
        self.heartbeat = Some(heartbeat);
        self
    }

    /// The period is what `periods` holds, and changes with it, at once, also while a tick is
    /// waited for: see [`Every::set_period`]. It stays as it is when the sender is dropped.
    #[must_use]
    pub fn follow(mut self, mut periods: watch::Receiver<Duration>) -> Self {
        self.period = clamp(*periods.borrow_and_update());
        self.periods = Some(periods);
        self
    }

    /// Changes the period. The next tick, unless it is the first, comes one new period after the
    /// place of the last one, at once if that has passed, and the grid goes on from there.
    pub fn set_period(&mut self, period: Duration) {
        let period = clamp(period);
        let before = std::mem::replace(&mut self.period, period);
        if let Some(next) = self.next.filter(|_| 0 < self.n_before) {
            let place = next.place.checked_sub(before).map_or(next.place, |it| it + period);
            self.set_next(place.max(Instant::now()));
        }
    }

    /// Puts the next tick one period from now, as if the last one had just come.
    pub fn reset(&mut self) {
        self.set_next(Instant::now() + self.period);
    }

    /// How often it is to tick.
    #[must_use]
    pub fn period(&self) -> Duration {
        self.period
    }

    /// What it has met so far.
    #[must_use]
    pub fn stats(&self) -> EveryStats {
        self.stats
    }

    /// Waits for the next tick.
    ///
    /// # Cancel safety
    /// Safe: a tick that was not waited for to its end stays the next one.
    pub async fn tick(&mut self) -> Tick {
        if self.next.is_none() {
            self.set_next(Instant::now() + self.first_after);
        }
        loop {
            let next = self.next.expect("it was set above, and is never taken");
            let slept = tokio::time::sleep_until(next.due);
            let Some(periods) = &mut self.periods else {
                slept.await;
                return self.take(next);
            };
            let changed = tokio::select! {
                biased;
                () = slept => return self.take(next),
                changed = periods.changed() => changed,
            };
            match changed {
                Ok(()) => {
                    let period = *periods.borrow_and_update();
                    self.set_period(period);
                }
                Err(_) => self.periods = None,
            }
        }
    }

    /// Begins afresh and calls `body` at each tick until `cancel` fires, or `body` ends with an
    /// error. A tick that is under way when `cancel` fires is finished. It can be run again.
    ///
    /// In a routine, write `async move |tick|` when the body uses anything from around it: the
    /// compiler can't see that a body that borrows may be sent to another thread.
    ///
    /// # Errors
    /// That of `body`, which ends the loop.
    ///
    /// # Cancel safety
    /// Dropping this future drops the call of `body` that is under way.
    pub async fn run<E>(
        &mut self,
        cancel: &Cancellation,
        mut body: impl AsyncFnMut(Tick) -> Result<(), E>,
    ) -> Result<(), E> {
        (self.next, self.n_before) = (None, 0);
        loop {
            let tick = tokio::select! {
                biased;
                _ = cancel.cancelled() => return Ok(()),
                tick = self.tick() => tick,
            };
            body(tick).await?;
            if let Some(heartbeat) = &self.heartbeat {
                heartbeat.beat();
            }
        }
    }

    /// Takes the tick that is due off the grid, and those that are missed with it.
    fn take(&mut self, next: Next) -> Tick {
        let now = Instant::now();
        let kept = match self.missed {
            MissedTicks::Skip => 1,
            MissedTicks::CatchUp(n) => u128::from(n.max(1)),
        };
        // Only places whose tick is overdue wherever jitter had moved it: it has not been drawn.
        let overdue = now.saturating_duration_since(next.place + self.jitter_max());
        let n_overdue = overdue.as_nanos() / self.period.as_nanos();
        let n_missed = (n_overdue + 1).saturating_sub(kept);
        let n_missed = u32::try_from(n_missed).unwrap_or(u32::MAX);
        let skipped = self.period.saturating_mul(n_missed);
        let (place, due) = (next.place + skipped, next.due + skipped);
        self.set_next(place + self.period);
        let tick = Tick {
            n_before: self.n_before,
            due,
            late: now.saturating_duration_since(due),
            n_missed: u64::from(n_missed),
        };
        self.n_before += 1;
        self.stats.n_ticks += 1;
        self.stats.n_missed += tick.n_missed;
        self.stats.late_max = self.stats.late_max.max(tick.late);
        if let Some(heartbeat) = &self.heartbeat {
            heartbeat.beat();
        }
        tick
    }

    fn set_next(&mut self, place: Instant) {
        let moved = self.jitter_max().mul_f64(self.rng.f64());
        self.next = Some(Next { place, due: place + moved });
    }

    fn jitter_max(&self) -> Duration {
        self.period.mul_f64(self.jitter)
    }
}

fn clamp(period: Duration) -> Duration {
    period.clamp(Duration::from_millis(1), SPAN_MAX)
}
