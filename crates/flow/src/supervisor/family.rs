//! A supervisor's life: one loop that takes what happened, brings every child nearer to where it
//! should be, tells of it, and waits for what happens next.
//!
//! # Invariants
//! - A child is started only when its last run has let go of everything.
//! - Children that leave together leave one at a time, the last first.

use std::sync::Arc;
use std::time::Duration;

use crate::Cancellation;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::child::{ChildContext, ChildSpec, RestartPolicy, Signs};
use super::health::{ChildState, Command, Told, Wish};
use super::member::{Member, Run, Step};
use super::restarts::Restarts;
use super::{Escalation, RestartStrategy};
use crate::{BoxError, Panicked, catch_panic};

/// Why a run ended: `Err` is the text of its error or panic.
type Exit = Result<(), Arc<str>>;

/// The children of a running supervisor. It owns their runs itself, as a task group owns
/// routines, since each is aborted on its own and tells how it ended.
pub(super) struct Family {
    strategy: RestartStrategy,
    restarts: Restarts,
    pub(super) members: Vec<Member>,
    runs: JoinSet<Exit>,
    /// Fired by a run that became ready.
    ready: Arc<Notify>,
    /// Set when all are to stop for good.
    ending: bool,
    escalation: Option<Escalation>,
    /// An answer to a handle, sent once the health it leads to is published.
    answer: Option<(oneshot::Sender<u64>, u64)>,
}

/// What the loop wakes for.
enum Event {
    Cancelled,
    Ended(Result<(Id, Exit), JoinError>),
    Command(Command),
    /// A child became ready, or some deadline came.
    Due,
}

/// A family that listens to handles and tells them how it is.
pub(super) struct Listening {
    family: Family,
    commands: mpsc::Receiver<Command>,
    health: watch::Sender<Vec<Told>>,
}

impl Listening {
    /// See [`super::Supervisor::run`].
    pub(super) async fn run(mut self, cancel: &Cancellation) -> Result<(), Escalation> {
        loop {
            let now = Instant::now();
            self.family.advance(now);
            self.publish();
            if self.family.is_over(now) {
                return self.family.escalation.take().map_or(Ok(()), Err);
            }
            let event = self.next_event(cancel, now).await;
            self.family.handle(event, Instant::now());
        }
    }

    /// Waits for what happens after `now`, the moment up to which everything due was done.
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    async fn next_event(&mut self, cancel: &Cancellation, now: Instant) -> Event {
        let family = &mut self.family;
        let due = family.next_due(now);
        let is_due = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = cancel.cancelled(), if !family.ending => Event::Cancelled,
            Some(joined) = family.runs.join_next_with_id() => Event::Ended(joined),
            Some(command) = self.commands.recv() => Event::Command(command),
            () = family.ready.notified() => Event::Due,
            () = is_due => Event::Due,
        }
    }

    fn publish(&mut self) {
        let children = &mut self.family.members;
        if children.iter().any(|it| it.changed) {
            self.health.send_modify(|told| {
                for (told, child) in told.iter_mut().zip(children.iter_mut()) {
                    if std::mem::take(&mut child.changed) {
                        told.clone_from(&child.told);
                    }
                }
            });
        }
        if let Some((answer, run)) = self.family.answer.take() {
            answer.send(run).ok();
        }
    }
}

impl Drop for Listening {
    /// The runs are aborted; whoever still looks sees no child up.
    fn drop(&mut self) {
        let now = Instant::now();
        for child in &mut self.family.members {
            if !child.told.health.state.is_down() {
                child.set_state(ChildState::Stopped, now);
            }
        }
        self.publish();
    }
}

impl Family {
    pub(super) fn new(
        strategy: RestartStrategy,
        restarts: Restarts,
        children: Vec<ChildSpec>,
    ) -> Family {
        let now = Instant::now();
        Family {
            strategy,
            restarts,
            members: children.into_iter().map(|spec| Member::new(spec, now)).collect(),
            runs: JoinSet::new(),
            ready: Arc::default(),
            ending: false,
            escalation: None,
            answer: None,
        }
    }

    pub(super) fn listen(
        self,
        commands: mpsc::Receiver<Command>,
        health: watch::Sender<Vec<Told>>,
    ) -> Listening {
        Listening { family: self, commands, health }
    }

    fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::Cancelled => self.stop_all(now),
            Event::Ended(joined) => self.on_joined(joined, now),
            Event::Command(command) => self.on_command(command, now),
            Event::Due => {}
        }
    }

    /// Brings every child as near to where it should be as can be done now.
    pub(super) fn advance(&mut self, now: Instant) {
        for child in &mut self.members {
            child.look_for_signs(now);
        }
        let mut waits = false;
        for child in self.members.iter_mut().rev() {
            child.advance_stop(now, &mut waits);
        }
        for index in 0..self.members.len() {
            if self.may_start(index, now) {
                self.start(index, now);
            }
        }
    }

    /// When `advance` has something to do next by itself.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        self.members.iter().filter_map(|it| it.next_due(now)).min()
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        let is_gone = |it: &Member| it.run.as_ref().is_none_or(|it| it.is_stuck(now));
        self.ending && self.members.iter().all(is_gone)
    }

    fn may_start(&self, index: usize, now: Instant) -> bool {
        let child = &self.members[index];
        if !child.wanted || child.run.is_some() || now < child.due {
            return false;
        }
        // Those that leave together come back together: when the last one is gone.
        if self.members.iter().any(Member::leaves_in_order) {
            return false;
        }
        let alone = self.strategy == RestartStrategy::OneForOne && child.told.n_runs != 0;
        let is_settled = |it: &Member| !it.wanted || it.told.health.state == ChildState::Running;
        alone || self.members[..index].iter().all(is_settled)
    }

    fn start(&mut self, index: usize, now: Instant) {
        let child = &mut self.members[index];
        let (stop, signs) = (Cancellation::new(), Signs::new(now, &self.ready));
        let context = ChildContext { stop: stop.clone(), signs: Arc::clone(&signs) };
        let make = Arc::clone(&child.spec.make);
        let fired = stop.token().clone().drop_guard();
        let abort = self.runs.spawn(async move {
            let _fired = fired;
            exit_of(catch_panic(async move { make(context).await }).await)
        });
        child.told.n_runs += 1;
        child.told.health.n_restarts = child.told.n_runs - 1;
        child.told.signs = Some(Arc::clone(&signs));
        child.run = Some(Run { abort, stop, signs, broken: None, leaving: None });
        let at_once = child.spec.ready_within.is_none();
        let state = if at_once { ChildState::Running } else { ChildState::Starting };
        child.set_state(state, now);
    }

    fn on_joined(&mut self, joined: Result<(Id, Exit), JoinError>, now: Instant) {
        let (id, exit) = match joined {
            Ok(ended) => ended,
            Err(error) => (error.id(), exit_of_error(error)),
        };
        let is_its = |it: &Member| it.run.as_ref().is_some_and(|it| it.abort.id() == id);
        let index = self.members.iter().position(is_its);
        let index = index.expect("a child keeps its run until that has ended");
        self.on_ended(index, exit, now);
    }

    fn on_ended(&mut self, index: usize, exit: Exit, now: Instant) {
        let child = &mut self.members[index];
        let run = child.run.take().expect("it has just ended");
        let was_told = run.leaving.is_some() && run.broken.is_none();
        let error = run.broken.or(exit.err());
        let was_aborted = run.leaving.is_some_and(|it| matches!(it.step, Step::Aborted(_)));
        // Being aborted as it was told to stop is no error of its own.
        if error.is_some() && !(was_told && was_aborted) {
            child.told.health.last_error.clone_from(&error);
        }
        if was_told {
            let state = if child.wanted { ChildState::Waiting } else { ChildState::Stopped };
            child.set_state(state, now);
            return;
        }
        let wants_restart = match child.spec.restart {
            RestartPolicy::Permanent => true,
            RestartPolicy::Transient => error.is_some(),
            RestartPolicy::Temporary => false,
        };
        if child.wanted && wants_restart {
            let lifetime = now - run.signs.began();
            self.restart(index, error, lifetime, now);
            return;
        }
        child.wanted = false;
        child.set_down(error.as_deref(), now);
    }

    /// Restarts a child that failed, and those that go with it; or gives up.
    fn restart(&mut self, index: usize, error: Option<Arc<str>>, lifetime: Duration, now: Instant) {
        if let Err(n_restarts) = self.restarts.allow(now) {
            let child = &mut self.members[index];
            child.wanted = false;
            child.set_down(error.as_deref(), now);
            let name = Arc::clone(&child.spec.name);
            let error = error.unwrap_or_else(|| "it ended, and is permanent".into());
            tracing::warn!(child = &*name, error = &*error, "a supervisor gives up");
            let period = self.restarts.period();
            self.escalation = Some(Escalation { child: name, n_restarts, period, error });
            self.stop_all(now);
            return;
        }
        let child = &mut self.members[index];
        child.n_failures = self.restarts.n_failures(child.n_failures, lifetime);
        let delay = self.restarts.delay(child.n_failures);
        child.due = now + delay;
        child.set_state(ChildState::Waiting, now);
        let error = error.as_deref().unwrap_or("none");
        tracing::warn!(child = &*child.spec.name, error, ?delay, "a child ended; it is restarted");
        let others = match self.strategy {
            RestartStrategy::OneForOne => return,
            RestartStrategy::OneForAll => &mut self.members[..],
            RestartStrategy::RestForOne => &mut self.members[index + 1..],
        };
        for other in others.iter_mut().filter(|it| it.wanted) {
            other.due = other.due.max(now + delay);
            if other.run.is_some() {
                other.wanted = other.spec.restart != RestartPolicy::Temporary;
                other.leave(true, now);
            }
        }
    }

    fn on_command(&mut self, command: Command, now: Instant) {
        let Command { index, wish, answer } = command;
        if self.ending {
            return; // Not answered: whoever asked hears of the end.
        }
        let child = &mut self.members[index];
        let n_runs = child.told.n_runs;
        let is_leaving = child.run.as_ref().is_some_and(|it| it.leaving.is_some());
        let run = match wish {
            Wish::Start if child.run.is_some() && !is_leaving => n_runs,
            Wish::Start | Wish::Restart | Wish::Stop => n_runs + 1,
        };
        child.wanted = wish != Wish::Stop;
        match (&child.run, wish) {
            (Some(_), Wish::Stop | Wish::Restart) => child.leave(false, now),
            (Some(_), Wish::Start) => {}
            (None, Wish::Stop) => child.set_down(None, now),
            (None, Wish::Start | Wish::Restart) => child.set_state(ChildState::Starting, now),
        }
        child.due = now;
        child.n_failures = 0;
        self.answer = Some((answer, run));
    }

    pub(super) fn stop_all(&mut self, now: Instant) {
        self.ending = true;
        for child in &mut self.members {
            child.wanted = false;
            if child.run.is_some() {
                child.leave(true, now);
            } else if !child.told.health.state.is_down() {
                child.set_state(ChildState::Stopped, now);
            }
        }
    }
}

fn exit_of(ended: Result<Result<(), BoxError>, Panicked>) -> Exit {
    match ended {
        Ok(returned) => returned.map_err(|error| text_of(&*error)),
        Err(panicked) => Err(panicked.to_string().into()),
    }
}

fn exit_of_error(error: JoinError) -> Exit {
    match error.try_into_panic() {
        Ok(payload) => Err(Panicked::told_by_hook(payload.as_ref()).to_string().into()),
        Err(_) => Err("it was aborted".into()),
    }
}

/// An error with its causes, as one line.
fn text_of(error: &(dyn std::error::Error + 'static)) -> Arc<str> {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text.into()
}
