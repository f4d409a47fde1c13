//! What supervisors promise: who is restarted and how soon, orders, graces, heartbeats, commands.

use std::future::pending;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::*;
use crate::TaskGroup;
use crate::testing::{at_every_await_point, cancel_after};

mod commands;
mod orders;
mod restarts;

const SECOND: Duration = Duration::from_secs(1);

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// What happened to whom, and after how many milliseconds.
#[derive(Clone)]
struct Journal {
    began: Instant,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Journal {
    fn new() -> Self {
        Journal { began: Instant::now(), lines: Arc::default() }
    }

    fn note(&self, what: &str, who: &str) {
        self.lines.lock().push(format!("{} {what} {who}", self.began.elapsed().as_millis()));
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.lines.lock())
    }

    /// A child that notes its start and its stop, which takes `to_stop`, and meanwhile fails once
    /// it is told to by name.
    fn child(&self, name: &'static str, to_stop: Duration, fail: &Failures) -> ChildSpec {
        let (journal, fail) = (self.clone(), fail.clone());
        ChildSpec::new(name, move |child| {
            let (journal, fail) = (journal.clone(), fail.clone());
            async move {
                journal.note("start", name);
                tokio::select! {
                    () = child.stopped() => {}
                    () = fail.of(name) => return Err("told to".into()),
                }
                sleep(to_stop).await;
                journal.note("stop", name);
                Ok(())
            }
        })
    }
}

/// Who is to fail now.
#[derive(Clone)]
struct Failures(tokio::sync::watch::Sender<(&'static str, u64)>);

impl Failures {
    fn new() -> Self {
        Failures(tokio::sync::watch::Sender::new(("", 0)))
    }

    /// The one that runs under that name now fails.
    fn fail(&self, name: &'static str) {
        self.0.send_modify(|it| *it = (name, it.1 + 1));
    }

    async fn of(&self, name: &str) {
        let mut told = self.0.subscribe();
        let begun_at = told.borrow_and_update().1;
        told.wait_for(|it| it.0 == name && begun_at < it.1).await.expect("the sender is ours");
    }
}

/// A supervisor that runs until dropped.
struct Running {
    group: TaskGroup,
    stop: Cancellation,
    handle: SupervisorHandle,
    ended: Arc<Mutex<Option<Result<(), Escalation>>>>,
}

impl Running {
    fn new(supervisor: Supervisor) -> Running {
        let (group, stop) = (TaskGroup::isolated(), Cancellation::new());
        let (handle, ended) = (supervisor.handle(), Arc::new(Mutex::new(None)));
        let (cancel, into) = (stop.clone(), Arc::clone(&ended));
        group.spawn("supervisor", async move {
            let end = supervisor.run(&cancel).await;
            *into.lock() = Some(end);
        });
        Running { group, stop, handle, ended }
    }

    async fn end(mut self) -> Result<(), Escalation> {
        let ended = self.group.join_next().await.unwrap();
        assert_eq!(ended.panic(), None);
        self.ended.lock().take().unwrap()
    }

    async fn stop(self) -> Result<(), Escalation> {
        self.stop.cancel("it is over");
        self.end().await
    }

    fn states(&self) -> Vec<ChildState> {
        self.handle.health().iter().map(|it| it.state).collect()
    }
}

/// Restarts at once, and never gives up.
fn eager() -> Supervisor {
    Supervisor::new().intensity(1_000_000, SECOND).backoff(Duration::ZERO, Duration::ZERO)
}
