//! Commits: what a call was asked, what it answered, and what it told must fit each other.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use taskloom_model::{Fence, JobId, NodeId, Outcome, StateName, Time};
use taskloom_store::sqlite::LEASE;
use taskloom_store::{Accepted, Answer, Changed, Demand, Event, Finish, NewJob, Rescued};

use crate::book::{Body, Book, LeaseEnd, NodeRecord, Record, Said};
use crate::deed::{Deed, Work};

impl Book {
    /// Takes note of a call that was committed, with the events that it told.
    pub(crate) fn commit(&mut self, deed: &Deed<'_>, events: &[Event]) {
        self.n_commits += 1;
        self.touched.clear();
        let mut current = BTreeSet::new();
        match *deed {
            Deed::Submit { jobs, accepted } => self.accept(jobs, accepted),
            Deed::Work(work) => current = self.check_outcomes(&work),
            Deed::Rescue { rescued } => self.check_dead(rescued),
            Deed::Register { node } => self.register(node),
            _ => {}
        }
        let mut n_claimed = 0;
        for event in events {
            if event.kind == taskloom_model::EventKind::JobClaimed {
                self.check_order(deed, n_claimed, event);
                n_claimed += 1;
            }
            self.event(event, deed);
        }
        match *deed {
            Deed::Work(work) => self.check_work(&work, &current, n_claimed),
            Deed::Heartbeat { node, answer } => self.heartbeat(node, answer),
            Deed::Promote => self.check_promoted(),
            Deed::Retire { node, .. } => self.gone(node),
            Deed::Cancel { ids, changed } | Deed::Retry { ids, changed } => {
                self.check_changed(ids, changed);
            }
            _ => {}
        }
        self.check_settled();
    }

    fn accept(&mut self, jobs: &[NewJob], accepted: &[Accepted]) {
        let now = self.now();
        self.promise(jobs.len() == accepted.len(), || "not every job is answered".into());
        for (new, accepted) in jobs.iter().zip(accepted) {
            let key = accepted.id.key();
            let is_known = self.jobs.contains_key(&key);
            self.promise(is_known == accepted.duplicate, || format!("job {key}: {accepted:?}"));
            let holder = new.unique.as_ref().and_then(|it| self.uniques.get(it)).copied();
            let is_right = holder == if accepted.duplicate { Some(key) } else { None };
            self.promise(is_right, || format!("job {key} for {:?} of {holder:?}", new.unique));
            if accepted.duplicate {
                self.summary.n_duplicates += 1;
                continue;
            }
            let commit = self.n_commits;
            self.jobs.insert(key, Record::new(accepted.id, new, now, commit));
            let after: BTreeSet<u64> = new.after.iter().map(|it| it.key()).collect();
            if let Some(job) = self.jobs.get_mut(&key) {
                job.waits.clone_from(&after);
            }
            for on in after {
                let state = self.jobs.get(&on).map(|it| it.state);
                if let Some(state) = state.filter(|it| it.is_ended()) {
                    self.dependency_ended(key, on, state == StateName::Succeeded);
                }
            }
            // One that is cancelled in this very commit holds nothing.
            let lives = self.jobs.get(&key).is_some_and(|it| !it.must_cancel);
            if let Some(text) = new.unique.clone().filter(|_| lives) {
                self.uniques.insert(text, key);
            }
        }
    }

    fn register(&mut self, node: NodeId) {
        let last_sign = self.now();
        let record = NodeRecord { last_sign, is_gone: false };
        let before = self.nodes.insert(node, record);
        self.promise(before.is_none(), || format!("node {node} is registered twice"));
    }

    fn gone(&mut self, node: NodeId) {
        if let Some(record) = self.nodes.get_mut(&node) {
            record.is_gone = true;
        }
    }

    fn check_dead(&mut self, rescued: &[Rescued]) {
        let now = self.now();
        for it in rescued {
            let last = self.nodes.get(&it.node).filter(|it| !it.is_gone).map(|it| it.last_sign);
            let is_dead = last.is_some_and(|it| LEASE <= now.since(it));
            self.promise(is_dead, || {
                format!("node {} is taken for dead, its last sign was {last:?}, now {now}", it.node)
            });
            self.gone(it.node);
        }
    }

    fn heartbeat(&mut self, node: NodeId, answer: &Answer) {
        let now = self.now();
        let Some(record) = self.nodes.get_mut(&node) else { return };
        let is_gone = record.is_gone;
        if !is_gone {
            record.last_sign = now;
        }
        self.promise(answer.evicted == is_gone, || {
            format!("node {node} hears evicted: {}, and is gone: {is_gone}", answer.evicted)
        });
        let asked: BTreeSet<(u64, Fence)> =
            answer.cancel.iter().map(|(id, fence)| (id.key(), *fence)).collect();
        let runs = |key: u64, it: &Record| {
            let lease = self.leases.get(&(key, it.fence));
            it.state == StateName::Running && lease.is_some_and(|it| it.node == node)
        };
        let wanted = self.jobs.iter().filter(|(key, it)| it.cancel_requested && runs(**key, it));
        let wanted: BTreeSet<_> = wanted.map(|(&key, it)| (key, Fence(it.fence))).collect();
        self.promise(asked == wanted, || {
            format!("node {node} is asked to cancel {asked:?}, not {wanted:?}")
        });
    }

    /// Which of the ended attempts are current: theirs and no other outcomes may count.
    fn check_outcomes(&mut self, work: &Work<'_>) -> BTreeSet<(u64, u64)> {
        let mut current = BTreeSet::new();
        self.promise(work.ended.len() == work.outcomes.len(), || "outcomes are missing".into());
        for (finish, outcome) in work.ended.iter().zip(work.outcomes) {
            let (key, fence) = (finish.id.key(), finish.fence.0);
            let is_current = self
                .jobs
                .get(&key)
                .is_some_and(|it| it.state == StateName::Running && it.fence == fence)
                && current.insert((key, fence));
            self.summary.n_refused += u64::from(outcome.is_err());
            let drains = self.views.get(&work.view).is_some_and(|it| it.is_draining);
            let is_cut = is_current && finish.outcome == Outcome::Interrupted;
            self.promise(!is_cut || drains, || {
                format!("job {key}, fence {fence}, is interrupted where nobody drains")
            });
            self.promise(is_current == outcome.is_ok(), || {
                format!("job {key}, fence {fence}, is current: {is_current}, answer {outcome:?}")
            });
            self.check_truth(finish);
        }
        current
    }

    /// What a node says of an attempt must be what its body said.
    fn check_truth(&mut self, finish: &Finish) {
        let (key, fence) = (finish.id.key(), finish.fence.0);
        let body = self.leases.get(&(key, fence)).map(|it| it.body);
        let may = match finish.outcome {
            Outcome::Succeeded => body == Some(Body::Ended(Said::Success)),
            Outcome::Snoozed { .. } => body == Some(Body::Ended(Said::Snooze)),
            Outcome::Errored { .. } => body == Some(Body::Ended(Said::Trouble)),
            Outcome::TimedOut => matches!(body, Some(Body::Ended(Said::Trouble | Said::Cut))),
            // It may have been cancelled before it began.
            Outcome::Cancelled => {
                matches!(body, Some(Body::NotBegun | Body::Ended(Said::Trouble | Said::Cut)))
            }
            // One that runs is a matter for `recorded`.
            Outcome::Interrupted => {
                body.is_some_and(|it| !matches!(it, Body::Ended(Said::Success | Said::Snooze)))
            }
        };
        let outcome = finish.outcome;
        self.promise(may, || {
            format!("job {key}, fence {fence}: told as {outcome:?}, its body: {body:?}")
        });
        let counted = &mut self.summary;
        match outcome {
            Outcome::Errored { .. } => counted.n_errored += 1,
            Outcome::TimedOut => counted.n_timed_out += 1,
            Outcome::Snoozed { .. } => counted.n_snoozed += 1,
            _ => {}
        }
    }

    /// The next claimed job must be the first of those that were ready: by priority, then age.
    fn check_order(&mut self, deed: &Deed<'_>, place: usize, event: &Event) {
        let Some(work) = deed.work() else { return };
        let claimed = work.claimed.get(place).filter(|it| it.id == event.id);
        let demand = claimed.and_then(|it| work.demands.get(it.demand));
        let key = event.id.key();
        self.promise(demand.is_some(), || format!("job {key} is claimed and not handed out"));
        let (Some(job), Some(demand)) = (self.jobs.get(&key), demand) else { return };
        let order = (Reverse(job.priority), key);
        let fits = job.fits(demand);
        let better = self.ready_before(demand, event.at);
        let better = better.into_iter().find(|it| *it < order).map(|it| it.1);
        self.promise(fits, || format!("job {key} was not asked for"));
        self.promise(better.is_none(), || format!("job {key} is claimed before job {better:?}"));
    }

    /// The jobs for `demand` that were ready before this commit.
    fn ready_before(
        &self,
        demand: &Demand,
        now: Time,
    ) -> Vec<(Reverse<taskloom_model::Priority>, u64)> {
        let is_ready = |it: &Record| {
            it.state == StateName::Ready && it.ready_since < self.n_commits && !it.is_expired(now)
        };
        let ready = self.jobs.iter().filter(|(_, it)| is_ready(it) && it.fits(demand));
        ready.map(|(&key, it)| (Reverse(it.priority), key)).collect()
    }

    fn check_work(&mut self, work: &Work<'_>, current: &BTreeSet<(u64, u64)>, n_claimed: usize) {
        self.promise(n_claimed == work.claimed.len(), || "claims without their events".into());
        for claimed in work.claimed {
            let (key, fence) = (claimed.id.key(), claimed.fence.0);
            let known = self.jobs.get(&key).map_or(0, |it| it.fence);
            self.promise(fence == known, || format!("job {key} has fence {fence}, not {known}"));
        }
        for &(key, fence) in current {
            let end = self.leases.get(&(key, fence)).and_then(|it| it.end);
            self.promise(matches!(end, Some(LeaseEnd::Recorded(_))), || {
                format!("job {key}, fence {fence}: its outcome was taken and not told: {end:?}")
            });
        }
        let is_known = self.nodes.get(&work.node).is_some_and(|it| !it.is_gone);
        self.promise(is_known || n_claimed == 0, || format!("node {} is gone", work.node));
        let now = self.now();
        for (place, demand) in work.demands.iter().enumerate().filter(|_| is_known) {
            let n = work.claimed.iter().filter(|it| it.demand == place).count();
            let left = self.ready_before(demand, now).first().map(|it| it.1);
            self.promise(n == demand.n || left.is_none(), || {
                format!("room for {}, {n} claimed, and job {left:?} is left ready", demand.n)
            });
        }
    }

    fn check_promoted(&mut self) {
        let now = self.now();
        let is_late = |it: &Record| match it.state {
            StateName::Delayed | StateName::Retrying => {
                it.due.is_some_and(|at| at <= now) || it.is_expired(now)
            }
            StateName::Ready | StateName::Blocked => it.is_expired(now),
            _ => false,
        };
        let late = self.jobs.iter().find(|(_, it)| is_late(it)).map(|(&key, _)| key);
        self.promise(late.is_none(), || format!("job {late:?} is due and was not promoted"));
    }

    fn check_changed(&mut self, ids: &[JobId], changed: &[Changed]) {
        for (id, changed) in ids.iter().zip(changed) {
            let key = id.key();
            let is_known = self.jobs.contains_key(&key);
            let fits = is_known != (*changed == Changed::Unknown);
            self.promise(fits, || format!("job {key} is {changed:?}, and known: {is_known}"));
        }
    }

    /// Nothing that a commit had to do for others may be left undone.
    fn check_settled(&mut self) {
        for key in std::mem::take(&mut self.touched) {
            let Some(job) = self.jobs.get(&key) else { continue };
            let is_unblocked = job.state == StateName::Blocked && job.waits.is_empty();
            let (must_cancel, is_lost) = (job.must_cancel, job.is_lost);
            self.promise(!must_cancel, || format!("job {key} outlives what it depends on"));
            self.promise(!is_unblocked, || format!("job {key} waits for nobody, and is blocked"));
            self.promise(!is_lost, || format!("job {key} is lost, and nothing came of it"));
        }
    }
}
