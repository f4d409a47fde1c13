//! One child as the loop keeps it: its run, its promises, and how far its stop has come.

use std::sync::Arc;
use std::time::Duration;

use crate::Cancellation;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::child::{ChildSpec, Signs};
use super::health::{ChildState, Told};

/// How long an aborted run has to let go of what it holds, before the end stops waiting for it. A
/// future is dropped at its next `.await`; only one stuck in blocking code takes longer.
const ABORT_WAIT: Duration = Duration::from_secs(1);

pub(super) struct Member {
    pub(super) spec: ChildSpec,
    /// Whether it should be up. Cleared when it is stopped, or ended for good.
    pub(super) wanted: bool,
    /// Not started before this moment.
    pub(super) due: Instant,
    /// Failures in a row.
    pub(super) n_failures: u32,
    pub(super) run: Option<Run>,
    pub(super) told: Told,
    /// Whether `told` has changed since it was published.
    pub(super) changed: bool,
}

pub(super) struct Run {
    pub(super) abort: AbortHandle,
    pub(super) stop: Cancellation,
    pub(super) signs: Arc<Signs>,
    /// A promise it broke, for which it is stopped; its end then counts as a failure.
    pub(super) broken: Option<Arc<str>>,
    pub(super) leaving: Option<Leaving>,
}

/// How far the stop of a run has come.
#[derive(Clone, Copy)]
pub(super) struct Leaving {
    /// Whether it waits for later children that leave in order too.
    pub(super) in_order: bool,
    pub(super) step: Step,
}

#[derive(Clone, Copy)]
pub(super) enum Step {
    /// To be told, when its turn has come.
    Asked,
    /// Its token has fired; it is aborted at this moment.
    Told(Instant),
    /// It was aborted at this moment.
    Aborted(Instant),
}

impl Member {
    pub(super) fn new(spec: ChildSpec, now: Instant) -> Member {
        let told = Told::new(&spec.name);
        Member { spec, wanted: true, due: now, n_failures: 0, run: None, told, changed: true }
    }

    pub(super) fn set_state(&mut self, state: ChildState, now: Instant) {
        if self.told.health.state != state {
            self.told.health.since = now;
        }
        self.told.health.state = state;
        self.changed = true;
    }

    /// Down for good, whether after an error or not.
    pub(super) fn set_down(&mut self, error: Option<&str>, now: Instant) {
        let state = if error.is_some() { ChildState::Failed } else { ChildState::Stopped };
        self.set_state(state, now);
    }

    /// Asks its run to stop; one that leaves already keeps its step.
    pub(super) fn leave(&mut self, in_order: bool, now: Instant) {
        let run = self.run.as_mut().expect("callers have looked for it");
        let step = run.leaving.map_or(Step::Asked, |it| it.step);
        let in_order = in_order || run.leaving.is_some_and(|it| it.in_order);
        run.leaving = Some(Leaving { in_order, step });
        self.set_state(ChildState::Stopping, now);
    }

    pub(super) fn leaves_in_order(&self) -> bool {
        let leaving = self.run.as_ref().and_then(|it| it.leaving);
        leaving.is_some_and(|it| it.in_order)
    }

    /// Whether it became ready, or broke a promise.
    pub(super) fn look_for_signs(&mut self, now: Instant) {
        let Some(run) = self.run.as_ref().filter(|it| it.leaving.is_none()) else { return };
        if self.told.health.state == ChildState::Starting && run.signs.is_ready() {
            self.set_state(ChildState::Running, now);
        }
        if self.promise_due().is_none_or(|due| now < due) {
            return;
        }
        let broken = match (self.told.health.state, self.spec.heartbeat, self.spec.ready_within) {
            (ChildState::Starting, _, Some(span)) => format!("not ready within {span:?}"),
            (_, Some(every), _) => format!("no heartbeat for {every:?}"),
            (_, None, _) => return,
        };
        tracing::warn!(child = &*self.spec.name, broken, "a child broke a promise; it is stopped");
        self.run.as_mut().expect("it was there above").broken = Some(broken.into());
        self.leave(false, now);
    }

    /// Until when it must give its next sign.
    pub(super) fn promise_due(&self) -> Option<Instant> {
        let run = self.run.as_ref().filter(|it| it.leaving.is_none())?;
        if self.told.health.state == ChildState::Starting {
            return Some(run.signs.began() + self.spec.ready_within?);
        }
        let last_sign = run.signs.last_beat().max(Some(self.told.health.since));
        Some(last_sign? + self.spec.heartbeat?)
    }

    /// Takes the stop of its run as far as it goes now. `waits` says that a later child leaves
    /// in order, and is handed on to the earlier ones.
    pub(super) fn advance_stop(&mut self, now: Instant, waits: &mut bool) {
        let Some(run) = &mut self.run else { return };
        let Some(leaving) = &mut run.leaving else { return };
        if matches!(leaving.step, Step::Asked) && !(leaving.in_order && *waits) {
            run.stop.cancel("its supervisor stops it");
            leaving.step = Step::Told(now + self.spec.grace);
        }
        if matches!(leaving.step, Step::Told(until) if until <= now) {
            run.abort.abort();
            leaving.step = Step::Aborted(now);
        }
        *waits |= leaving.in_order && !run.is_stuck(now);
    }

    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let Some(run) = &self.run else {
            return Some(self.due).filter(|due| self.wanted && now < *due);
        };
        match run.leaving.map(|it| it.step) {
            None => self.promise_due(),
            Some(Step::Asked) => None,
            Some(Step::Told(until)) => Some(until),
            Some(Step::Aborted(at)) => Some(at + ABORT_WAIT).filter(|it| now < *it),
        }
    }
}

impl Run {
    /// Aborted, and not gone in time: stuck in code that doesn't await.
    pub(super) fn is_stuck(&self, now: Instant) -> bool {
        let step = self.leaving.map(|it| it.step);
        matches!(step, Some(Step::Aborted(at)) if at + ABORT_WAIT <= now)
    }
}
