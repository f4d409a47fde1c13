//! What a pool knows of its resources and of those who wait, and what follows from it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::PoolManager;
use super::builder::Limits;
use super::error::PoolOpenError;
use super::guard::PoolGuard;
use super::owner::Owner;

pub(super) struct State<M: PoolManager> {
    /// In the order they came back; the latest is lent first, so that the others can age out.
    pub(super) idle: VecDeque<Idle<M::Resource>>,
    /// By ticket: the lowest is served first.
    pub(super) waiters: BTreeMap<i64, Waiter<M>>,
    /// Tickets grow from zero at the end of the line, and fall from it at the head: none is used
    /// twice, since its first holder would take the second one out of the line when it leaves.
    pub(super) ticket_last: i64,
    pub(super) ticket_first: i64,
    pub(super) n_lent: usize,
    pub(super) n_opening: usize,
    /// Resources that the upkeep will close.
    pub(super) to_close: Vec<M::Resource>,
    /// Those in `to_close`, and those being closed.
    pub(super) n_closing: usize,
    /// Openings that failed since the last one that did not.
    pub(super) n_failures: u32,
    pub(super) open_after: Instant,
    pub(super) open_error: Option<Arc<PoolOpenError<M::Error>>>,
    /// When the upkeep looks next; `None` when it waits to be told.
    pub(super) wakes_at: Option<Instant>,
    /// Gives nothing any more.
    pub(super) closed: bool,
    /// Its upkeep has ended, so a resource that comes back is dropped.
    pub(super) abandoned: bool,
    /// Who holds what, by the resource's number. Kept in debug builds.
    pub(super) owners: HashMap<u64, Option<Owner>>,
    /// When a resource last came back or was opened.
    pub(super) moved_at: Instant,
    pub(super) totals: Totals,
}

#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) opened: u64,
    pub(super) closed: u64,
    pub(super) failed: u64,
    pub(super) failed_checks: u64,
    pub(super) timed_out: u64,
    pub(super) wait_total: Duration,
    pub(super) wait_max: Duration,
}

/// An open resource.
pub(super) struct Opened<R> {
    pub(super) resource: R,
    /// Its number in this pool.
    pub(super) serial: u64,
    pub(super) opened_at: Instant,
    /// To be checked before it is used.
    pub(super) suspect: bool,
}

pub(super) struct Idle<R> {
    pub(super) opened: Opened<R>,
    pub(super) since: Instant,
}

pub(super) struct Waiter<M: PoolManager> {
    pub(super) give: oneshot::Sender<Given<M>>,
    pub(super) owner: Owner,
}

pub(super) type Given<M> = Result<PoolGuard<M>, Arc<PoolOpenError<<M as PoolManager>::Error>>>;

impl<M: PoolManager> State<M> {
    pub(super) fn new(now: Instant) -> Self {
        State {
            idle: VecDeque::new(),
            waiters: BTreeMap::new(),
            ticket_last: 0,
            ticket_first: 0,
            n_lent: 0,
            n_opening: 0,
            to_close: Vec::new(),
            n_closing: 0,
            n_failures: 0,
            open_after: now,
            open_error: None,
            wakes_at: None,
            closed: false,
            abandoned: false,
            owners: HashMap::new(),
            moved_at: now,
            totals: Totals::default(),
        }
    }

    /// Resources that are open or being opened.
    pub(super) fn n_open(&self) -> usize {
        self.idle.len() + self.n_lent + self.n_opening
    }

    pub(super) fn is_empty(&self) -> bool {
        self.n_open() + self.n_closing == 0
    }

    /// Marks a resource as held by `owner`.
    pub(super) fn own(&mut self, serial: u64, owner: Option<Owner>) {
        if cfg!(debug_assertions) {
            self.owners.insert(serial, owner);
        }
    }

    /// Leaves a resource to the upkeep, to be closed.
    pub(super) fn retire(&mut self, resource: M::Resource) {
        self.totals.closed += 1;
        self.n_closing += 1;
        self.to_close.push(resource);
    }

    /// How many openings should begin now, and when to ask again.
    pub(super) fn openings(&self, limits: &Limits, now: Instant) -> (usize, Option<Instant>) {
        let n_kept = limits.n_min.saturating_sub(self.idle.len() + self.n_lent);
        let n_wanted = self.waiters.len().max(n_kept).saturating_sub(self.n_opening);
        let n_free = limits.n_max - self.n_open();
        let n_openings = n_wanted.min(n_free);
        if self.closed || n_openings == 0 {
            return (0, None);
        }
        // After a failure one at a time tries, until one succeeds.
        if 0 < self.n_failures && 0 < self.n_opening {
            return (0, None);
        }
        if 0 < self.n_failures && now < self.open_after {
            return (0, Some(self.open_after));
        }
        (if 0 < self.n_failures { 1 } else { n_openings }, None)
    }

    /// Whether `me`, who has waited since `since`, waits for itself: every resource is held by
    /// someone who waits as well, `me` among them, and nothing has moved meanwhile.
    pub(super) fn is_deadlocked(&self, limits: &Limits, me: Owner, since: Instant) -> bool {
        let waits = |owner: Owner| self.waiters.values().any(|it| it.owner == owner);
        self.owners.len() == limits.n_max
            && self.owners.values().all(|it| it.is_some_and(|it| it == me || waits(it)))
            && self.owners.values().any(|it| *it == Some(me))
            && self.moved_at <= since
    }
}
