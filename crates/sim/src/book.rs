//! The book: what jobs, leases, nodes and attempts have been through, as told by the store's
//! events, by its answers, and by the bodies themselves.
//!
//! It is written apart from `taskloom_model`, so that an error there is no error here as well.
//! The first broken promise stays, and ends the history.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use parking_lot::Mutex;
use taskloom_model::{JobId, NodeId, Priority, Rules, StateName, Time};
use taskloom_store::{Clock, Demand, NewJob};

use crate::clock::SimClock;
use crate::summary::Summary;
use crate::trace::Trace;

/// How long a body has between the wish to cancel it and its drop.
pub(crate) const GRACE: Duration = Duration::from_secs(2);
/// What the timers and the next call may add to it.
pub(crate) const SLACK: Duration = Duration::from_secs(1);

/// A job, as far as anybody was told.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) id: JobId,
    pub(crate) task: String,
    pub(crate) queue: String,
    pub(crate) priority: Priority,
    pub(crate) rules: Rules,
    pub(crate) unique: Option<String>,
    pub(crate) state: StateName,
    /// While delayed or retrying: not before.
    pub(crate) due: Option<Time>,
    /// The commit that made it ready.
    pub(crate) ready_since: u64,
    /// The jobs it still waits for, while it is blocked.
    pub(crate) waits: BTreeSet<u64>,
    /// A job it waited for ended badly, so it must be cancelled in the same commit.
    pub(crate) must_cancel: bool,
    /// Its owner was found dead in the commit under way.
    pub(crate) is_lost: bool,
    pub(crate) cancel_requested: bool,
    pub(crate) fence: u64,
    pub(crate) attempts: u32,
    pub(crate) crashes: u32,
    pub(crate) snoozes: u32,
}

impl Record {
    /// A new job, ready or delayed or blocked; what it waits for is the caller's to fill in.
    pub(crate) fn new(id: JobId, new: &NewJob, now: Time, commit: u64) -> Record {
        let mut rules = new.rules;
        if let Some(delay) = new.delay {
            rules.run_at = Some(now + delay);
        }
        let due = rules.run_at.filter(|at| now < *at && new.after.is_empty());
        let state = match due {
            _ if !new.after.is_empty() => StateName::Blocked,
            Some(_) => StateName::Delayed,
            None => StateName::Ready,
        };
        Record {
            id,
            task: new.task.to_string(),
            queue: new.queue.to_string(),
            priority: new.priority,
            rules,
            unique: new.unique.clone(),
            state,
            due,
            ready_since: commit,
            waits: BTreeSet::new(),
            must_cancel: false,
            is_lost: false,
            cancel_requested: false,
            fence: 0,
            attempts: 0,
            crashes: 0,
            snoozes: 0,
        }
    }

    pub(crate) fn is_expired(&self, now: Time) -> bool {
        self.rules.deadline.is_some_and(|it| it <= now)
    }

    pub(crate) fn fits(&self, demand: &Demand) -> bool {
        demand.queues.has(&self.queue) && demand.tasks.iter().any(|it| **it == *self.task)
    }
}

/// What a body said at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    Success,
    Trouble,
    Snooze,
    /// It was dropped.
    Cut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    NotBegun,
    Open,
    Ended(Said),
}

/// How a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseEnd {
    /// Its outcome was recorded, in this word.
    Recorded(&'static str),
    /// It was given back without having begun.
    Released,
    /// Its node was taken for dead.
    Lost,
}

/// The right to finish a job, from its claim on.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    pub(crate) view: usize,
    pub(crate) node: NodeId,
    pub(crate) attempt: u32,
    /// Its node has heard of the claim.
    pub(crate) is_delivered: bool,
    pub(crate) body: Body,
    /// When its body began.
    pub(crate) begun: Duration,
    pub(crate) end: Option<LeaseEnd>,
    /// When its body must have ended, once its node knows that the lease is lost.
    pub(crate) body_ends_by: Option<Duration>,
}

/// A node, as the store knows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodeRecord {
    pub(crate) last_sign: Time,
    pub(crate) is_gone: bool,
}

/// One running copy of the program, under whichever node ids it had.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct View {
    /// How many attempts it may run at once.
    pub(crate) n_slots: usize,
    /// The id it knows itself by.
    pub(crate) node: Option<NodeId>,
    /// A call of it has gone wrong: a drain may then cost a crash.
    pub(crate) is_troubled: bool,
    /// It was told to drain: it asks for no more jobs.
    pub(crate) is_draining: bool,
    /// It was dropped without good-bye, or has left.
    pub(crate) is_gone: bool,
}

#[derive(Debug)]
pub(crate) struct Book {
    pub(crate) seed: u64,
    clock: SimClock,
    trace: Trace,
    pub(crate) summary: Summary,
    pub(crate) jobs: BTreeMap<u64, Record>,
    pub(crate) leases: BTreeMap<(u64, u64), Lease>,
    /// Who holds a unique text: not always who is unfinished, since a retry does not take it away.
    pub(crate) uniques: BTreeMap<String, u64>,
    pub(crate) nodes: BTreeMap<NodeId, NodeRecord>,
    pub(crate) views: BTreeMap<usize, View>,
    pub(crate) n_commits: u64,
    pub(crate) n_events: u64,
    /// Jobs that the commit under way has moved.
    pub(crate) touched: BTreeSet<u64>,
    broken: Option<String>,
}

/// The book, as everybody shares it. Nobody holds it across an await point.
pub(crate) type SharedBook = std::sync::Arc<Mutex<Book>>;

impl Book {
    pub(crate) fn new(seed: u64, clock: SimClock) -> Book {
        Book {
            seed,
            clock,
            trace: Trace::default(),
            summary: Summary::default(),
            jobs: BTreeMap::new(),
            leases: BTreeMap::new(),
            uniques: BTreeMap::new(),
            nodes: BTreeMap::new(),
            views: BTreeMap::new(),
            n_commits: 0,
            n_events: 0,
            touched: BTreeSet::new(),
            broken: None,
        }
    }

    /// The wall clock.
    pub(crate) fn now(&self) -> Time {
        self.clock.now()
    }

    /// How long the history has lasted.
    pub(crate) fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    pub(crate) fn tell(&mut self, text: &str) {
        self.trace.line(self.clock.elapsed(), text);
    }

    /// Holds a promise. The first that is broken is kept, with the trace up to there.
    pub(crate) fn promise(&mut self, is_kept: bool, broken: impl FnOnce() -> String) {
        if !is_kept && self.broken.is_none() {
            let text = broken();
            self.tell(&format!("BROKEN: {text}"));
            self.broken = Some(text);
        }
    }

    pub(crate) fn broken(&self) -> Option<&String> {
        self.broken.as_ref()
    }

    pub(crate) fn trace(&self) -> &Trace {
        &self.trace
    }
}
