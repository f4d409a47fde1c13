//! The rules: what each command does to a job in each state.
//!
//! # Invariants
//! - A fence is never reused, so a worker that lost its lease cannot finish the job.
//! - An ended job moves only by an operator's [`Command::Retry`].
//! - Lost, interrupted and snoozed attempts are given back.

use std::fmt;

use crate::{
    CRASHES_MAX, DependencyPolicy, FailReason, Fence, Job, Life, NodeId, Outcome, Roll, Rules,
    State, StateName, Time,
};

/// What can be done to a job that exists.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Command {
    /// A job it depends on ended.
    DependencyEnded {
        /// Whether it succeeded.
        succeeded: bool,
    },
    /// Its time may have come.
    Due,
    /// A node takes it.
    Claim {
        /// Which node.
        node: NodeId,
    },
    /// Its attempt ended.
    Finish {
        /// The fence that the attempt was given.
        fence: Fence,
        /// How it ended.
        outcome: Outcome,
        /// Chance, for the jitter of a retry.
        roll: Roll,
    },
    /// The node that held its lease is dead.
    OwnerLost,
    /// Somebody wants it to end.
    Cancel,
    /// An operator wants it to run again.
    Retry,
    /// Its deadline may have passed.
    Expire,
}

/// What the world must be told, in the same transaction, when a job has moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// A fact for the event log.
    Event(EventKind),
    /// An attempt ended with this outcome (`None`: it was lost with its node): record it.
    AttemptEnded(Option<Outcome>),
    /// The job ended: its unique key is free, and its dependents hear of it.
    Ended {
        /// Whether it succeeded.
        succeeded: bool,
    },
}

/// A fact about a job, in the past tense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum EventKind {
    JobSubmitted,
    JobReady,
    JobClaimed,
    JobSucceeded,
    JobRetrying,
    JobFailed,
    JobSnoozed,
    JobInterrupted,
    JobLost,
    JobCancelRequested,
    JobCancelled,
    JobRetried,
}

impl EventKind {
    /// Every kind. Its place here is its code on disk: append only.
    pub const ALL: [EventKind; 12] = [
        EventKind::JobSubmitted,
        EventKind::JobReady,
        EventKind::JobClaimed,
        EventKind::JobSucceeded,
        EventKind::JobRetrying,
        EventKind::JobFailed,
        EventKind::JobSnoozed,
        EventKind::JobInterrupted,
        EventKind::JobLost,
        EventKind::JobCancelRequested,
        EventKind::JobCancelled,
        EventKind::JobRetried,
    ];

    /// Whether the job ended with it.
    #[must_use]
    pub fn is_end(self) -> bool {
        matches!(self, EventKind::JobSucceeded | EventKind::JobFailed | EventKind::JobCancelled)
    }
}

/// Why a command did nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The fence is not the current one: the lease was lost.
    StaleFence {
        /// The current fence.
        current: Fence,
    },
    /// This very attempt is already recorded, so saying it again changes nothing.
    AlreadyFinished,
    /// The command means nothing in this state.
    WrongState {
        /// The state the job is in.
        state: StateName,
    },
    /// It is too early: neither due nor expired.
    NotYet,
    /// The deadline has passed: the job must expire, not run.
    Expired,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::StaleFence { current } => {
                write!(f, "the lease was lost: the fence is now {}", current.0)
            }
            Refusal::AlreadyFinished => f.write_str("the attempt is already recorded"),
            Refusal::WrongState { state } => write!(f, "the job is {state}"),
            Refusal::NotYet => f.write_str("it is too early"),
            Refusal::Expired => f.write_str("the deadline of the job has passed"),
        }
    }
}

impl std::error::Error for Refusal {}

impl Job {
    /// A new job that waits for `n_unfinished` others.
    #[must_use]
    pub fn submit(now: Time, rules: Rules, n_unfinished: u32) -> Job {
        let state = if 0 < n_unfinished {
            State::Blocked { n_unfinished }
        } else {
            ready_or_delayed(now, &rules)
        };
        Job { state, rules, life: Life::default() }
    }
}

fn ready_or_delayed(now: Time, rules: &Rules) -> State {
    match rules.run_at {
        Some(at) if now < at => State::Delayed { at },
        _ => State::Ready,
    }
}

/// Applies `command` to `job` at `now`, and says what must be told in the same transaction.
///
/// # Errors
/// [`Refusal`] when the command means nothing here; the job stays as it is.
pub fn apply(now: Time, job: &Job, command: Command) -> Result<(Job, Vec<Effect>), Refusal> {
    match command {
        Command::DependencyEnded { succeeded } => dependency_ended(now, job, succeeded),
        Command::Due => due(now, job),
        Command::Claim { node } => claim(now, job, node),
        Command::Finish { fence, outcome, roll } => finish(now, job, fence, (outcome, roll)),
        Command::OwnerLost => owner_lost(job),
        Command::Cancel => cancel(job),
        Command::Retry => retry(job),
        Command::Expire => expire(now, job),
    }
}

type Applied = Result<(Job, Vec<Effect>), Refusal>;

fn moved(job: &Job, state: State, life: Life, effects: Vec<Effect>) -> Applied {
    Ok((Job { state, rules: job.rules, life }, effects))
}

fn ended(job: &Job, state: State, life: Life, mut effects: Vec<Effect>) -> Applied {
    let (kind, succeeded) = match state {
        State::Succeeded => (EventKind::JobSucceeded, true),
        State::Cancelled => (EventKind::JobCancelled, false),
        _ => (EventKind::JobFailed, false),
    };
    effects.push(Effect::Event(kind));
    effects.push(Effect::Ended { succeeded });
    moved(job, state, Life { cancel_requested: false, ..life }, effects)
}

fn wrong_state(job: &Job) -> Applied {
    Err(Refusal::WrongState { state: job.state.name() })
}

fn dependency_ended(now: Time, job: &Job, succeeded: bool) -> Applied {
    let State::Blocked { n_unfinished } = job.state else { return wrong_state(job) };
    if !succeeded && job.rules.on_dependency_failure == DependencyPolicy::Cancel {
        return ended(job, State::Cancelled, job.life, vec![]);
    }
    if 1 < n_unfinished {
        let state = State::Blocked { n_unfinished: n_unfinished - 1 };
        return moved(job, state, job.life, vec![]);
    }
    let state = ready_or_delayed(now, &job.rules);
    let effects =
        if state == State::Ready { vec![Effect::Event(EventKind::JobReady)] } else { vec![] };
    moved(job, state, job.life, effects)
}

fn due(now: Time, job: &Job) -> Applied {
    match job.state {
        State::Delayed { at } | State::Retrying { at } if at <= now => {
            moved(job, State::Ready, job.life, vec![Effect::Event(EventKind::JobReady)])
        }
        State::Delayed { .. } | State::Retrying { .. } => Err(Refusal::NotYet),
        _ => wrong_state(job),
    }
}

fn is_expired(now: Time, rules: &Rules) -> bool {
    rules.deadline.is_some_and(|deadline| deadline <= now)
}

fn claim(now: Time, job: &Job, node: NodeId) -> Applied {
    if job.state != State::Ready {
        return wrong_state(job);
    }
    if is_expired(now, &job.rules) {
        return Err(Refusal::Expired);
    }
    let life = Life { attempts: job.life.attempts + 1, fence: job.life.fence.next(), ..job.life };
    moved(job, State::Running { node }, life, vec![Effect::Event(EventKind::JobClaimed)])
}

fn finish(now: Time, job: &Job, fence: Fence, (outcome, roll): (Outcome, Roll)) -> Applied {
    if fence != job.life.fence {
        return Err(Refusal::StaleFence { current: job.life.fence });
    }
    let State::Running { .. } = job.state else { return Err(Refusal::AlreadyFinished) };
    let recorded = vec![Effect::AttemptEnded(Some(outcome))];
    let given_back = Life { attempts: job.life.attempts - 1, ..job.life };
    match outcome {
        Outcome::Succeeded => ended(job, State::Succeeded, job.life, recorded),
        Outcome::Cancelled => ended(job, State::Cancelled, job.life, recorded),
        _ if job.life.cancel_requested => ended(job, State::Cancelled, job.life, recorded),
        Outcome::Errored { permanent: true, .. } => {
            ended(job, State::Failed { reason: FailReason::Permanent }, job.life, recorded)
        }
        Outcome::Errored { permanent: false, hint } => {
            let delay = job.rules.retry.delay(job.life.attempts, roll, hint);
            retry_after(now, job, delay, recorded)
        }
        Outcome::TimedOut => {
            let delay = job.rules.retry.delay(job.life.attempts, roll, None);
            retry_after(now, job, delay, recorded)
        }
        Outcome::Snoozed { delay } => {
            let life = Life { snoozes: job.life.snoozes + 1, ..given_back };
            let mut effects = recorded;
            effects.push(Effect::Event(EventKind::JobSnoozed));
            moved(job, State::Delayed { at: now + delay }, life, effects)
        }
        Outcome::Interrupted => {
            let mut effects = recorded;
            effects.push(Effect::Event(EventKind::JobInterrupted));
            moved(job, State::Ready, given_back, effects)
        }
    }
}

fn retry_after(
    now: Time,
    job: &Job,
    delay: Option<std::time::Duration>,
    mut effects: Vec<Effect>,
) -> Applied {
    let Some(delay) = delay else {
        return ended(job, State::Failed { reason: FailReason::Exhausted }, job.life, effects);
    };
    let at = now + delay;
    if is_expired(at, &job.rules) {
        return ended(job, State::Failed { reason: FailReason::Deadline }, job.life, effects);
    }
    effects.push(Effect::Event(EventKind::JobRetrying));
    moved(job, State::Retrying { at }, job.life, effects)
}

fn owner_lost(job: &Job) -> Applied {
    let State::Running { .. } = job.state else { return wrong_state(job) };
    let life = Life { attempts: job.life.attempts - 1, crashes: job.life.crashes + 1, ..job.life };
    let mut effects = vec![Effect::AttemptEnded(None), Effect::Event(EventKind::JobLost)];
    if job.life.cancel_requested {
        return ended(job, State::Cancelled, life, effects);
    }
    if CRASHES_MAX <= life.crashes {
        return ended(job, State::Failed { reason: FailReason::Quarantined }, life, effects);
    }
    effects.push(Effect::Event(EventKind::JobReady));
    moved(job, State::Ready, life, effects)
}

fn cancel(job: &Job) -> Applied {
    match job.state {
        State::Delayed { .. } | State::Blocked { .. } | State::Ready | State::Retrying { .. } => {
            ended(job, State::Cancelled, job.life, vec![])
        }
        // Asking twice is asking once.
        State::Running { .. } if job.life.cancel_requested => {
            moved(job, job.state.clone(), job.life, vec![])
        }
        State::Running { .. } => {
            let life = Life { cancel_requested: true, ..job.life };
            let effects = vec![Effect::Event(EventKind::JobCancelRequested)];
            moved(job, job.state.clone(), life, effects)
        }
        State::Succeeded | State::Failed { .. } | State::Cancelled => wrong_state(job),
    }
}

fn retry(job: &Job) -> Applied {
    match job.state {
        State::Succeeded | State::Failed { .. } | State::Cancelled => {
            // The deadline was for the first life; an operator's retry is a new one.
            let rules = Rules { deadline: None, ..job.rules };
            let life = Life { fence: job.life.fence, ..Life::default() };
            let effects = vec![Effect::Event(EventKind::JobRetried)];
            Ok((Job { state: State::Ready, rules, life }, effects))
        }
        _ => wrong_state(job),
    }
}

fn expire(now: Time, job: &Job) -> Applied {
    match job.state {
        State::Delayed { .. } | State::Blocked { .. } | State::Ready | State::Retrying { .. } => {
            if !is_expired(now, &job.rules) {
                return Err(Refusal::NotYet);
            }
            ended(job, State::Failed { reason: FailReason::Deadline }, job.life, vec![])
        }
        _ => wrong_state(job),
    }
}
