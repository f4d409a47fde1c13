//! Rate limiting by the generic cell rate algorithm (GCRA): one moment says it all.
//!
//! # Invariants
//! - In any span `t`, at most `burst + t / interval` calls are let through.
//! - Calls are let through in the order they came: nobody passes while another waits.

mod gcra;
mod keyed;
#[cfg(test)]
mod tests;

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::Rate;
use gcra::Gcra;
pub use keyed::{KeyedRateLimiter, KeyedRefusal, KeysFull};

/// No pause is longer, whatever a server asks for.
const PAUSE_MAX: Duration = Duration::from_secs(86_400);
/// Whoever would wait for longer than this waits for ever: as far as Tokio's timer sees.
const FAR: Duration = Duration::from_secs(30 * 366 * 86_400);

/// The call was not let through, and nothing was taken of the rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the rate lets nothing more through for {retry_after:?}; come back then")]
pub struct WouldWait {
    /// How long the wait would have been, if all who wait already stay.
    pub retry_after: Duration,
}

/// More calls at once than the burst ever allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{n} calls at once never fit a burst of {burst}; ask for fewer, or allow a larger burst")]
pub struct OverBurst {
    /// How many were asked for.
    pub n: u32,
    /// How many the limiter lets through at once.
    pub burst: u32,
}

/// Spaces calls out to a rate, in the order they came; up to `burst` of them pass at once after a
/// quiet time.
///
/// From a burst of 8 on, most calls pass without a look at the clock; the price is that the first
/// burst after a quiet time may be up to an eighth smaller.
///
/// It follows Tokio's clock, paused or not. Tokio's timer ticks in milliseconds, so over about
/// 500 a second the full rate needs a burst of at least what two milliseconds bring.
///
/// The algorithm is the GCRA of ATM networks (ITU-T I.371), which keeps one moment instead of a
/// bucket of tokens or a list of calls.
///
/// ```
/// use taskloom_flow::RateLimiter;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let limiter = RateLimiter::new("10/s".parse().unwrap(), 1);
/// let began = tokio::time::Instant::now();
/// for _ in 0..3 {
///     limiter.acquire().await;
/// }
/// assert_eq!(began.elapsed().as_millis(), 200);
/// assert_eq!(limiter.try_acquire().unwrap_err().retry_after.as_millis(), 100);
/// # }
/// ```
#[derive(Debug)]
pub struct RateLimiter {
    /// Moments are counted from here.
    origin: Instant,
    burst: u32,
    /// One permit, handed on in the order of asking: its holder is the one who waits for time.
    turn: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    gcra: Gcra,
    /// How many calls those in line want, the one whose turn it is included. Not zero: whoever
    /// comes must stand in line too.
    n_waiting: u64,
}

impl RateLimiter {
    /// A limiter to `rate`, with up to `burst` calls at once; a burst of 0 counts as 1.
    #[must_use]
    pub fn new(rate: Rate, burst: u32) -> Self {
        let burst = burst.max(1);
        let state = State { gcra: Gcra::new(rate.interval(), burst), n_waiting: 0 };
        let (turn, state) = (Semaphore::new(1), Mutex::new(state));
        RateLimiter { origin: Instant::now(), burst, turn, state }
    }

    /// Lets the rate adapt to what the other side bears, between `floor` and the rate of the
    /// limiter; a floor over that rate counts as that rate.
    ///
    /// Each [`RateLimiter::refused`] halves the rate, and refusals within a second of that count
    /// with it. Each second without one in which a call [succeeded](RateLimiter::succeeded) adds a
    /// tenth of the full rate back. The burst shrinks and grows with the rate. This is additive
    /// increase, multiplicative decrease, as in TCP (Chiu and Jain 1989).
    ///
    /// ```
    /// use std::time::Duration;
    /// use taskloom_flow::RateLimiter;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let limiter = RateLimiter::new("10/s".parse().unwrap(), 1).adaptive("1/s".parse().unwrap());
    /// limiter.refused(Some(Duration::from_secs(2))); // as by 429 with `Retry-After: 2`
    /// assert_eq!(limiter.interval(), Duration::from_millis(200));
    /// limiter.acquire().await;
    /// limiter.succeeded();
    /// assert!(limiter.interval() < Duration::from_millis(200));
    /// # }
    /// ```
    #[must_use]
    pub fn adaptive(mut self, floor: Rate) -> Self {
        self.state.get_mut().gcra.set_interval_max(floor.interval());
        self
    }

    /// Waits until the rate lets one more call through.
    ///
    /// # Cancel safety
    /// Safe: a call that stops waiting gives its place back and takes nothing of the rate.
    pub async fn acquire(&self) {
        if self.pass_unless_waiting(1).is_err() {
            let passed = self.wait(1, None).await;
            passed.expect("without a limit nobody is refused");
        }
    }

    /// Waits until the rate lets `n` more calls through together; 0 is none, at once.
    ///
    /// # Errors
    /// [`OverBurst`] at once when `n` is more than the burst: they could never pass together.
    ///
    /// # Cancel safety
    /// Safe: a call that stops waiting gives its place back and takes nothing of the rate.
    pub async fn acquire_many(&self, n: u32) -> Result<(), OverBurst> {
        if self.burst < n {
            return Err(OverBurst { n, burst: self.burst });
        }
        if 0 < n && self.pass_unless_waiting(n).is_err() {
            let passed = self.wait(n, None).await;
            passed.expect("without a limit nobody is refused");
        }
        Ok(())
    }

    /// Waits until the rate lets one more call through, for at most `limit`.
    ///
    /// # Errors
    /// [`WouldWait`] at once when the wait would be longer, which is known beforehand; or within
    /// `limit` when a pause or a slower rate came in between.
    ///
    /// # Cancel safety
    /// Safe: a call that stops waiting gives its place back and takes nothing of the rate.
    pub async fn acquire_within(&self, limit: Duration) -> Result<(), WouldWait> {
        match self.pass_unless_waiting(1) {
            Err(would_wait) if would_wait.retry_after <= limit => {
                self.wait(1, Some(limit).filter(|it| *it < FAR)).await
            }
            passed_or_refused => passed_or_refused,
        }
    }

    /// Lets one more call through if that needs no wait.
    ///
    /// # Errors
    /// [`WouldWait`] when the rate, a pause, or others who came before forbid it.
    pub fn try_acquire(&self) -> Result<(), WouldWait> {
        self.pass_unless_waiting(1)
    }

    /// Lets nothing through for `delay`: what `Retry-After` asks for. The longest pause wins;
    /// delays over a day count as a day.
    pub fn pause_for(&self, delay: Duration) {
        let now = self.now();
        self.state.lock().gcra.pause(now, delay.min(PAUSE_MAX));
    }

    /// The other side refused a call as one too many: an [adaptive](RateLimiter::adaptive) limiter
    /// goes slower, and any limiter pauses for `retry_after`.
    pub fn refused(&self, retry_after: Option<Duration>) {
        let now = self.now();
        let mut state = self.state.lock();
        state.gcra.slow_down(now);
        if let Some(delay) = retry_after {
            state.gcra.pause(now, delay.min(PAUSE_MAX));
        }
    }

    /// The other side took a call: an [adaptive](RateLimiter::adaptive) limiter that was slowed
    /// down goes back to its rate, bit by bit.
    pub fn succeeded(&self) {
        let now = self.now();
        self.state.lock().gcra.speed_up(now);
    }

    /// The time between two calls as things are: that of the rate, or longer after refusals.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.state.lock().gcra.interval()
    }

    /// From when on this limiter is worth no more than a new one, if nobody uses it until then.
    fn fresh_from(&self) -> Instant {
        let now = self.now();
        self.origin + self.state.lock().gcra.fresh_at(now).min(FAR)
    }

    #[inline]
    fn now(&self) -> Duration {
        Instant::now().duration_since(self.origin)
    }

    #[inline]
    fn pass_unless_waiting(&self, n: u32) -> Result<(), WouldWait> {
        let mut state = self.state.lock();
        if state.n_waiting == 0 && n == 1 && state.gcra.take() {
            return Ok(());
        }
        let now = self.now();
        if state.n_waiting == 0 {
            return state.gcra.pass(now, n).map_err(|due| WouldWait { retry_after: due - now });
        }
        Err(state.would_wait(now, n))
    }

    /// Stands in line, and then waits for time.
    async fn wait(&self, n: u32, limit: Option<Duration>) -> Result<(), WouldWait> {
        let deadline = limit.map(|it| self.now() + it);
        let place = self.line_up(n, deadline)?;
        let turn = self.turn.acquire();
        let turn = match deadline {
            None => turn.await,
            Some(deadline) => match timeout_at(self.origin + deadline, turn).await {
                Ok(turn) => turn,
                Err(_) => {
                    drop(place);
                    let now = self.now();
                    let would_wait = self.state.lock().would_wait(now, n);
                    return Err(would_wait);
                }
            },
        };
        let _turn = turn.expect("the semaphore is never closed");
        loop {
            let now = self.now();
            let passed = self.state.lock().gcra.pass(now, n);
            match passed {
                Ok(()) => return Ok(()),
                Err(due) if deadline.is_some_and(|it| it < due) => {
                    return Err(WouldWait { retry_after: due - now });
                }
                Err(due) => sleep_until(self.origin + due.min(FAR)).await,
            }
        }
    }

    fn line_up(&self, n: u32, deadline: Option<Duration>) -> Result<Place<'_>, WouldWait> {
        let now = self.now();
        let mut state = self.state.lock();
        let would_wait = state.would_wait(now, n);
        if deadline.is_some_and(|it| it < now.saturating_add(would_wait.retry_after)) {
            return Err(would_wait);
        }
        state.n_waiting += u64::from(n);
        Ok(Place { limiter: self, n })
    }
}

impl State {
    /// What `n` calls that come now would wait for.
    fn would_wait(&mut self, now: Duration, n: u32) -> WouldWait {
        let n_before = u32::try_from(self.n_waiting).unwrap_or(u32::MAX);
        WouldWait { retry_after: self.gcra.due(now, n, n_before).saturating_sub(now) }
    }
}

/// A place in line; dropping it leaves the line.
struct Place<'a> {
    limiter: &'a RateLimiter,
    n: u32,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.limiter.state.lock().n_waiting -= u64::from(self.n);
    }
}
