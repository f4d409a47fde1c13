//! Supervisors: routines with names that are started in order, watched, and started again when
//! they fail, in the sense of Erlang/OTP (the `supervisor` behaviour; Armstrong, "Making reliable
//! distributed systems in the presence of software errors", 2003).
//!
//! # Invariants
//! - A child never has two runs at a time.
//! - No child outlives [`Supervisor::run`]: dropping that future aborts them all.
//! - Children start in the order they were added, and are stopped in the reverse order.
//! - In any one period there are at most `n_max` restarts; one more ends the supervisor.

mod child;
mod family;
mod health;
mod member;
mod restarts;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use crate::Cancellation;
use tokio::sync::{mpsc, watch};

pub use child::{ChildContext, ChildSpec, Heartbeat, RestartPolicy};
pub use health::{ChildHealth, ChildState, SupervisorError, SupervisorHandle};

use family::Family;
use health::{Command, Told};
use restarts::Restarts;

/// How many commands of handles may wait. Each is answered at once; more callers wait their turn.
const COMMANDS_MAX: usize = 16;

/// Who is restarted with a child that failed. Those that had ended for good, or were stopped by a
/// handle, stay down in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RestartStrategy {
    /// That child alone: the others don't depend on it.
    #[default]
    OneForOne,
    /// All children: each depends on each.
    OneForAll,
    /// That child and those added after it, which depend on it.
    RestForOne,
}

/// A supervisor gave up: a child failed more often than its restarts were to heal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("gave up on `{child}` after {n_restarts} restarts within {period:?}: {error}")]
pub struct Escalation {
    /// The child whose failure was one too many.
    pub child: Arc<str>,
    /// How many restarts there were within the period, of all children together.
    pub n_restarts: usize,
    /// The period they are counted over.
    pub period: Duration,
    /// Its last error, or the message of its panic.
    pub error: Arc<str>,
}

/// Starts named routines in order, watches them, and starts them again when they fail.
///
/// Whether a child that ended is restarted says its [`RestartPolicy`]; who is restarted with it
/// says the [`RestartStrategy`]; how often says [`Supervisor::intensity`], and how soon
/// [`Supervisor::backoff`]. A child that fails more often ends the supervisor with an
/// [`Escalation`]. Since a supervisor runs as a future it can be a child itself, and then its
/// parent decides.
///
/// Unlike in Erlang, a child that fails at its first start is restarted as at any other time.
///
/// ```
/// use std::time::Duration;
/// use taskloom_flow::{Cancellation, ChildSpec, ChildState, Every, Supervisor};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let poller = ChildSpec::new("poller", |child| async move {
///     let mut every = Every::new(Duration::from_secs(5)).heartbeat(child.heartbeat());
///     every.run(child.cancellation(), async |_| Err("no connection".into())).await
/// });
/// let supervisor = Supervisor::new()
///     .intensity(10, Duration::from_secs(60))
///     .backoff(Duration::from_secs(1), Duration::from_secs(30))
///     .child(poller.heartbeat(Duration::from_secs(15)));
///
/// let (stop, mut handle) = (Cancellation::new(), supervisor.handle());
/// let watch = async {
///     let failed = handle.wait_for(|health| 2 <= health[0].n_restarts).await.unwrap();
///     assert_eq!(failed[0].last_error.as_deref(), Some("no connection"));
///     stop.cancel("the show is over");
/// };
/// let (ended, ()) = tokio::join!(supervisor.run(&stop), watch);
/// assert_eq!(ended, Ok(()));
/// assert_eq!(handle.health()[0].state, ChildState::Stopped);
/// # }
/// ```
#[derive(Debug)]
pub struct Supervisor {
    strategy: RestartStrategy,
    children: Vec<ChildSpec>,
    restarts: Restarts,
    /// Kept, so that `commands` never ends while the supervisor lives.
    sender: mpsc::Sender<Command>,
    commands: mpsc::Receiver<Command>,
    health: watch::Sender<Vec<Told>>,
}

impl Supervisor {
    /// A supervisor without children, one for one, that restarts at most 3 times within 5 seconds
    /// (as in Elixir) and after 100 ms at first, then doubling to 30 seconds.
    #[must_use]
    pub fn new() -> Self {
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        Supervisor {
            strategy: RestartStrategy::default(),
            children: Vec::new(),
            restarts: Restarts::default(),
            sender,
            commands,
            health: watch::Sender::default(),
        }
    }

    /// Who is restarted with a child that failed.
    #[must_use]
    pub fn strategy(mut self, strategy: RestartStrategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// At most `n_max` restarts within any `period`, of all children together; restarts that a
    /// handle asked for don't count. A failure that needs one more ends the supervisor. None at
    /// all (0) makes the first failure end it.
    ///
    /// The wait between restarts counts too: with a slow [`Supervisor::backoff`] and a short
    /// period no child ever fails too often, and that may be what is wanted.
    #[must_use]
    pub fn intensity(mut self, n_max: usize, period: Duration) -> Self {
        self.restarts.set_intensity(n_max, period);
        self
    }

    /// A restart waits for `delay_first`, and for twice as long after each failure in a row, up to
    /// `delay_max`; then a random part of up to a half is taken off, so that things that failed
    /// together don't come back together ("equal jitter": Brooker, "Exponential Backoff And
    /// Jitter", AWS 2015). A `delay_first` of zero restarts at once.
    #[must_use]
    pub fn backoff(mut self, delay_first: Duration, delay_max: Duration) -> Self {
        self.restarts.set_backoff(delay_first, delay_max);
        self
    }

    /// A child that lived for `lifetime` counts as healed: its next restart waits for the first
    /// delay again. 30 seconds unless told.
    #[must_use]
    pub fn healed_after(mut self, lifetime: Duration) -> Self {
        self.restarts.set_healed_after(lifetime);
        self
    }

    /// The seed of the jitter, for tests and simulations that repeat. Random unless told.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.restarts.set_seed(seed);
        self
    }

    /// Adds a child, to be started after those added before it, and stopped before them.
    ///
    /// # Panics
    /// When there is a child of that name: health and handles know children by their names.
    #[must_use]
    pub fn child(mut self, child: ChildSpec) -> Self {
        let taken = self.children.iter().any(|it| it.name == child.name);
        assert!(!taken, "there is a child `{}` already; give each a name of its own", child.name);
        self.health.send_modify(|it| it.push(Told::new(&child.name)));
        self.children.push(child);
        self
    }

    /// What starts, stops and watches the children from outside, also those added later.
    #[must_use]
    pub fn handle(&self) -> SupervisorHandle {
        SupervisorHandle::new(self.sender.clone(), self.health.subscribe())
    }

    /// Starts the children in order, and keeps them up until `cancel` fires; then stops them in
    /// reverse order, each within its grace. It goes on even when every child has ended: a handle
    /// may start them again.
    ///
    /// A child that neither heeds the stop nor ever comes to an await point can't be aborted: at
    /// the end it is left to itself after one more second, and until then it isn't restarted, so
    /// that a child never has two runs at a time.
    ///
    /// # Errors
    /// [`Escalation`] when more restarts were needed than [`Supervisor::intensity`] allows. All
    /// children are stopped by then.
    ///
    /// # Cancel safety
    /// Dropping this future aborts every child, in no order and without grace.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub async fn run(self, cancel: &Cancellation) -> Result<(), Escalation> {
        let _sender = self.sender;
        Family::new(self.strategy, self.restarts, self.children)
            .listen(self.commands, self.health)
            .run(cancel)
            .await
    }
}

impl Default for Supervisor {
    fn default() -> Self {
        Supervisor::new()
    }
}
