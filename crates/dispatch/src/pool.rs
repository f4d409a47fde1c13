//! Pools: how many attempts of which kind run at once, and which claimed jobs wait for a slot.
//!
//! A little more is claimed than there are slots, so that a slot that becomes free needs no
//! commit to go on. How much more follows from how many attempts end between two commits.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::Arc;

use taskloom_model::{Fence, JobId};
use taskloom_store::{Claimed, Demand, Queues};

/// How many jobs a pool claims ahead at most: what two cores finish in some 20 ms.
const LOOK_AHEAD_MAX: usize = 2_048;

/// Slots for some queues.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// Whose jobs it runs.
    pub queues: Queues,
    /// How many attempts at once.
    pub slots: usize,
}

/// A claimed job that waits for a slot: the most urgent first, then the oldest.
#[derive(Debug)]
struct Waiting(Claimed);

impl Waiting {
    fn order(&self) -> (taskloom_model::Priority, Reverse<u64>) {
        (self.0.priority, Reverse(self.0.id.key()))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Waiting {}

/// One pool at work. Owned by the dispatcher.
#[derive(Debug)]
pub(crate) struct Pool {
    queues: Queues,
    tasks: Arc<[Arc<str>]>,
    slots: usize,
    n_running: usize,
    waiting: BinaryHeap<Waiting>,
    look_ahead: usize,
    n_ended: usize,
    /// The store had nothing more for it, as of the version of its notice.
    dry_at: Option<u64>,
}

impl Pool {
    pub(crate) fn new(config: &PoolConfig, tasks: Arc<[Arc<str>]>) -> Self {
        Pool {
            queues: config.queues.clone(),
            tasks,
            slots: config.slots,
            n_running: 0,
            waiting: BinaryHeap::new(),
            look_ahead: 0,
            n_ended: 0,
            dry_at: None,
        }
    }

    /// What it has room for, as of `version` of the store's notice. Asked once a commit.
    pub(crate) fn demand(&mut self, version: u64) -> Demand {
        let held = self.n_running + self.waiting.len();
        let is_dry = self.dry_at == Some(version) || self.tasks.is_empty();
        let room = (self.slots + self.look_ahead).saturating_sub(held);
        Demand {
            queues: self.queues.clone(),
            tasks: Arc::clone(&self.tasks),
            n: if is_dry { 0 } else { room },
        }
    }

    /// A commit begins: what ended since the last one says how far to look ahead.
    pub(crate) fn adapt(&mut self) {
        let ended = std::mem::take(&mut self.n_ended);
        self.look_ahead = usize::midpoint(self.look_ahead, 2 * ended).min(LOOK_AHEAD_MAX);
    }

    /// What the store said before holds no longer.
    pub(crate) fn look_again(&mut self) {
        self.dry_at = None;
    }

    /// The store had nothing more for it.
    pub(crate) fn dry(&mut self, version: u64) {
        self.dry_at = Some(version);
    }

    pub(crate) fn wait(&mut self, claimed: Claimed) {
        self.waiting.push(Waiting(claimed));
    }

    /// The next job to begin, if there is one and a slot for it.
    pub(crate) fn begin(&mut self) -> Option<Claimed> {
        if self.slots <= self.n_running {
            return None;
        }
        let next = self.waiting.pop()?;
        self.n_running += 1;
        Some(next.0)
    }

    pub(crate) fn end(&mut self) {
        self.n_running -= 1;
        self.n_ended += 1;
    }

    pub(crate) fn n_running(&self) -> usize {
        self.n_running
    }

    /// The leases of the jobs that have not begun.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (JobId, Fence)> {
        self.waiting.iter().map(|it| (it.0.id, it.0.fence))
    }

    /// Takes back every job that has not begun.
    pub(crate) fn take_waiting(&mut self) -> Vec<Claimed> {
        std::mem::take(&mut self.waiting).into_iter().map(|it| it.0).collect()
    }

    /// How many attempts may end before the dispatcher looks.
    pub(crate) fn capacity(&self) -> usize {
        self.slots
    }
}
