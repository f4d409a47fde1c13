//! The reference: the model, with plain maps around it and nothing clever.
//!
//! # Invariants
//! - `jobs` is in the order of age: ids only grow.
//! - Dependents hear of an end in the order of their age, and theirs after them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use taskloom_model::{
    Command, Effect, EventKind, Fence, Job, JobId, NodeId, Refusal, State, StateName, Time, apply,
};

use super::compare::{due, same};
use crate::{
    Accepted, AttemptError, AttemptView, Demand, LogView, NewJob, PROMOTE_MAX, ProgressView,
    Promoted,
};

/// A job and all that is told of it.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) new: NewJob,
    pub(super) job: Job,
    pub(super) created: Time,
    /// When its last attempt was claimed.
    pub(super) started: Time,
    pub(super) ended: Option<Time>,
    /// The attempt it ended with, when it ended with one.
    pub(super) ran: Option<(NodeId, Time)>,
    pub(super) result: Option<String>,
    pub(super) progress: Option<ProgressView>,
    pub(super) attempts: Vec<AttemptView>,
    pub(super) logs: Vec<LogView>,
}

/// What an attempt left behind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) node: NodeId,
    pub(super) started: Time,
    pub(super) result: Option<&'a str>,
    pub(super) error: Option<&'a AttemptError>,
}

/// What happened to whom, when, and at which attempt.
pub(super) type Told = (EventKind, JobId, Time, u32);

/// A claim: job, place of the demand, fence, attempt.
pub(super) type Lease = (JobId, usize, Fence, u32);

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) now: Time,
    pub(super) jobs: BTreeMap<JobId, Known>,
    uniques: BTreeMap<String, JobId>,
    dependents: BTreeMap<JobId, BTreeSet<JobId>>,
    /// The last heartbeat of each.
    pub(super) nodes: BTreeMap<NodeId, Time>,
    pub(super) events: Vec<Told>,
    endings: VecDeque<(JobId, bool)>,
    /// Jobs that moved since the last comparison.
    pub(super) touched: BTreeSet<JobId>,
    last_id: Option<JobId>,
}

impl World {
    /// Keeps a job as the store has accepted it. Returns whether it was there already.
    pub(super) fn accept(&mut self, new: &NewJob, accepted: Accepted) -> Result<bool, String> {
        let id = accepted.id;
        let holder = new.unique.as_ref().and_then(|text| self.uniques.get(text));
        if let Some(&holder) = holder {
            same("a duplicate", &accepted, &Accepted { id: holder, duplicate: true })?;
            return Ok(true);
        }
        same("a new job", &accepted, &Accepted { id, duplicate: false })?;
        same("the time in its id", &id.created(), &self.now)?;
        if self.last_id.replace(id).is_some_and(|last| id <= last) {
            return Err(format!("id {id} is not above those before"));
        }
        let mut new = new.clone();
        if let Some(delay) = new.delay {
            new.rules.run_at = Some(self.now + delay);
        }
        if let Some(text) = &new.unique {
            self.uniques.insert(text.clone(), id);
        }
        let after: BTreeSet<JobId> = new.after.iter().copied().collect();
        let job = Job::submit(self.now, new.rules, u32::try_from(after.len()).unwrap_or(u32::MAX));
        let known = Known {
            new,
            job,
            created: self.now,
            started: self.now,
            ended: None,
            ran: None,
            result: None,
            progress: None,
            attempts: Vec::new(),
            logs: Vec::new(),
        };
        self.jobs.insert(id, known);
        self.touched.insert(id);
        self.events.push((EventKind::JobSubmitted, id, self.now, 0));
        for on in after {
            let state = self.jobs.get(&on).map(|it| it.job.state.name());
            if state.is_some_and(StateName::is_ended) {
                let succeeded = state == Some(StateName::Succeeded);
                // Refused once an earlier one has cancelled it.
                self.transition(id, Command::DependencyEnded { succeeded }, None).ok();
            } else {
                self.dependents.entry(on).or_default().insert(id);
            }
        }
        Ok(false)
    }

    /// Moves a job, and then those that waited for it.
    pub(super) fn transition(
        &mut self,
        id: JobId,
        command: Command,
        left: Option<Left<'_>>,
    ) -> Result<StateName, Refusal> {
        let state = self.step(id, command, left)?;
        while let Some((ended, succeeded)) = self.endings.pop_front() {
            for dependent in self.dependents.remove(&ended).unwrap_or_default() {
                // Refused when it has ended already, or is gone.
                self.step(dependent, Command::DependencyEnded { succeeded }, None).ok();
            }
        }
        Ok(state)
    }

    fn step(
        &mut self,
        id: JobId,
        command: Command,
        left: Option<Left<'_>>,
    ) -> Result<StateName, Refusal> {
        let known = self.jobs.get_mut(&id).ok_or(Refusal::AlreadyFinished)?;
        let (after, effects) = apply(self.now, &known.job, command)?;
        let before = std::mem::replace(&mut known.job, after);
        let state = known.job.state.name();
        self.touched.insert(id);
        if state != before.state.name() {
            known.progress = None;
        }
        if state.is_ended() {
            known.ended = Some(self.now);
            known.ran = left.map(|it| (it.node, it.started));
            known.result = left.and_then(|it| it.result).map(str::to_owned);
        } else if before.state.name().is_ended() {
            (known.ended, known.ran, known.result) = (None, None, None);
            if let Some(text) = &known.new.unique {
                self.uniques.entry(text.clone()).or_insert(id);
            }
        }
        let attempt = known.job.life.attempts.max(before.life.attempts);
        for effect in effects {
            match effect {
                Effect::Event(kind) => self.events.push((kind, id, self.now, attempt)),
                Effect::AttemptEnded(outcome) => {
                    // An attempt that never began leaves no record.
                    known.attempts.extend(left.map(|left| AttemptView {
                        fence: before.life.fence,
                        attempt: before.life.attempts,
                        node: left.node,
                        started: left.started,
                        ended: self.now,
                        outcome: outcome.map_or("lost", |it| it.as_str()),
                        error: left.error.cloned(),
                    }));
                }
                Effect::Ended { succeeded } => {
                    self.uniques.retain(|_, holder| *holder != id);
                    self.endings.push_back((id, succeeded));
                }
            }
        }
        Ok(state)
    }

    /// What `node` gets: in each round the first ready jobs that fit, until there is no more room;
    /// those past their deadline fail instead.
    pub(super) fn claim(&mut self, node: NodeId, demands: &[Demand]) -> Vec<Lease> {
        let mut leases = Vec::new();
        if !self.nodes.contains_key(&node) {
            return leases;
        }
        for (place, demand) in demands.iter().enumerate() {
            let n_before = leases.len();
            loop {
                let room = demand.n - (leases.len() - n_before);
                let front = self.front(demand, room);
                if front.is_empty() {
                    break;
                }
                for id in front {
                    if self.transition(id, Command::Claim { node }, None).is_err() {
                        self.transition(id, Command::Expire, None).ok();
                    } else if let Some(known) = self.jobs.get_mut(&id) {
                        known.started = self.now;
                        let life = known.job.life;
                        leases.push((id, place, life.fence, life.attempts));
                    }
                }
            }
        }
        leases
    }

    /// The first `n` ready jobs that fit: by priority, then age.
    fn front(&self, demand: &Demand, n: usize) -> Vec<JobId> {
        let fits = |it: &Known| {
            it.job.state == State::Ready
                && demand.queues.has(&it.new.queue)
                && demand.tasks.contains(&it.new.task)
        };
        let ready = self.jobs.iter().filter(|(_, it)| fits(it));
        let mut front: Vec<_> = ready.map(|(&id, it)| (Reverse(it.new.priority), id)).collect();
        front.sort();
        front.truncate(n);
        front.into_iter().map(|(_, id)| id).collect()
    }

    pub(super) fn promote(&mut self) -> Promoted {
        let now = self.now;
        let late = |it: &Known| {
            let name = it.job.state.name();
            let waits = !name.is_ended() && name != StateName::Running;
            it.job.rules.deadline.filter(|&at| waits && at <= now)
        };
        let ripe = |it: &Known| due(&it.job.state).filter(|&at| at <= now);
        let (late, ripe) = (self.by_time(late), self.by_time(ripe));
        let mut n_moved = 0;
        for (ids, command) in [(late, Command::Expire), (ripe, Command::Due)] {
            for id in ids {
                n_moved += usize::from(self.transition(id, command, None).is_ok());
            }
        }
        let unfinished = self.jobs.values().filter(|it| !it.job.state.name().is_ended());
        let next_due = unfinished
            .flat_map(|it| [due(&it.job.state), it.job.rules.deadline.filter(|&at| now < at)])
            .flatten()
            .min();
        Promoted { n_moved, next_due }
    }

    fn by_time(&self, time: impl Fn(&Known) -> Option<Time>) -> Vec<JobId> {
        let mut found: Vec<_> =
            self.jobs.iter().filter_map(|(&id, it)| Some((time(it)?, id))).collect();
        found.sort();
        found.truncate(PROMOTE_MAX);
        found.into_iter().map(|(_, id)| id).collect()
    }

    /// Takes the jobs of a dead node from it: how many are ready again, and how many have ended.
    pub(super) fn bury(&mut self, node: NodeId) -> (usize, usize) {
        self.nodes.remove(&node);
        let (mut n_ready, mut n_ended) = (0, 0);
        for (id, _) in self.running(Some(node)) {
            let started = self.jobs.get(&id).map_or(self.now, |it| it.started);
            let left = Left { node, started, result: None, error: None };
            match self.transition(id, Command::OwnerLost, Some(left)) {
                Ok(StateName::Ready) => n_ready += 1,
                Ok(_) => n_ended += 1,
                Err(_) => {}
            }
        }
        (n_ready, n_ended)
    }

    /// The leases of `node`, or all, by age of the job.
    pub(super) fn running(&self, of: Option<NodeId>) -> Vec<(JobId, Fence)> {
        let is_wanted = |it: &Known| match it.job.state {
            State::Running { node } => of.is_none_or(|of| of == node),
            _ => false,
        };
        let wanted = self.jobs.iter().filter(|(_, it)| is_wanted(it));
        wanted.map(|(&id, it)| (id, it.job.life.fence)).collect()
    }

    /// Counts by queue, task and state.
    pub(super) fn counts(&self) -> Vec<crate::Count> {
        let mut counts: BTreeMap<(Arc<str>, Arc<str>, StateName), u64> = BTreeMap::new();
        for it in self.jobs.values() {
            let place = (Arc::clone(&it.new.queue), Arc::clone(&it.new.task));
            *counts.entry((place.0, place.1, it.job.state.name())).or_default() += 1;
        }
        let counts = counts.into_iter();
        counts.map(|((queue, task, state), n)| crate::Count { queue, task, state, n }).collect()
    }
}
