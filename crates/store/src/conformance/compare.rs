//! Telling differences.

use std::fmt::Debug;

use taskloom_model::{FailReason, State, Time};

use super::world::Known;
use crate::JobView;

/// Whether two values are the same, and both when they are not.
pub(super) fn same<T: PartialEq + Debug>(
    what: impl std::fmt::Display,
    actual: &T,
    expected: &T,
) -> Result<(), String> {
    if actual == expected {
        return Ok(());
    }
    Err(format!("{what}: the store says {actual:?}, the model {expected:?}"))
}

/// Compares everything a reader sees of a job.
pub(super) fn same_job(view: &JobView, known: &Known) -> Result<(), String> {
    let id = view.id;
    let (job, new) = (&known.job, &known.new);
    let what = |part: &str| format!("{part} of job {id}, {} in the model", job.state.name());
    same(what("state"), &view.state, &job.state.name())?;
    same(what("reason"), &view.reason, &reason(&job.state))?;
    same(what("due time"), &view.due, &due(&job.state))?;
    let life = &job.life;
    same(what("attempts"), &view.attempts, &life.attempts)?;
    same(what("crashes"), &view.crashes, &life.crashes)?;
    same(what("snoozes"), &view.snoozes, &life.snoozes)?;
    same(what("fence"), &view.fence, &life.fence)?;
    same(what("cancel intent"), &view.cancel_requested, &life.cancel_requested)?;
    same(what("unfinished dependencies"), &view.n_unfinished, &n_unfinished(&job.state))?;
    same(what("creation"), &view.created, &known.created)?;
    same(what("end"), &view.ended, &known.ended)?;
    same(what("deadline"), &view.deadline, &job.rules.deadline)?;
    same(what("max attempts"), &view.max_attempts, &job.rules.retry.max_attempts)?;
    same(what("task"), &view.task, &new.task)?;
    same(what("queue"), &view.queue, &new.queue)?;
    same(what("priority"), &view.priority, &new.priority)?;
    same(what("key"), &view.key, &new.key)?;
    same(what("unique text"), &view.unique, &new.unique)?;
    let timeout_ms = new.timeout.map(|it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX));
    same(what("timeout"), &view.timeout_ms, &timeout_ms)?;
    same(what("arguments"), &view.args.get(), &new.args.as_str())?;
    same(what("result"), &view.result.as_deref().map(|it| it.get()), &known.result.as_deref())?;
    same(what("progress"), &view.progress, &known.progress)?;
    let error = known.attempts.last().and_then(|it| it.error.clone());
    same(what("error"), &view.error, &error)?;
    match (&job.state, known.ran) {
        (&State::Running { node }, _) => {
            same(what("lease"), &(view.node, view.started), &(Some(node), Some(known.started)))
        }
        (state, Some((node, started))) if state.name().is_ended() => {
            same(what("last attempt"), &(view.node, view.started), &(Some(node), Some(started)))
        }
        _ => Ok(()),
    }
}

fn reason(state: &State) -> Option<FailReason> {
    if let State::Failed { reason } = state { Some(*reason) } else { None }
}

fn n_unfinished(state: &State) -> Option<u32> {
    if let State::Blocked { n_unfinished } = state { Some(*n_unfinished) } else { None }
}

pub(super) fn due(state: &State) -> Option<Time> {
    match state {
        State::Delayed { at } | State::Retrying { at } => Some(*at),
        _ => None,
    }
}
