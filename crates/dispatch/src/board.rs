//! The board: the attempts under way on this node, for the heartbeat and for cancellation.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
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
    /// What attempts have said and the store could not keep; the heartbeat's alone.
    unsent: Mutex<Unsent>,
}

/// How many lines of log wait for a store that is out of reach; what comes then is lost.
const UNSENT_LINES_MAX: usize = 10_000;
/// Of how many attempts something waits for it.
const UNSENT_MAX: usize = 10_000;

/// What a heartbeat could not deliver.
#[derive(Debug, Default)]
struct Unsent {
    signs: BTreeMap<(JobId, Fence), Sign>,
    n_lines: usize,
}

impl Unsent {
    fn add(&mut self, sign: Sign) {
        let n_new = sign.logs.len();
        if UNSENT_LINES_MAX < self.n_lines + n_new || UNSENT_MAX <= self.signs.len() {
            tracing::warn!(job = %sign.id, n = n_new, "lines of log are lost: too many wait");
            return;
        }
        self.n_lines += n_new;
        match self.signs.entry((sign.id, sign.fence)) {
            Entry::Vacant(vacant) => drop(vacant.insert(sign)),
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                known.logs.extend(sign.logs);
                known.progress = sign.progress.or(known.progress.take());
            }
        }
    }
}

impl Board {
    pub(crate) fn new(node: NodeId) -> Self {
        let pulse = Mutex::new(Pulse::starting(Instant::now()));
        let (attempts, unsent) = (Mutex::default(), Mutex::default());
        Board { node: watch::Sender::new(node), attempts, pulse, unsent }
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

    /// What the attempts have said since the last call, and what was put back.
    pub(crate) fn take_signs(&self) -> Vec<Sign> {
        let mut unsent = std::mem::take(&mut *self.unsent.lock());
        let attempts = self.attempts.lock();
        let signs = attempts.iter().filter_map(|(&id, (fence, ctx))| {
            let (progress, lines) = ctx.take_signs();
            if progress.is_none() && lines.is_empty() {
                return None;
            }
            let progress = progress.map(|it| (it.fraction, it.message));
            Some(Sign { id, fence: *fence, progress, logs: new_logs(lines) })
        });
        signs.for_each(|it| unsent.add(it));
        unsent.signs.into_values().collect()
    }

    /// Keeps for the next call what the store could not keep. When it had kept it and only its
    /// answer was lost, lines are written twice.
    pub(crate) fn put_back(&self, signs: Vec<Sign>) {
        let mut unsent = self.unsent.lock();
        signs.into_iter().for_each(|it| unsent.add(it));
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
    use taskloom_model::Time;

    use super::*;

    const BEAT: Duration = Duration::from_secs(1);

    fn sign(fraction: Option<f64>, texts: &[&str]) -> Sign {
        let line = |it: &&str| NewLog { at: Time::default(), level: "info", text: (*it).into() };
        Sign {
            id: JobId::compose(Time::default(), 1, 2),
            fence: Fence(3),
            progress: fraction.map(|it| (it, String::new())),
            logs: texts.iter().map(line).collect(),
        }
    }

    #[test]
    fn what_was_put_back_is_told_again_with_what_came_since_in_one_sign() {
        let mut unsent = Unsent::default();
        unsent.add(sign(Some(0.1), &["one"]));
        unsent.add(sign(None, &["two"]));
        unsent.add(sign(Some(0.3), &["three"]));
        let told: Vec<_> = unsent.signs.into_values().collect();
        let expected = sign(Some(0.3), &["one", "two", "three"]);
        assert_eq!(told.len(), 1);
        assert_eq!((&told[0].progress, &told[0].logs), (&expected.progress, &expected.logs));
    }

    #[test]
    fn what_waits_for_the_store_has_a_bound() {
        let mut unsent = Unsent::default();
        for _ in 0..UNSENT_LINES_MAX + 5 {
            unsent.add(sign(None, &["again"]));
        }
        assert_eq!(
            unsent.signs.into_values().map(|it| it.logs.len()).sum::<usize>(),
            UNSENT_LINES_MAX
        );
    }

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
