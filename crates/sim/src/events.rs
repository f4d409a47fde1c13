//! Events: each moves a job in the book, if it may. What the store does not tell of, the book
//! does not know, so a missed event shows as a difference soon after.

use taskloom_model::{
    CRASHES_MAX, DependencyPolicy, EventKind, NodeId, Outcome, Rules, StateName, Time,
};
use taskloom_store::Event;

use crate::book::{Body, Book, Lease, LeaseEnd, Record};
use crate::deed::Deed;

impl Book {
    /// Applies an event of the commit of `deed`.
    pub(crate) fn event(&mut self, event: &Event, deed: &Deed<'_>) {
        let key = event.id.key();
        let name = deed.name();
        self.n_events += 1;
        let n = self.n_events;
        self.promise(event.offset == n, || {
            format!("event {} follows after {}: some were missed", event.offset, n - 1)
        });
        self.tell(&format!("  {:?} job {key} attempt {}", event.kind, event.attempt));
        self.touched.insert(key);
        if !self.jobs.contains_key(&key) {
            self.promise(false, || format!("{:?} tells of job {key}, unheard of", event.kind));
            return;
        }
        let is_told_by = may_tell(event.kind, name);
        self.promise(is_told_by, || format!("{name} made {:?} of job {key}", event.kind));
        match event.kind {
            EventKind::JobSubmitted => self.summary.n_jobs += 1,
            EventKind::JobReady => self.ready(key, event.at),
            EventKind::JobClaimed => self.claimed(key, event, deed),
            EventKind::JobSucceeded => self.succeeded(key, deed),
            EventKind::JobRetrying => self.retrying(key, event.at, deed),
            EventKind::JobFailed => self.failed(key, event.at, deed),
            EventKind::JobSnoozed => self.snoozed(key, event.at, deed),
            EventKind::JobInterrupted => self.interrupted(key, deed),
            EventKind::JobLost => self.lost(key, deed),
            EventKind::JobCancelRequested => self.cancel_requested(key),
            EventKind::JobCancelled => self.cancelled(key, deed),
            EventKind::JobRetried => self.retried(key),
        }
    }

    fn job(&mut self, key: u64) -> &mut Record {
        self.jobs.get_mut(&key).expect("`event` has looked")
    }

    fn ready(&mut self, key: u64, at: Time) {
        let commit = self.n_commits;
        let job = self.job(key);
        let (state, due) = (job.state, job.due);
        let may = match state {
            StateName::Blocked => job.waits.is_empty() && !job.must_cancel,
            StateName::Delayed | StateName::Retrying => due.is_none_or(|it| it <= at),
            _ => job.is_lost && job.crashes < CRASHES_MAX && !job.cancel_requested,
        };
        job.state = StateName::Ready;
        (job.due, job.is_lost, job.ready_since) = (None, false, commit);
        self.summary.n_unblocked += u64::from(state == StateName::Blocked);
        self.promise(may, || format!("job {key} is ready too early: {state}, due {due:?}, {at}"));
    }

    fn claimed(&mut self, key: u64, event: &Event, deed: &Deed<'_>) {
        let (view, node) = deed.work().map_or((0, NodeId(0)), |it| (it.view, it.node));
        let job = self.job(key);
        let state = job.state;
        let is_late = job.is_expired(event.at);
        job.state = StateName::Running;
        job.fence += 1;
        job.attempts += 1;
        let (fence, attempts, max) = (job.fence, job.attempts, job.rules.retry.max_attempts);
        let lease = Lease {
            view,
            node,
            attempt: attempts,
            is_delivered: false,
            body: Body::NotBegun,
            begun: std::time::Duration::ZERO,
            end: None,
            body_ends_by: None,
        };
        self.leases.insert((key, fence), lease);
        self.summary.n_claims += 1;
        self.promise(state == StateName::Ready, || format!("job {key} is claimed while {state}"));
        self.promise(!is_late, || format!("job {key} is claimed past its deadline"));
        self.promise(attempts == event.attempt && attempts <= max, || {
            format!("job {key} begins attempt {}, not {attempts}, of {max}", event.attempt)
        });
    }

    /// Ends the lease of a running job, by its outcome.
    fn recorded(&mut self, key: u64, deed: &Deed<'_>) -> Option<Outcome> {
        let (state, fence) = (self.job(key).state, self.job(key).fence);
        self.promise(state == StateName::Running, || {
            format!("an outcome of job {key} counts while it is {state}")
        });
        let finish = deed.finish_of(key, fence);
        let lease = self.leases.get_mut(&(key, fence))?;
        let is_open = lease.body == Body::Open;
        let end = finish.map_or(LeaseEnd::Released, |it| LeaseEnd::Recorded(it.outcome.as_str()));
        lease.end = Some(end);
        self.promise(!is_open, || {
            format!("job {key}, fence {fence}: its end ({end:?}) is recorded while its body runs")
        });
        finish.map(|it| it.outcome)
    }

    fn succeeded(&mut self, key: u64, deed: &Deed<'_>) {
        let outcome = self.recorded(key, deed);
        self.promise(outcome == Some(Outcome::Succeeded), || {
            format!("job {key} succeeded by {outcome:?}")
        });
        self.summary.n_succeeded += 1;
        self.end(key, StateName::Succeeded);
    }

    fn retrying(&mut self, key: u64, at: Time, deed: &Deed<'_>) {
        self.recorded(key, deed);
        let fence = self.job(key).fence;
        let finish = deed.finish_of(key, fence);
        let job = self.job(key);
        let hint = match finish.map(|it| it.outcome) {
            Some(Outcome::Errored { permanent: false, hint }) => Some(hint),
            Some(Outcome::TimedOut) => Some(None),
            _ => None,
        };
        let (attempts, asked) = (job.attempts, job.cancel_requested);
        let delay = hint
            .zip(finish)
            .and_then(|(hint, finish)| job.rules.retry.delay(attempts, finish.roll, hint));
        job.state = StateName::Retrying;
        job.due = delay.map(|it| at + it);
        let may = delay.is_some() && attempts < job.rules.retry.max_attempts && !asked;
        self.promise(may, || {
            format!("job {key} retries after attempt {attempts} (cancel asked: {asked})")
        });
    }

    fn failed(&mut self, key: u64, at: Time, deed: &Deed<'_>) {
        let job = self.job(key);
        let (state, attempts) = (job.state, job.attempts);
        let is_quarantined = job.is_lost && CRASHES_MAX <= job.crashes;
        let is_expired = job.is_expired(at) && state != StateName::Running;
        self.summary.n_failed += 1;
        if is_quarantined {
            self.summary.n_quarantined += 1;
        } else if is_expired {
            self.summary.n_expired += 1;
        } else {
            let fence = self.job(key).fence;
            let outcome = self.recorded(key, deed);
            let roll = deed.finish_of(key, fence).map(|it| it.roll);
            let job = self.job(key);
            let Rules { retry, deadline, .. } = job.rules;
            let asked = job.cancel_requested;
            let hint = if let Some(Outcome::Errored { hint, .. }) = outcome { hint } else { None };
            let next = roll.and_then(|it| retry.delay(attempts, it, hint)).map(|it| at + it);
            let is_over = next.is_none_or(|next| deadline.is_some_and(|it| it <= next));
            let may = match outcome {
                Some(Outcome::Errored { permanent: true, .. }) => true,
                Some(Outcome::Errored { .. } | Outcome::TimedOut) => is_over,
                _ => false,
            };
            self.promise(may && !asked, || {
                format!("job {key} failed by {outcome:?} at attempt {attempts} (asked: {asked})")
            });
        }
        self.end(key, StateName::Failed);
    }

    fn snoozed(&mut self, key: u64, at: Time, deed: &Deed<'_>) {
        let outcome = self.recorded(key, deed);
        let delay = if let Some(Outcome::Snoozed { delay }) = outcome { Some(delay) } else { None };
        let job = self.job(key);
        let asked = job.cancel_requested;
        job.state = StateName::Delayed;
        job.due = delay.map(|it| at + it);
        job.attempts -= 1;
        job.snoozes += 1;
        self.promise(delay.is_some() && !asked, || format!("job {key} snoozes by {outcome:?}"));
    }

    fn interrupted(&mut self, key: u64, deed: &Deed<'_>) {
        let outcome = self.recorded(key, deed);
        let commit = self.n_commits;
        let job = self.job(key);
        let asked = job.cancel_requested;
        (job.state, job.ready_since) = (StateName::Ready, commit);
        job.attempts -= 1;
        self.summary.n_interrupted += 1;
        self.promise(outcome.is_none_or(|it| it == Outcome::Interrupted) && !asked, || {
            format!("job {key} is given back by {outcome:?} (cancel asked: {asked})")
        });
    }

    fn lost(&mut self, key: u64, deed: &Deed<'_>) {
        let job = self.job(key);
        let (state, fence) = (job.state, job.fence);
        job.attempts = job.attempts.saturating_sub(1);
        job.crashes += 1;
        job.is_lost = true;
        self.summary.n_lost += 1;
        self.promise(state == StateName::Running, || format!("job {key} is lost while {state}"));
        let Some(lease) = self.leases.get_mut(&(key, fence)) else { return };
        lease.end = Some(LeaseEnd::Lost);
        let (node, view, is_open) = (lease.node, lease.view, lease.body == Body::Open);
        let is_dead = match deed {
            Deed::Rescue { rescued } => rescued.iter().any(|it| it.node == node),
            Deed::Retire { node: retired, .. } => *retired == node && !is_open,
            _ => false,
        };
        self.promise(is_dead, || format!("job {key} is taken from node {node}, which lives"));
        let is_troubled = self.views.get(&view).is_some_and(|it| it.is_troubled);
        if matches!(deed, Deed::Retire { .. }) {
            self.promise(is_troubled, || format!("an orderly drain cost job {key} a crash"));
        }
    }

    fn cancel_requested(&mut self, key: u64) {
        let job = self.job(key);
        let state = job.state;
        job.cancel_requested = true;
        self.promise(state == StateName::Running, || format!("cancel of job {key}, {state}"));
    }

    fn cancelled(&mut self, key: u64, deed: &Deed<'_>) {
        let job = self.job(key);
        let (state, asked, is_lost) = (job.state, job.cancel_requested, job.is_lost);
        if state == StateName::Running && !is_lost {
            let outcome = self.recorded(key, deed);
            let may = asked || outcome == Some(Outcome::Cancelled);
            self.promise(may, || format!("job {key} is cancelled by {outcome:?}, unasked"));
        }
        self.promise(!is_lost || asked, || format!("lost job {key} is cancelled, unasked"));
        self.promise(!state.is_ended(), || format!("job {key} is cancelled while {state}"));
        self.summary.n_cancelled += 1;
        self.end(key, StateName::Cancelled);
    }

    fn retried(&mut self, key: u64) {
        let commit = self.n_commits;
        let job = self.job(key);
        let state = job.state;
        (job.state, job.ready_since) = (StateName::Ready, commit);
        (job.attempts, job.crashes, job.snoozes) = (0, 0, 0);
        (job.rules.deadline, job.due) = (None, None);
        job.waits.clear();
        if let Some(text) = job.unique.clone() {
            self.uniques.entry(text).or_insert(key);
        }
        self.summary.n_retried += 1;
        self.promise(state.is_ended(), || format!("job {key} is retried while {state}"));
    }

    /// The job has ended: those that wait for it must hear of it in the same commit.
    fn end(&mut self, key: u64, state: StateName) {
        let job = self.job(key);
        let was = job.state;
        job.state = state;
        (job.cancel_requested, job.is_lost, job.must_cancel) = (false, false, false);
        job.due = None;
        job.waits.clear();
        self.uniques.retain(|_, holder| *holder != key);
        self.promise(!was.is_ended(), || format!("job {key} has ended twice: {was}, {state}"));
        let waiting: Vec<u64> = self
            .jobs
            .iter()
            .filter(|(_, it)| it.state == StateName::Blocked && it.waits.contains(&key))
            .map(|(&it, _)| it)
            .collect();
        for dependent in waiting {
            self.dependency_ended(dependent, key, state == StateName::Succeeded);
        }
    }

    /// A job that a blocked one waits for has ended.
    pub(crate) fn dependency_ended(&mut self, key: u64, on: u64, succeeded: bool) {
        let now = self.now();
        self.touched.insert(key);
        let job = self.job(key);
        job.waits.remove(&on);
        if !succeeded && job.rules.on_dependency_failure == DependencyPolicy::Cancel {
            job.must_cancel = true;
        } else if job.waits.is_empty() && !job.must_cancel {
            // Of this step nobody is told.
            job.due = job.rules.run_at.filter(|at| now < *at);
            if job.due.is_some() {
                job.state = StateName::Delayed;
            }
        }
    }
}

/// Whether the call `name` may make an event of that kind.
fn may_tell(kind: EventKind, name: &str) -> bool {
    match kind {
        EventKind::JobSubmitted => name == "submit",
        EventKind::JobClaimed
        | EventKind::JobSucceeded
        | EventKind::JobRetrying
        | EventKind::JobSnoozed => name == "work",
        EventKind::JobInterrupted => matches!(name, "work" | "release"),
        EventKind::JobLost => matches!(name, "rescue" | "retire"),
        EventKind::JobCancelRequested => name == "cancel",
        EventKind::JobRetried => name == "retry",
        EventKind::JobFailed => !matches!(name, "submit" | "cancel" | "retry" | "heartbeat"),
        EventKind::JobReady | EventKind::JobCancelled => !matches!(name, "heartbeat" | "prune"),
    }
}
