//! What a committed call has done: its question and its answer, for the book to check.

use taskloom_model::{NodeId, Refusal, StateName};
use taskloom_store::{Accepted, Answer, Changed, Claimed, Demand, Finish, NewJob, Rescued};

#[derive(Debug, Clone, Copy)]
pub(crate) enum Deed<'a> {
    Submit { jobs: &'a [NewJob], accepted: &'a [Accepted] },
    Work(Work<'a>),
    Release,
    Register { node: NodeId },
    Retire { node: NodeId },
    Heartbeat { node: NodeId, answer: &'a Answer },
    Promote,
    Rescue { rescued: &'a [Rescued] },
    Cancel { ids: &'a [taskloom_model::JobId], changed: &'a [Changed] },
    Retry { ids: &'a [taskloom_model::JobId], changed: &'a [Changed] },
    Prune,
}

/// A claim, or a finish with its claim.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work<'a> {
    pub(crate) view: usize,
    pub(crate) node: NodeId,
    pub(crate) ended: &'a [Finish],
    pub(crate) outcomes: &'a [Result<StateName, Refusal>],
    pub(crate) demands: &'a [Demand],
    pub(crate) claimed: &'a [Claimed],
}

impl<'a> Deed<'a> {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Deed::Submit { .. } => "submit",
            Deed::Work(_) => "work",
            Deed::Release => "release",
            Deed::Register { .. } => "register",
            Deed::Retire { .. } => "retire",
            Deed::Heartbeat { .. } => "heartbeat",
            Deed::Promote => "promote",
            Deed::Rescue { .. } => "rescue",
            Deed::Cancel { .. } => "cancel",
            Deed::Retry { .. } => "retry",
            Deed::Prune => "prune",
        }
    }

    pub(crate) fn work(&self) -> Option<&Work<'a>> {
        if let Deed::Work(work) = self { Some(work) } else { None }
    }

    /// The ended attempt of a job that this call told of.
    pub(crate) fn finish_of(&self, key: u64, fence: u64) -> Option<&'a Finish> {
        let ended = self.work()?.ended;
        ended.iter().find(|it| it.id.key() == key && it.fence.0 == fence)
    }
}
