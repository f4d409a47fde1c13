//! The board: the attempts under way on this node, for the heartbeat and for cancellation.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use taskloom_model::{Fence, JobId, NodeId};
use taskloom_store::{NewLog, Sign};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::{CancelReason, Ctx, LogLine};

/// A node that could give no sign of life for this long, of the lease of 30 s, knows nothing of
/// the signs of others either: the store was out of reach, or it was stopped itself.
const OUTAGE: Duration = Duration::from_secs(10);
/// How long others may take to give a sign of life after an outage.
const AFTERMATH: Duration = Duration::from_secs(3);

/// The signs of life of this node that the store has kept.
#[derive(Debug)]
struct Pulse {
    last: Instant,
    /// From when on a silent node is a dead one.
    trusted_from: Instant,
}

impl Pulse {
    fn starting(now: Instant) -> Pulse {
        Pulse { last: now, trusted_from: now }
    }

    fn beat(&mut self, now: Instant) {
        if OUTAGE < now - self.last {
            self.trusted_from = now + AFTERMATH;
        }
        self.last = now;
    }

    fn is_steady(&self, now: Instant) -> bool {
        now - self.last <= OUTAGE && self.trusted_from <= now
    }
}

/// The attempts under way. The dispatcher writes; the heartbeat and the drain read.
#[derive(Debug)]
pub(crate) struct Board {
    /// Written by the heartbeat; the dispatcher hears of it.
    node: watch::Sender<NodeId>,
    /// In order, so that one seed is one history in a simulation.
    attempts: Mutex<BTreeMap<JobId, (Fence, Ctx)>>,
    /// Written by the heartbeat, read by the rescue.
    pulse: Mutex<Pulse>,
}

impl Board {
    pub(crate) fn new(node: NodeId) -> Self {
        let pulse = Mutex::new(Pulse::starting(Instant::now()));
        Board { node: watch::Sender::new(node), attempts: Mutex::default(), pulse }
    }

    /// The store has kept a sign of life.
    pub(crate) fn has_beaten(&self) {
        self.pulse.lock().beat(Instant::now());
    }

    /// Whether the silence of another node means anything: not while nobody could be heard, and
    /// not just after.
    pub(crate) fn may_judge(&self) -> bool {
        self.pulse.lock().is_steady(Instant::now())
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

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: Duration = Duration::from_secs(1);

    #[test]
    fn after_an_outage_nobody_is_judged_before_they_could_be_heard() {
        let mut now = Instant::now();
        let mut pulse = Pulse::starting(now);
        for _ in 0..5 {
            assert!(pulse.is_steady(now));
            now += BEAT;
            pulse.beat(now);
        }
        now += 36 * BEAT;
        assert!(!pulse.is_steady(now), "it was not heard itself");
        pulse.beat(now);
        assert!(!pulse.is_steady(now), "others had no time yet");
        now += BEAT;
        pulse.beat(now);
        assert!(!pulse.is_steady(now));
        now += AFTERMATH - BEAT;
        pulse.beat(now);
        assert!(pulse.is_steady(now));
        now += OUTAGE;
        assert!(pulse.is_steady(now), "a short outage makes nobody look dead");
    }
}
