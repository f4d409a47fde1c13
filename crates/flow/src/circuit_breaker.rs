//! Leaves a service alone that fails, and tries it again with few calls after a while.
//!
//! # Invariants
//! - While open, no call begins. While half-open, at most `n_probes` calls are under way.
//! - The outcome of a call counts only in the state it began in: each change of the state begins a
//!   new generation, and outcomes of an older one are told to nobody but the totals.
//! - A call that is dropped counts as neither, and a probe's place is free again.

mod rules;
#[cfg(test)]
mod tests;
mod window;

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::BackoffDelays;
pub use rules::{BreakerRules, BreakerRulesError, BreakerTrip};
use window::Window;

/// What a circuit breaker lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BreakerState {
    /// Every call.
    Closed,
    /// No call.
    Open,
    /// A few calls, whose outcomes decide between the two others.
    HalfOpen,
}

/// A call that came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BreakerError<E> {
    /// It was refused, and never begun.
    #[error("the circuit breaker is open")]
    Open {
        /// When calls are let through again; `None` when nobody knows: it depends on probes that
        /// are under way, or on whoever forced it open.
        retry_after: Option<Duration>,
    },
    /// It errored.
    #[error(transparent)]
    Failed(E),
}

/// What a circuit breaker has seen since it was made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BreakerStats {
    /// What it lets through now.
    pub state: BreakerState,
    /// Whether the state was forced, and stays until a reset.
    pub is_forced: bool,
    /// Calls that counted as successes.
    pub n_succeeded: u64,
    /// Calls that counted as failures, the slow ones included.
    pub n_failed: u64,
    /// Calls that took at least the time from which a call is slow.
    pub n_slow: u64,
    /// Calls that were dropped before their end.
    pub n_dropped: u64,
    /// Calls that were refused.
    pub n_refused: u64,
    /// How often it opened because of failures.
    pub n_trips: u64,
    /// The share of failures among the latest calls, from 0 to 1; `None` while there are none, or
    /// when only failures in a row count.
    pub failed_share: Option<f64>,
}

/// Guards a service: after too many failures it refuses calls at once, for a time that grows with
/// each trip in a row; then it lets a few probes through, and closes when they succeed.
///
/// Without it, callers of a dead service pile up in their time-outs, and a service that comes back
/// is buried under them. The pattern is from Nygard, "Release It!" (2007); windows of outcomes and
/// slow calls are as in resilience4j.
///
/// A panic of a call counts as a failure, and goes on to the caller. A call that neither ends nor
/// is dropped keeps its place as a probe for ever: put a `tokio::time::timeout` inside.
///
/// ```
/// use std::time::Duration;
/// use taskloom_flow::{Backoff, BreakerError, BreakerRules, BreakerTrip, CircuitBreaker};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let breaker = CircuitBreaker::new(BreakerRules {
///     trip: BreakerTrip::Consecutive { n_failures: 2 },
///     open_for: Backoff::constant(Duration::from_secs(10)),
///     ..BreakerRules::default()
/// })
/// .unwrap();
/// for _ in 0..2 {
///     let failed = breaker.call(async { Err::<(), _>("no luck") }).await;
///     assert_eq!(failed, Err(BreakerError::Failed("no luck")));
/// }
/// let refused = breaker.call(async { Ok(()) }).await;
/// assert_eq!(refused, Err(BreakerError::Open { retry_after: Some(Duration::from_secs(10)) }));
/// tokio::time::sleep(Duration::from_secs(10)).await;
/// assert_eq!(breaker.call(async { Ok(7) }).await, Ok(7));
/// # }
/// ```
pub struct CircuitBreaker<E> {
    rules: BreakerRules,
    counts: Box<dyn Fn(&E) -> bool + Send + Sync>,
    state: Mutex<State>,
    /// Written under the lock of `state`, so that changes are told in their order.
    changes: watch::Sender<BreakerState>,
}

struct State {
    phase: Phase,
    is_forced: bool,
    /// Which phase this is; only grows.
    generation: u64,
    window: Window,
    /// How long to stay open, after each trip in a row.
    delays: BackoffDelays,
    totals: Totals,
}

#[derive(Clone, Copy)]
enum Phase {
    Closed,
    /// Until a moment, or until somebody ends it.
    Open {
        until: Option<Instant>,
    },
    HalfOpen {
        n_probing: u32,
        n_succeeded: u32,
    },
}

#[derive(Default)]
struct Totals {
    n_succeeded: u64,
    n_failed: u64,
    n_slow: u64,
    n_dropped: u64,
    n_refused: u64,
    n_trips: u64,
}

impl<E> CircuitBreaker<E> {
    /// A closed breaker by `rules`; every error counts as a failure.
    ///
    /// # Errors
    /// [`BreakerRulesError`] when the rules could never trip, or never close again.
    pub fn new(rules: BreakerRules) -> Result<Self, BreakerRulesError> {
        rules.check()?;
        let state = State {
            phase: Phase::Closed,
            is_forced: false,
            generation: 0,
            window: Window::new(rules.trip),
            delays: rules.delays(),
            totals: Totals::default(),
        };
        Ok(CircuitBreaker {
            rules,
            counts: Box::new(|_| true),
            state: Mutex::new(state),
            changes: watch::Sender::new(BreakerState::Closed),
        })
    }

    /// Which errors count as failures of the service. The others, such as "not found", count as
    /// successes: it answered.
    #[must_use]
    pub fn counts(mut self, is_failure: impl Fn(&E) -> bool + Send + Sync + 'static) -> Self {
        self.counts = Box::new(is_failure);
        self
    }

    /// Runs `future`, or refuses to: then it is dropped without having been polled.
    ///
    /// # Errors
    /// [`BreakerError::Open`] when it was refused, [`BreakerError::Failed`] when it errored.
    ///
    /// # Cancel safety
    /// Dropping it drops `future`. It then counts as neither, and its place is free again.
    pub async fn call<T>(
        &self,
        future: impl Future<Output = Result<T, E>>,
    ) -> Result<T, BreakerError<E>> {
        let generation = self.admit().map_err(|retry_after| BreakerError::Open { retry_after })?;
        let mut call = Call { breaker: self, generation, is_polling: false, has_ended: false };
        let began = self.rules.slow_after.map(|slow_after| (Instant::now(), slow_after));
        let mut future = pin!(future);
        let ended = poll_fn(|cx| {
            call.is_polling = true;
            let polled = future.as_mut().poll(cx);
            call.is_polling = false;
            polled
        })
        .await;
        let is_slow = began.is_some_and(|(began, slow_after)| slow_after <= began.elapsed());
        let failed = ended.as_ref().is_err_and(|error| (self.counts)(error));
        call.end(is_slow, failed);
        ended.map_err(BreakerError::Failed)
    }

    /// What the breaker lets through now. The end of the time it is open shows here at once.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        let mut state = self.state.lock();
        self.look_at_clock(&mut state);
        state.phase.state()
    }

    /// What the breaker has seen.
    #[must_use]
    pub fn stats(&self) -> BreakerStats {
        let mut state = self.state.lock();
        self.look_at_clock(&mut state);
        let Totals { n_succeeded, n_failed, n_slow, n_dropped, n_refused, n_trips } = state.totals;
        BreakerStats {
            state: state.phase.state(),
            is_forced: state.is_forced,
            n_succeeded,
            n_failed,
            n_slow,
            n_dropped,
            n_refused,
            n_trips,
            failed_share: state.window.failed_share(),
        }
    }

    /// Tells of changes of the state. The step from open to half-open is taken, and told, when
    /// somebody next calls or looks.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<BreakerState> {
        self.changes.subscribe()
    }

    /// Refuses every call until [`CircuitBreaker::reset`] or [`CircuitBreaker::force_close`].
    pub fn force_open(&self) {
        self.force(Phase::Open { until: None }, true);
    }

    /// Lets every call through, whatever its outcome, until [`CircuitBreaker::reset`] or
    /// [`CircuitBreaker::force_open`].
    pub fn force_close(&self) {
        self.force(Phase::Closed, true);
    }

    /// Closes the breaker as if it were new; the totals stay.
    pub fn reset(&self) {
        self.force(Phase::Closed, false);
    }

    fn force(&self, phase: Phase, is_forced: bool) {
        let mut state = self.state.lock();
        state.is_forced = is_forced;
        state.delays = self.rules.delays();
        self.enter(&mut state, phase);
    }

    /// Lets a call begin, in the generation that is answered, or says when to come back.
    fn admit(&self) -> Result<u64, Option<Duration>> {
        let mut state = self.state.lock();
        self.look_at_clock(&mut state);
        let refused = match &mut state.phase {
            Phase::Closed => return Ok(state.generation),
            Phase::HalfOpen { n_probing, .. } if *n_probing < self.rules.n_probes => {
                *n_probing += 1;
                return Ok(state.generation);
            }
            Phase::HalfOpen { .. } => None,
            Phase::Open { until } => until.map(|it| it - Instant::now()),
        };
        state.totals.n_refused += 1;
        Err(refused)
    }

    /// Takes the step from open to half-open when it is time.
    fn look_at_clock(&self, state: &mut State) {
        if let Phase::Open { until: Some(until) } = state.phase
            && until <= Instant::now()
        {
            self.enter(state, Phase::HalfOpen { n_probing: 0, n_succeeded: 0 });
        }
    }

    fn record(&self, state: &mut State, failed: bool) {
        match &mut state.phase {
            Phase::Closed => {
                if state.window.push(failed) && !state.is_forced {
                    self.trip(state);
                }
            }
            Phase::HalfOpen { .. } if failed => self.trip(state),
            Phase::HalfOpen { n_probing, n_succeeded } => {
                *n_probing -= 1;
                *n_succeeded += 1;
                if self.rules.n_successes <= *n_succeeded {
                    state.delays = self.rules.delays();
                    self.enter(state, Phase::Closed);
                }
            }
            // No call begins in it, so none of its generation ends.
            Phase::Open { .. } => {}
        }
    }

    fn trip(&self, state: &mut State) {
        let delay = state.delays.next().expect("delays have no end");
        state.totals.n_trips += 1;
        self.enter(state, Phase::Open { until: Some(Instant::now() + delay) });
    }

    fn enter(&self, state: &mut State, phase: Phase) {
        state.phase = phase;
        state.generation += 1;
        state.window.clear();
        let new = phase.state();
        self.changes.send_if_modified(|told| std::mem::replace(told, new) != new);
    }
}

impl Phase {
    fn state(self) -> BreakerState {
        match self {
            Phase::Closed => BreakerState::Closed,
            Phase::Open { .. } => BreakerState::Open,
            Phase::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }
}

/// A call under way; dropping it before its end gives its place back.
struct Call<'a, E> {
    breaker: &'a CircuitBreaker<E>,
    generation: u64,
    /// The future is being polled; true in a drop means that it panicked.
    is_polling: bool,
    has_ended: bool,
}

impl<E> Call<'_, E> {
    fn end(&mut self, is_slow: bool, failed: bool) {
        let failed = failed || is_slow;
        self.has_ended = true;
        let mut state = self.breaker.state.lock();
        state.totals.n_slow += u64::from(is_slow);
        state.totals.n_failed += u64::from(failed);
        state.totals.n_succeeded += u64::from(!failed);
        if state.generation == self.generation {
            self.breaker.record(&mut state, failed);
        }
    }
}

impl<E> Drop for Call<'_, E> {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        if self.is_polling {
            return self.end(false, true);
        }
        let mut state = self.breaker.state.lock();
        state.totals.n_dropped += 1;
        let is_current = state.generation == self.generation;
        if let Phase::HalfOpen { n_probing, .. } = &mut state.phase
            && is_current
        {
            *n_probing -= 1;
        }
    }
}

impl<E> fmt::Debug for CircuitBreaker<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreaker")
            .field("rules", &self.rules)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
