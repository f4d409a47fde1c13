//! One history: each step is drawn, done on the store and on the reference, and its answers are
//! compared.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use taskloom_model::{Command, Fence, JobId, NodeId, Outcome, Refusal, RetryPolicy, Time};

use super::compare::same;
use super::world::{Lease, Left, World};
use super::{Summary, draw, said};
use crate::{
    Changed, Claimed, Clock, Demand, EventCursor, Finish, LogView, ManualClock, Store, StoreError,
};

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Submit,
    Claim,
    Finish,
    Release,
    Beat,
    Promote,
    Wait,
    Silence,
    Cancel,
    Retry,
    Prune,
    Register,
    Retire,
}

/// How often each step is drawn, in a hundred.
const STEPS: [(Step, u32); 13] = [
    (Step::Submit, 20),
    (Step::Claim, 16),
    (Step::Finish, 22),
    (Step::Release, 3),
    (Step::Beat, 5),
    (Step::Promote, 10),
    (Step::Wait, 8),
    (Step::Silence, 3),
    (Step::Cancel, 4),
    (Step::Retry, 3),
    (Step::Prune, 1),
    (Step::Register, 3),
    (Step::Retire, 2),
];

#[derive(Debug)]
pub(super) struct Play {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: ManualClock,
    pub(super) rng: Rng,
    /// Nobody waits for anybody, and most jobs are plain: backends have shorter ways for these.
    is_plain: bool,
    pub(super) world: World,
    /// Nodes that are gone and may not know it.
    pub(super) ghosts: Vec<NodeId>,
    /// Every lease there was.
    leases: Vec<(NodeId, JobId, Fence)>,
    pub(super) cursor: EventCursor,
    /// How many events of the world are compared.
    pub(super) n_heard: usize,
    /// No event from this time on was ever to be forgotten.
    pub(super) young: Time,
    pub(super) summary: Summary,
}

type Played = Result<(), String>;

impl Play {
    pub(super) fn new(store: Arc<dyn Store>, clock: ManualClock, seed: u64) -> Play {
        Play {
            store,
            clock,
            rng: Rng::with_seed(seed),
            is_plain: seed.is_multiple_of(3),
            world: World::default(),
            ghosts: Vec::new(),
            leases: Vec::new(),
            cursor: EventCursor::START,
            n_heard: 0,
            young: Time::default(),
            summary: Summary::default(),
        }
    }

    pub(super) fn choose(&mut self) -> Step {
        if self.world.nodes.is_empty() {
            return Step::Register;
        }
        let mut place = self.rng.u32(..100);
        for (step, weight) in STEPS {
            if place < weight {
                return step;
            }
            place -= weight;
        }
        Step::Submit
    }

    pub(super) async fn step(&mut self, step: Step) -> Played {
        self.world.now = self.clock.now();
        match step {
            Step::Submit => self.submit().await,
            Step::Claim => self.claim().await,
            Step::Finish => self.finish().await,
            Step::Release => self.release().await,
            Step::Beat => {
                let node = self.any_node();
                self.beat(node).await
            }
            Step::Promote => self.promote().await,
            Step::Wait => {
                self.clock.advance(Duration::from_millis(self.rng.u64(..12_000)));
                self.world.now = self.clock.now();
                Ok(())
            }
            Step::Silence => self.silence().await,
            Step::Cancel => self.change(Command::Cancel).await,
            Step::Retry => self.change(Command::Retry).await,
            Step::Prune => self.prune().await,
            Step::Register => self.register().await,
            Step::Retire => self.retire().await,
        }
    }

    /// A node; rarely one that was taken for dead.
    pub(super) fn any_node(&mut self) -> NodeId {
        if draw::chance(&mut self.rng, 7)
            && let Some(ghost) = draw::one(&mut self.rng, &self.ghosts)
        {
            return ghost;
        }
        let nodes: Vec<_> = self.world.nodes.keys().copied().collect();
        draw::one(&mut self.rng, &nodes).unwrap_or(NodeId(0))
    }

    /// Some jobs, and rarely one that no store has.
    fn some_jobs(&mut self, max: usize) -> Vec<JobId> {
        let known: Vec<_> = self.world.jobs.keys().copied().collect();
        let n = self.rng.usize(1..=max);
        let mut ids: Vec<_> = (0..n).filter_map(|_| draw::one(&mut self.rng, &known)).collect();
        if draw::chance(&mut self.rng, 10) {
            ids.push(unknown());
        }
        ids
    }

    async fn submit(&mut self) -> Played {
        let known: Vec<_> = self.world.jobs.keys().copied().collect();
        let n = self.rng.usize(1..=6);
        let now = self.world.now;
        let rng = &mut self.rng;
        let is_plain = draw::chance(rng, if self.is_plain { 90 } else { 20 });
        let known = if self.is_plain { Vec::new() } else { known };
        let draw_one = |_| match is_plain {
            true => draw::plain_job(rng, now),
            false => draw::job(rng, now, &known),
        };
        let mut jobs: Vec<_> = (0..n).map(draw_one).collect();
        let spoiled = &mut jobs[n - 1];
        let code = match self.rng.u32(..40) {
            0 => {
                spoiled.after.push(unknown());
                Some("store.unknown_dependency")
            }
            1 => {
                spoiled.args = "{\"n\":".into();
                Some("store.args")
            }
            2 => {
                spoiled.rules.retry = RetryPolicy { max_attempts: 0, ..spoiled.rules.retry };
                Some("store.policy")
            }
            _ => None,
        };
        let answer = self.store.submit(jobs.clone()).await;
        if code.is_some() {
            return same("a refusal", &answer.map_err(|it| it.code()).err(), &code);
        }
        let accepted = answer.map_err(said)?;
        same("accepted jobs", &accepted.len(), &jobs.len())?;
        for (new, accepted) in jobs.iter().zip(accepted) {
            let is_duplicate = self.world.accept(new, accepted)?;
            self.summary.n_jobs += usize::from(!is_duplicate);
            self.summary.n_duplicates += usize::from(is_duplicate);
        }
        Ok(())
    }

    fn demands(&mut self) -> Vec<Demand> {
        (0..self.rng.usize(1..=3)).map(|_| draw::demand(&mut self.rng)).collect()
    }

    async fn claim(&mut self) -> Played {
        let (node, demands) = (self.any_node(), self.demands());
        let claimed = self.store.claim(node, demands.clone()).await.map_err(said)?;
        self.claimed(node, &demands, &claimed)
    }

    /// Compares what was claimed, and its order.
    fn claimed(&mut self, node: NodeId, demands: &[Demand], claimed: &[Claimed]) -> Played {
        let expected = self.world.claim(node, demands);
        let lease = |it: &Claimed| -> Lease { (it.id, it.demand, it.fence, it.attempt) };
        same("claimed jobs", &claimed.iter().map(lease).collect(), &expected)?;
        for it in claimed {
            let Some(known) = self.world.jobs.get(&it.id) else { continue };
            let (new, rules) = (&known.new, &known.job.rules);
            let what = |part: &str| format!("the {part} of claimed job {}", it.id);
            same(what("task"), &it.task, &new.task)?;
            same(what("queue"), &it.queue, &new.queue)?;
            same(what("priority"), &it.priority, &new.priority)?;
            same(what("arguments"), &&*it.args, &new.args.as_str())?;
            same(what("timeout"), &it.timeout, &new.timeout)?;
            same(what("deadline"), &it.deadline, &rules.deadline)?;
            same(what("max attempts"), &it.max_attempts, &rules.retry.max_attempts)?;
            self.leases.push((node, it.id, it.fence));
        }
        self.summary.n_claims += claimed.len();
        Ok(())
    }

    /// A lease: mostly a current one, else any that ever was.
    pub(super) fn any_lease(&mut self) -> Option<(NodeId, JobId, Fence)> {
        let current = self.world.running(None);
        if draw::chance(&mut self.rng, 85)
            && let Some((id, fence)) = draw::one(&mut self.rng, &current)
        {
            let is_it = |it: &&(NodeId, JobId, Fence)| (it.1, it.2) == (id, fence);
            return self.leases.iter().rev().find(is_it).copied();
        }
        draw::one(&mut self.rng, &self.leases)
    }

    async fn finish(&mut self) -> Played {
        let Some(first) = self.any_lease() else { return Ok(()) };
        let mut leases = vec![first];
        for _ in 0..self.rng.usize(..4) {
            leases.extend(self.any_lease().filter(|it| it.0 == first.0));
        }
        let now = self.world.now;
        let rng = &mut self.rng;
        let mut ended = Vec::new();
        for (_, id, fence) in leases {
            let outcome = draw::outcome(rng);
            let succeeded = outcome == Outcome::Succeeded;
            let with_error = !succeeded && rng.u32(..4) < 3;
            ended.push(Finish {
                id,
                fence,
                outcome,
                roll: draw::roll(rng),
                started: now - draw::secs(rng, 3),
                result: succeeded.then(|| format!("[{}]", rng.u16(..))),
                error: with_error.then(|| draw::error(rng)),
                logs: draw::logs(rng, now),
            });
        }
        let node = first.0;
        let demands = if self.rng.bool() { self.demands() } else { Vec::new() };
        let finished =
            self.store.finish(node, ended.clone(), demands.clone()).await.map_err(said)?;
        let expected: Vec<_> = ended.iter().map(|it| self.finish_one(node, it)).collect();
        same("outcomes", &finished.outcomes, &expected)?;
        self.claimed(node, &demands, &finished.claimed)
    }

    fn finish_one(
        &mut self,
        node: NodeId,
        ended: &Finish,
    ) -> Result<taskloom_model::StateName, Refusal> {
        let left = Left {
            node,
            started: ended.started,
            result: ended.result.as_deref(),
            error: ended.error.as_ref(),
        };
        let command =
            Command::Finish { fence: ended.fence, outcome: ended.outcome, roll: ended.roll };
        let moved = self.world.transition(ended.id, command, Some(left));
        if moved.is_ok() {
            self.summary.n_finishes += 1;
            self.keep_logs(ended.id, ended.fence, &ended.logs);
        } else {
            self.summary.n_refusals += 1;
        }
        moved
    }

    pub(super) fn keep_logs(&mut self, id: JobId, fence: Fence, logs: &[crate::NewLog]) {
        let Some(known) = self.world.jobs.get_mut(&id) else { return };
        known.logs.extend(logs.iter().map(|it| LogView {
            fence,
            at: it.at,
            level: it.level.into(),
            text: it.text.clone(),
        }));
    }

    async fn promote(&mut self) -> Played {
        let promoted = self.store.promote().await.map_err(said)?;
        let expected = self.world.promote();
        self.summary.n_promoted += expected.n_moved;
        same("promoted", &promoted, &expected)
    }

    async fn change(&mut self, command: Command) -> Played {
        let ids = self.some_jobs(3);
        let changed = match command {
            Command::Retry => self.store.retry(ids.clone()).await,
            _ => self.store.cancel(ids.clone()).await,
        };
        let mut expected = Vec::new();
        for id in ids {
            expected.push(if !self.world.jobs.contains_key(&id) {
                Changed::Unknown
            } else {
                match self.world.transition(id, command, None) {
                    Ok(state) => Changed::Now(state),
                    Err(refusal) => Changed::Refused(refusal),
                }
            });
        }
        same("changed", &changed.map_err(said)?, &expected)
    }

    /// The jobs that `store` has, of those the model knows.
    pub(super) async fn views(
        &self,
        ids: Vec<JobId>,
    ) -> Result<BTreeMap<JobId, crate::JobView>, StoreError> {
        let views = self.store.get(ids).await?;
        Ok(views.into_iter().flatten().map(|it| (it.id, it)).collect())
    }
}

/// The id of a job that was never accepted.
fn unknown() -> JobId {
    JobId::compose(Time::from_millis(1), 0, 1)
}
