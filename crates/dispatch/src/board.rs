//! The board: the attempts under way on this node, for the heartbeat and for cancellation.

use std::collections::HashMap;

use parking_lot::Mutex;
use taskloom_model::{Fence, JobId, NodeId};
use taskloom_store::{NewLog, Sign};
use tokio::sync::watch;

use crate::{CancelReason, Ctx, LogLine};

/// The attempts under way. The dispatcher writes; the heartbeat and the drain read.
#[derive(Debug)]
pub(crate) struct Board {
    /// Written by the heartbeat; the dispatcher hears of it.
    node: watch::Sender<NodeId>,
    attempts: Mutex<HashMap<JobId, (Fence, Ctx)>>,
}

impl Board {
    pub(crate) fn new(node: NodeId) -> Self {
        Board { node: watch::Sender::new(node), attempts: Mutex::default() }
    }

    /// The node that this process is now. It changes when it was taken for dead.
    pub(crate) fn node(&self) -> NodeId {
        *self.node.borrow()
    }

    /// Tells when this process has become another node.
    pub(crate) fn watch_node(&self) -> watch::Receiver<NodeId> {
        self.node.subscribe()
    }

    /// This process is another node now: whatever runs has lost its lease.
    pub(crate) fn reborn(&self, node: NodeId) {
        self.cancel_all(CancelReason::LeaseLost);
        self.node.send_replace(node);
    }

    pub(crate) fn add(&self, id: JobId, fence: Fence, ctx: Ctx) {
        self.attempts.lock().insert(id, (fence, ctx));
    }

    /// Takes an attempt off. A later one of the same job stays.
    pub(crate) fn remove(&self, id: JobId, fence: Fence) {
        let mut attempts = self.attempts.lock();
        if attempts.get(&id).is_some_and(|(it, _)| *it == fence) {
            attempts.remove(&id);
        }
    }

    pub(crate) fn cancel(&self, id: JobId, fence: Fence, reason: CancelReason) {
        let attempts = self.attempts.lock();
        if let Some((current, ctx)) = attempts.get(&id)
            && *current == fence
        {
            ctx.cancel(reason);
        }
    }

    /// Cancels whatever attempt of a job is under way here, by request.
    pub(crate) fn cancel_job(&self, id: JobId) {
        if let Some((_, ctx)) = self.attempts.lock().get(&id) {
            ctx.cancel(CancelReason::Requested);
        }
    }

    pub(crate) fn cancel_all(&self, reason: CancelReason) {
        for (_, ctx) in self.attempts.lock().values() {
            ctx.cancel(reason);
        }
    }

    /// What the attempts have said since the last call.
    pub(crate) fn take_signs(&self) -> Vec<Sign> {
        let attempts = self.attempts.lock();
        let signs = attempts.iter().filter_map(|(&id, (fence, ctx))| {
            let (progress, lines) = ctx.take_signs();
            if progress.is_none() && lines.is_empty() {
                return None;
            }
            let progress = progress.map(|it| (it.fraction, it.message));
            Some(Sign { id, fence: *fence, progress, logs: new_logs(lines) })
        });
        signs.collect()
    }

    pub(crate) fn ids(&self) -> Vec<(JobId, Fence)> {
        self.attempts.lock().iter().map(|(&id, (fence, _))| (id, *fence)).collect()
    }
}

/// Lines of log as the store takes them.
pub(crate) fn new_logs(lines: Vec<LogLine>) -> Vec<NewLog> {
    let lines = lines.into_iter();
    lines.map(|it| NewLog { at: it.at, level: it.level.as_str(), text: it.text }).collect()
}
