//! Tries again what may succeed the next time, within bounds of number, time, and budget.
//!
//! # Invariants
//! - An attempt begins only after the one before it has ended.
//! - No wait begins that would end after `time_max`.
//! - A retry that was allowed by the budget and not made is given back.

mod backoff;
mod budget;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

pub use backoff::{Backoff, BackoffDelays, BackoffError, Jitter};
pub use budget::RetryBudget;

/// Unless told otherwise.
const N_ATTEMPTS_MAX: u32 = 3;
/// A hint is trusted up to here, unless told otherwise.
const HINT_MAX: Duration = Duration::from_secs(60);

/// Why there was no further attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RetryStop {
    /// The error is none that another attempt could mend.
    #[error("a permanent error")]
    Permanent,
    /// As many attempts were made as are allowed.
    #[error("the attempts are spent")]
    AttemptsSpent,
    /// The next attempt would have begun too late.
    #[error("the time is spent")]
    TimeSpent,
    /// All callers together have used up their retries.
    #[error("the budget of retries is spent")]
    BudgetSpent,
}

/// Every attempt errored; the last of them with `error`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("gave up after {n_attempts} attempts in {elapsed:?}: {stop}")]
pub struct RetryError<E> {
    /// Why there was no further attempt.
    pub stop: RetryStop,
    /// What the last attempt ended with.
    #[source]
    pub error: E,
    /// How many attempts were made.
    pub n_attempts: u32,
    /// How long it took in all, waits included.
    pub elapsed: Duration,
}

/// What [`Retry::notify`] is told before each wait.
#[derive(Debug)]
pub struct RetryNotice<'a, E> {
    /// The number of the attempt that errored, from 1.
    pub attempt: u32,
    /// What it ended with.
    pub error: &'a E,
    /// How long until the next one.
    pub delay: Duration,
}

/// When and how often to try again. Made once, it may be shared and run any number of times.
///
/// At first: 3 attempts, the default [`Backoff`], every error retried, no limit of time.
///
/// An attempt has no time limit of its own: put one inside, with `tokio::time::timeout`.
///
/// ```
/// use std::time::Duration;
/// use taskloom_flow::{Retry, RetryStop};
///
/// #[derive(Debug, PartialEq)]
/// enum HttpError { Busy(Duration), NotFound }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let retry = Retry::default()
///     .n_attempts_max(5)
///     .time_max(Duration::from_secs(60))
///     .when(|error| matches!(error, HttpError::Busy(_)))
///     .hint(|error| match error {
///         HttpError::Busy(retry_after) => Some(*retry_after),
///         HttpError::NotFound => None,
///     });
/// let fetched = retry.run(async |attempt| match attempt {
///     1 => Err(HttpError::Busy(Duration::from_secs(7))),
///     _ => Ok("page"),
/// });
/// assert_eq!(fetched.await, Ok("page"));
///
/// let missing = retry.run(async |_| Err::<(), _>(HttpError::NotFound)).await.unwrap_err();
/// assert_eq!((missing.stop, missing.n_attempts), (RetryStop::Permanent, 1));
/// # }
/// ```
#[must_use = "it does nothing until run"]
pub struct Retry<E> {
    backoff: Backoff,
    n_attempts_max: u32,
    time_max: Option<Duration>,
    hint_max: Duration,
    budget: Option<RetryBudget>,
    seed: Option<u64>,
    when: Arc<dyn Fn(&E) -> bool + Send + Sync>,
    hint: Arc<Hint<E>>,
    notify: Arc<Notify<E>>,
}

type Hint<E> = dyn Fn(&E) -> Option<Duration> + Send + Sync;
type Notify<E> = dyn Fn(RetryNotice<'_, E>) + Send + Sync;

impl<E> Default for Retry<E> {
    fn default() -> Self {
        Retry::new(Backoff::default())
    }
}

impl<E> Retry<E> {
    /// Tries up to 3 times with the delays of `backoff` in between, whatever the error.
    pub fn new(backoff: Backoff) -> Self {
        Retry {
            backoff,
            n_attempts_max: N_ATTEMPTS_MAX,
            time_max: None,
            hint_max: HINT_MAX,
            budget: None,
            seed: None,
            when: Arc::new(|_| true),
            hint: Arc::new(|_| None),
            notify: Arc::new(|_| {}),
        }
    }

    /// At most so many attempts, the first included; 0 counts as 1, `u32::MAX` as no bound.
    pub fn n_attempts_max(mut self, n: u32) -> Self {
        self.n_attempts_max = n.max(1);
        self
    }

    /// No attempt begins later than this after the first; a wait that would end later is not
    /// begun. An attempt under way is not cut short.
    pub fn time_max(mut self, time: Duration) -> Self {
        self.time_max = Some(time);
        self
    }

    /// Which errors are worth another attempt; the others end the run as
    /// [`RetryStop::Permanent`].
    pub fn when(mut self, is_retried: impl Fn(&E) -> bool + Send + Sync + 'static) -> Self {
        self.when = Arc::new(is_retried);
        self
    }

    /// The delay that an error itself asks for, such as `Retry-After`. It takes the place of the
    /// backoff's, without jitter.
    pub fn hint(
        mut self,
        delay_of: impl Fn(&E) -> Option<Duration> + Send + Sync + 'static,
    ) -> Self {
        self.hint = Arc::new(delay_of);
        self
    }

    /// The longest hint that is heeded, at first 60 s; a longer one counts as this.
    pub fn hint_max(mut self, delay: Duration) -> Self {
        self.hint_max = delay;
        self
    }

    /// Is called before each wait, on the routine that runs: for logs and counters.
    pub fn notify(mut self, told: impl Fn(RetryNotice<'_, E>) + Send + Sync + 'static) -> Self {
        self.notify = Arc::new(told);
        self
    }

    /// Retries only within a common allowance, and feeds it by the successes.
    pub fn budget(mut self, budget: &RetryBudget) -> Self {
        self.budget = Some(budget.clone());
        self
    }

    /// Draws the same jitter in each run: for tests and simulations.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Calls `op` with the number of the attempt, from 1, until it succeeds or there is a reason
    /// to stop. It is moved to a [`TaskGroup`](crate::TaskGroup) like any future.
    ///
    /// # Errors
    /// [`RetryError`] with the last error and the reason.
    ///
    /// # Cancel safety
    /// Dropping it drops the attempt under way; a retry that it waited for goes back to the budget.
    pub async fn run<T, F>(&self, mut op: impl FnMut(u32) -> F) -> Result<T, RetryError<E>>
    where
        F: Future<Output = Result<T, E>>,
    {
        let began = Instant::now();
        let mut delays = match self.seed {
            Some(seed) => self.backoff.delays_with_seed(seed),
            None => self.backoff.delays(),
        };
        let mut n_attempts = 0_u32;
        loop {
            n_attempts = n_attempts.saturating_add(1);
            let error = match op(n_attempts).await {
                Ok(output) => {
                    if let Some(budget) = &self.budget {
                        budget.succeeded();
                    }
                    return Ok(output);
                }
                Err(error) => error,
            };
            let delay = match self.hint_of(&error) {
                Some(hint) => hint,
                None => delays.next().expect("delays have no end"),
            };
            let elapsed = began.elapsed();
            if let Some(stop) = self.stop_before(&error, n_attempts, elapsed.saturating_add(delay))
            {
                return Err(RetryError { stop, error, n_attempts, elapsed });
            }
            let reserved = self.budget.as_ref().map(RetryBudget::reserve);
            if let Some(None) = reserved {
                let stop = RetryStop::BudgetSpent;
                return Err(RetryError { stop, error, n_attempts, elapsed });
            }
            (self.notify)(RetryNotice { attempt: n_attempts, error: &error, delay });
            // What the error holds, such as a connection, is not kept through the wait.
            drop(error);
            sleep(delay).await;
            if let Some(Some(reserved)) = reserved {
                reserved.spend();
            }
        }
    }

    fn hint_of(&self, error: &E) -> Option<Duration> {
        (self.hint)(error).map(|it| it.min(self.hint_max))
    }

    /// Why there is no attempt after one that errored, if it would begin at `next`.
    fn stop_before(&self, error: &E, n_attempts: u32, next: Duration) -> Option<RetryStop> {
        if !(self.when)(error) {
            return Some(RetryStop::Permanent);
        }
        if n_attempts == self.n_attempts_max && n_attempts < u32::MAX {
            return Some(RetryStop::AttemptsSpent);
        }
        self.time_max.is_some_and(|it| it < next).then_some(RetryStop::TimeSpent)
    }
}

impl<E> Clone for Retry<E> {
    fn clone(&self) -> Self {
        Retry {
            backoff: self.backoff,
            n_attempts_max: self.n_attempts_max,
            time_max: self.time_max,
            hint_max: self.hint_max,
            budget: self.budget.clone(),
            seed: self.seed,
            when: Arc::clone(&self.when),
            hint: Arc::clone(&self.hint),
            notify: Arc::clone(&self.notify),
        }
    }
}

impl<E> fmt::Debug for Retry<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("backoff", &self.backoff)
            .field("n_attempts_max", &self.n_attempts_max)
            .field("time_max", &self.time_max)
            .field("hint_max", &self.hint_max)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}
