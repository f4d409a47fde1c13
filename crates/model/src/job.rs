//! A job as the rules see it: its state, its rules, and what its life has used up.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Fence, NodeId, RetryPolicy, Time};

/// How many crashes quarantine a job.
pub const CRASHES_MAX: u32 = 3;

/// Where a job is, with what belongs to being there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Waits for its time, not yet tried (or snoozed).
    Delayed {
        /// When it becomes ready.
        at: Time,
    },
    /// Waits for the jobs it depends on.
    Blocked {
        /// How many of them have not ended yet; at least 1.
        n_unfinished: u32,
    },
    /// Waits for a slot.
    Ready,
    /// An attempt at it is under way.
    Running {
        /// Whose attempt.
        node: NodeId,
    },
    /// Waits for its next attempt after an errored one.
    Retrying {
        /// When it becomes ready.
        at: Time,
    },
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed {
        /// Why.
        reason: FailReason,
    },
    /// Ended by request.
    Cancelled,
}

/// The name of a [`State`], one word as on disk, in JSON and on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the words are those of State")]
pub enum StateName {
    Delayed,
    Blocked,
    Ready,
    Running,
    Retrying,
    Succeeded,
    Failed,
    Cancelled,
}

impl StateName {
    /// Every state, in the order of a life.
    pub const ALL: [StateName; 8] = [
        StateName::Delayed,
        StateName::Blocked,
        StateName::Ready,
        StateName::Running,
        StateName::Retrying,
        StateName::Succeeded,
        StateName::Failed,
        StateName::Cancelled,
    ];

    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            StateName::Delayed => "delayed",
            StateName::Blocked => "blocked",
            StateName::Ready => "ready",
            StateName::Running => "running",
            StateName::Retrying => "retrying",
            StateName::Succeeded => "succeeded",
            StateName::Failed => "failed",
            StateName::Cancelled => "cancelled",
        }
    }

    /// Whether a job in this state never moves again by itself.
    #[must_use]
    pub fn is_ended(self) -> bool {
        matches!(self, StateName::Succeeded | StateName::Failed | StateName::Cancelled)
    }
}

impl fmt::Display for StateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for StateName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        StateName::ALL.into_iter().find(|it| it.as_str() == text).ok_or_else(|| {
            let all: Vec<_> = StateName::ALL.iter().map(|it| it.as_str()).collect();
            format!("no state `{text}`; states are {}", all.join(", "))
        })
    }
}

impl State {
    /// The name of the state.
    #[must_use]
    pub fn name(&self) -> StateName {
        match self {
            State::Delayed { .. } => StateName::Delayed,
            State::Blocked { .. } => StateName::Blocked,
            State::Ready => StateName::Ready,
            State::Running { .. } => StateName::Running,
            State::Retrying { .. } => StateName::Retrying,
            State::Succeeded => StateName::Succeeded,
            State::Failed { .. } => StateName::Failed,
            State::Cancelled => StateName::Cancelled,
        }
    }
}

/// Why a job failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailReason {
    /// Its attempts are used up.
    Exhausted,
    /// An attempt ended with an error that no retry can cure.
    Permanent,
    /// Its deadline passed.
    Deadline,
    /// [`CRASHES_MAX`] of its attempts died with their node.
    Quarantined,
}

impl FailReason {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            FailReason::Exhausted => "exhausted",
            FailReason::Permanent => "permanent",
            FailReason::Deadline => "deadline",
            FailReason::Quarantined => "quarantined",
        }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// With a result.
    Succeeded,
    /// With an error.
    Errored {
        /// No retry can cure it.
        permanent: bool,
        /// What the other side asked for (`Retry-After`).
        hint: Option<Duration>,
    },
    /// Stopped at its timeout.
    TimedOut,
    /// It asked to be tried later; does not count as an attempt.
    Snoozed {
        /// How much later.
        delay: Duration,
    },
    /// Its node stops; does not count as an attempt.
    Interrupted,
    /// It ended because its job was being cancelled.
    Cancelled,
}

impl Outcome {
    /// The word. The seventh outcome, `lost`, is what a rescue records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Succeeded => "succeeded",
            Outcome::Errored { .. } => "errored",
            Outcome::TimedOut => "timed_out",
            Outcome::Snoozed { .. } => "snoozed",
            Outcome::Interrupted => "interrupted",
            Outcome::Cancelled => "cancelled",
        }
    }
}

/// What happens to a job when one it depends on fails or is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DependencyPolicy {
    /// It is cancelled too.
    #[default]
    Cancel,
    /// It runs all the same.
    Run,
}

/// What was agreed when the job was submitted.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rules {
    /// When it is tried again.
    pub retry: RetryPolicy,
    /// Not before this moment.
    pub run_at: Option<Time>,
    /// Not after this moment: past it the job fails instead of starting another attempt.
    pub deadline: Option<Time>,
    /// What a failed or cancelled dependency does to it.
    pub on_dependency_failure: DependencyPolicy,
}

/// What the life of a job has used up so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Life {
    /// Attempts that count. While running, the current one is among them.
    pub attempts: u32,
    /// Attempts that died with their node, since the last operator's retry.
    pub crashes: u32,
    /// Attempts that asked to be tried later.
    pub snoozes: u32,
    /// The fence of the last claim.
    pub fence: Fence,
    /// Somebody asked to cancel it while it was running.
    pub cancel_requested: bool,
}

/// One durable request to run a task, as far as its life is concerned.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Where it is.
    pub state: State,
    /// What was agreed.
    pub rules: Rules,
    /// What is used up.
    pub life: Life,
}
