//! A supervisor from outside: how its children are, and the handle that starts and stops them.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::child::Signs;

/// Where a child is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildState {
    /// Its turn to start has not come, or it is not ready yet.
    Starting,
    /// It is up.
    Running,
    /// It is down, and is restarted when its time or turn comes.
    Waiting,
    /// It was told to stop and has not ended yet.
    Stopping,
    /// It is down for good: it ended by itself, or was stopped.
    Stopped,
    /// It is down for good, and its last run failed.
    Failed,
}

impl ChildState {
    /// Whether it stays down unless a handle starts it.
    #[must_use]
    pub fn is_down(self) -> bool {
        matches!(self, ChildState::Stopped | ChildState::Failed)
    }
}

/// How one child is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildHealth {
    /// The name it was added with.
    pub name: Arc<str>,
    /// Where it is in its life.
    pub state: ChildState,
    /// Since when it is there.
    pub since: Instant,
    /// How often it was started again, for whatever reason.
    pub n_restarts: u64,
    /// The last error it ended with, with its causes, or the message of its panic; kept when a
    /// later run does well.
    pub last_error: Option<Arc<str>>,
    /// The last heartbeat of this run, or of the last one.
    pub last_heartbeat: Option<Instant>,
}

/// A handle asked for what can't be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SupervisorError {
    /// No child has that name.
    #[error("there is no child `{0}`; `health()` lists their names")]
    Unknown(Arc<str>),
    /// The supervisor is stopping or has ended, and starts nothing any more.
    #[error("the supervisor has ended; run a new one")]
    Ended,
}

/// Watches, starts, stops and restarts the children of one supervisor. Clones are cheap; none
/// keeps the supervisor alive.
///
/// ```
/// use taskloom_flow::{Cancellation, ChildSpec, ChildState, Supervisor};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let supervisor = Supervisor::new().child(ChildSpec::new("feed", |child| async move {
///     child.stopped().await;
///     Ok(())
/// }));
/// let (stop, handle) = (Cancellation::new(), supervisor.handle());
/// let operate = async {
///     handle.stop("feed").await.unwrap();
///     assert_eq!(handle.health()[0].state, ChildState::Stopped);
///     handle.start("feed").await.unwrap();
///     assert_eq!(handle.health()[0].state, ChildState::Running);
///     handle.stop("food").await.unwrap_err();
///     stop.cancel("the show is over");
/// };
/// tokio::join!(supervisor.run(&stop), operate).0.unwrap();
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct SupervisorHandle {
    commands: mpsc::Sender<Command>,
    told: watch::Receiver<Vec<Told>>,
}

impl SupervisorHandle {
    pub(super) fn new(
        commands: mpsc::Sender<Command>,
        told: watch::Receiver<Vec<Told>>,
    ) -> SupervisorHandle {
        SupervisorHandle { commands, told }
    }

    /// How the children are now, in the order they were added. Of a supervisor that ended: how
    /// they were at its end.
    #[must_use]
    pub fn health(&self) -> Vec<ChildHealth> {
        self.told.borrow().iter().map(Told::health).collect()
    }

    /// Waits for a change of any child's state since the last call, and tells how all are now.
    /// Changes in quick succession are told as one; heartbeats are no changes.
    ///
    /// # Errors
    /// [`SupervisorError::Ended`] when the supervisor has ended and its last change was told.
    ///
    /// # Cancel safety
    /// Safe: a change that was not told stays to be told.
    pub async fn changed(&mut self) -> Result<Vec<ChildHealth>, SupervisorError> {
        self.told.changed().await.map_err(|_| SupervisorError::Ended)?;
        Ok(self.told.borrow_and_update().iter().map(Told::health).collect())
    }

    /// Waits until the children are as `wanted` says; they may be already.
    ///
    /// # Errors
    /// [`SupervisorError::Ended`] when the supervisor ended before.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn wait_for(
        &mut self,
        mut wanted: impl FnMut(&[ChildHealth]) -> bool,
    ) -> Result<Vec<ChildHealth>, SupervisorError> {
        loop {
            let health: Vec<_> = self.told.borrow_and_update().iter().map(Told::health).collect();
            if wanted(&health) {
                return Ok(health);
            }
            self.told.changed().await.map_err(|_| SupervisorError::Ended)?;
        }
    }

    /// Starts a child that is down, or that waits for its restart; one that is up stays as it is.
    /// Returns when its run has begun (it may not be ready yet), or when somebody stopped it
    /// before it could.
    ///
    /// # Errors
    /// [`SupervisorError::Unknown`] when no child has that name; [`SupervisorError::Ended`] when
    /// the supervisor is stopping or has ended.
    ///
    /// # Cancel safety
    /// Once the command is in the supervisor's backlog it is carried out, even when this future
    /// is dropped.
    pub async fn start(&self, name: &str) -> Result<(), SupervisorError> {
        self.send(name, Wish::Start).await
    }

    /// Stops a child for good, within its grace, and returns when it has ended. Its siblings stay.
    ///
    /// # Errors
    /// As [`SupervisorHandle::start`]. A supervisor that ends meanwhile has stopped the child too.
    ///
    /// # Cancel safety
    /// As [`SupervisorHandle::start`].
    pub async fn stop(&self, name: &str) -> Result<(), SupervisorError> {
        self.send(name, Wish::Stop).await
    }

    /// Stops a child within its grace and starts it again, without backoff and without counting
    /// it as a failure; one that is down is started. Returns when the new run has begun, or when
    /// somebody stopped the child before it could.
    ///
    /// # Errors
    /// As [`SupervisorHandle::start`].
    ///
    /// # Cancel safety
    /// As [`SupervisorHandle::start`].
    pub async fn restart(&self, name: &str) -> Result<(), SupervisorError> {
        self.send(name, Wish::Restart).await
    }

    async fn send(&self, name: &str, wish: Wish) -> Result<(), SupervisorError> {
        let known = |it: &Told| *it.health.name == *name;
        let index = self.told.borrow().iter().position(known);
        let index = index.ok_or_else(|| SupervisorError::Unknown(name.into()))?;
        let (answer, answered) = oneshot::channel();
        let command = Command { index, wish, answer };
        self.commands.send(command).await.map_err(|_| SupervisorError::Ended)?;
        let run = answered.await.map_err(|_| SupervisorError::Ended)?;
        // The answer came after the health it led to was published.
        let mut told = self.told.clone();
        let done = |told: &Vec<Told>| {
            let child = &told[index];
            child.health.state.is_down() || run <= child.n_runs
        };
        match (told.wait_for(done).await, wish) {
            (Ok(_), _) | (Err(_), Wish::Stop) => Ok(()),
            (Err(_), Wish::Start | Wish::Restart) => Err(SupervisorError::Ended),
        }
    }
}

/// What a handle wants of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Start,
    Stop,
    Restart,
}

/// One wish, answered with the number of the run that fulfils it (or, for a stop, of the first
/// run that would follow), unless the child is down for good before. Unanswered at the end.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) index: usize,
    pub(super) wish: Wish,
    pub(super) answer: oneshot::Sender<u64>,
}

/// What a supervisor tells its handles of one child.
#[derive(Debug, Clone)]
pub(super) struct Told {
    /// As of the last change; the heartbeat is read from `signs` when it is asked for.
    pub(super) health: ChildHealth,
    /// How many runs have begun.
    pub(super) n_runs: u64,
    /// Of this run, or of the last one.
    pub(super) signs: Option<Arc<Signs>>,
}

impl Told {
    pub(super) fn new(name: &Arc<str>) -> Told {
        let health = ChildHealth {
            name: Arc::clone(name),
            state: ChildState::Starting,
            since: Instant::now(),
            n_restarts: 0,
            last_error: None,
            last_heartbeat: None,
        };
        Told { health, n_runs: 0, signs: None }
    }

    fn health(&self) -> ChildHealth {
        let last_heartbeat = self.signs.as_ref().and_then(|it| it.last_beat());
        ChildHealth { last_heartbeat, ..self.health.clone() }
    }
}
