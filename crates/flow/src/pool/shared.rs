//! How resources pass between the pool, its guards, its upkeep and those who wait.
//!
//! # Invariants
//! - `idle + n_lent + n_opening` never exceeds `n_max`.
//! - Nobody waits while a resource is idle.
//! - Nothing of the manager's runs, and no resource is dropped, under the lock.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::builder::Limits;
use super::error::{PoolError, PoolOpenError};
use super::guard::PoolGuard;
use super::owner::Owner;
use super::state::{Given, Idle, Opened, State, Waiter};
use super::{PoolManager, PoolStats};

/// How long after a failed opening the next one begins; it doubles with each failure.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// The longest wait between two openings: who waits is told of a dead server about so often.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// What the pool, its guards and its upkeep share.
pub(super) struct Shared<M: PoolManager> {
    pub(super) manager: M,
    pub(super) limits: Limits,
    pub(super) state: Mutex<State<M>>,
    /// Tells the upkeep that there may be something to open or to close.
    pub(super) changed: Notify,
    /// Tells who closes the pool that nothing is open any more.
    pub(super) emptied: Notify,
}

/// A caller's place in the line. Dropping it leaves the line, and passes on what it was given.
pub(super) struct Waiting<M: PoolManager> {
    ticket: i64,
    given: oneshot::Receiver<Given<M>>,
    shared: Arc<Shared<M>>,
}

pub(super) enum Turn<M: PoolManager> {
    Ready(PoolGuard<M>),
    Wait(Waiting<M>),
}

impl<M: PoolManager> Shared<M> {
    /// Takes an idle resource, or a place in the line: its head when `first`.
    pub(super) fn take_or_wait(
        self: &Arc<Self>,
        first: bool,
    ) -> Result<Turn<M>, PoolError<M::Error>> {
        let now = Instant::now();
        let owner = Owner::current();
        let mut state = self.state.lock();
        if state.closed {
            return Err(PoolError::Closed);
        }
        // Who comes new goes behind those who wait, and then nothing is idle anyway.
        while let Some(idle) = state.idle.pop_back() {
            let mut opened = idle.opened;
            if self.limits.age_end(opened.opened_at).is_some_and(|it| it <= now) {
                state.retire(opened.resource);
                self.changed.notify_one();
                continue;
            }
            opened.suspect |= self.limits.check_after <= now - idle.since;
            state.n_lent += 1;
            state.own(opened.serial, Some(owner));
            return Ok(Turn::Ready(PoolGuard::new(opened, Arc::clone(self))));
        }
        let (give, given) = oneshot::channel();
        let ticket = if first {
            state.ticket_first -= 1;
            state.ticket_first
        } else {
            state.ticket_last += 1;
            state.ticket_last
        };
        state.waiters.insert(ticket, Waiter { give, owner });
        if state.n_open() < self.limits.n_max {
            self.changed.notify_one();
        }
        Ok(Turn::Wait(Waiting { ticket, given, shared: Arc::clone(self) }))
    }

    /// Gives a resource that is counted as lent to the one who waits longest, or lays it by.
    pub(super) fn give(self: &Arc<Self>, mut opened: Opened<M::Resource>) {
        loop {
            let now = Instant::now();
            let mut state = self.state.lock();
            state.moved_at = now;
            let is_old = self.limits.age_end(opened.opened_at).is_some_and(|it| it <= now);
            if state.closed || is_old {
                drop(state);
                return self.discard(opened);
            }
            let Some((_, waiter)) = state.waiters.pop_first() else {
                state.n_lent -= 1;
                state.owners.remove(&opened.serial);
                let ends = [self.limits.idle_end(now), self.limits.age_end(opened.opened_at)];
                let end = ends.into_iter().flatten().min();
                state.idle.push_back(Idle { opened, since: now });
                // The upkeep is told only when it would sleep over this one's end.
                if end.is_some_and(|end| state.wakes_at.is_none_or(|it| end < it)) {
                    self.changed.notify_one();
                }
                return;
            };
            state.own(opened.serial, Some(waiter.owner));
            drop(state);
            match waiter.give.send(Ok(PoolGuard::new(opened, Arc::clone(self)))) {
                // The waiter left a moment ago: the next one gets it.
                Err(Ok(guard)) => opened = guard.into_opened(),
                Ok(()) | Err(Err(_)) => return,
            }
        }
    }

    /// Closes a resource that is counted as lent.
    pub(super) fn discard(&self, opened: Opened<M::Resource>) {
        let mut state = self.state.lock();
        state.n_lent -= 1;
        state.owners.remove(&opened.serial);
        if state.abandoned {
            state.totals.closed += 1;
            drop(state);
            drop(opened);
            return;
        }
        state.retire(opened.resource);
        self.changed.notify_one();
    }

    /// Forgets a resource that its holder keeps for itself.
    pub(super) fn detach(&self, serial: u64) {
        let mut state = self.state.lock();
        state.n_lent -= 1;
        state.owners.remove(&serial);
        state.totals.closed += 1;
        self.changed.notify_one();
        self.tell_if_empty(&state);
    }

    /// Ends an opening with its resource.
    pub(super) fn opened(self: &Arc<Self>, resource: M::Resource) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.n_opening = state.n_opening.saturating_sub(1);
        state.n_lent += 1;
        state.n_failures = 0;
        state.open_error = None;
        state.totals.opened += 1;
        let serial = state.totals.opened;
        drop(state);
        self.give(Opened { resource, serial, opened_at: now, suspect: false });
        // After a failure the upkeep opened one at a time; now it may open more.
        self.changed.notify_one();
    }

    /// Ends an opening that failed, and tells those who wait for it.
    pub(super) fn open_failed(&self, error: PoolOpenError<M::Error>) {
        let error = Arc::new(error);
        let mut state = self.state.lock();
        state.n_opening = state.n_opening.saturating_sub(1);
        let delay = BACKOFF_FIRST.saturating_mul(2_u32.saturating_pow(state.n_failures));
        state.open_after = Instant::now() + delay.min(BACKOFF_MAX);
        state.n_failures = state.n_failures.saturating_add(1);
        state.totals.failed += 1;
        state.open_error = Some(Arc::clone(&error));
        self.changed.notify_one();
        self.tell_if_empty(&state);
        // With nothing open that could come back, nobody's wait has a point.
        if state.n_open() == 0 {
            let waiters = std::mem::take(&mut state.waiters);
            drop(state);
            for waiter in waiters.into_values() {
                waiter.give.send(Err(Arc::clone(&error))).ok();
            }
            return;
        }
        drop(state);
        loop {
            let Some((_, waiter)) = self.state.lock().waiters.pop_first() else { return };
            // One that left a moment ago hears nothing: the next one does.
            if waiter.give.send(Err(Arc::clone(&error))).is_ok() {
                return;
            }
        }
    }

    /// Ends the closing of a resource.
    pub(super) fn closed(&self, n_closed: usize) {
        let mut state = self.state.lock();
        state.n_closing = state.n_closing.saturating_sub(n_closed);
        self.tell_if_empty(&state);
    }

    fn tell_if_empty(&self, state: &State<M>) {
        if state.closed && state.is_empty() {
            self.emptied.notify_waiters();
        }
    }

    /// Gives nothing any more: those who wait are told, and what is idle is closed.
    pub(super) fn refuse(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let waiters = std::mem::take(&mut state.waiters);
        while let Some(idle) = state.idle.pop_front() {
            state.retire(idle.opened.resource);
        }
        drop(state);
        drop(waiters);
        self.changed.notify_one();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state.lock().is_empty()
    }

    /// Leaves what is still open to be dropped; returns how many are in use.
    pub(super) fn abandon(&self) -> usize {
        self.refuse();
        let mut state = self.state.lock();
        state.abandoned = true;
        // Those under way are aborted; one that ends all the same counts down from zero.
        state.n_opening = 0;
        state.n_closing = 0;
        let to_close = std::mem::take(&mut state.to_close);
        let n_lent = state.n_lent;
        drop(state);
        drop(to_close);
        n_lent
    }

    /// Notes that `owner` uses a resource now; `None` that it is on its way to another.
    pub(super) fn note_owner(&self, serial: u64, owner: Option<Owner>) {
        self.state.lock().own(serial, owner);
    }

    pub(super) fn waited(&self, since: Instant) {
        let waited = since.elapsed();
        let totals = &mut self.state.lock().totals;
        totals.wait_total += waited;
        totals.wait_max = totals.wait_max.max(waited);
    }

    /// What a caller gets who has waited since `since` for nothing.
    ///
    /// # Panics
    /// In debug builds, when it waited for itself.
    pub(super) fn timed_out(&self, since: Instant) -> PoolError<M::Error> {
        let mut state = self.state.lock();
        state.totals.timed_out += 1;
        let n_max = self.limits.n_max;
        let is_deadlocked =
            cfg!(debug_assertions) && state.is_deadlocked(&self.limits, Owner::current(), since);
        let error = PoolError::TimedOut {
            waited: self.limits.acquire_timeout,
            in_use: state.n_lent,
            n_max,
            waiting: state.waiters.len(),
            open_error: state.open_error.clone(),
        };
        drop(state);
        assert!(
            !is_deadlocked,
            "a deadlock: this task holds a resource of a pool and waits for another, and all \
             {n_max} are held by tasks that wait like this one. Use the guard that is there, pass \
             it on as an argument, or drop it before the next `acquire`; a guard that was moved \
             to another task should be moved by `hand_over`"
        );
        error
    }

    pub(super) fn stats(&self) -> PoolStats {
        let state = self.state.lock();
        let totals = &state.totals;
        PoolStats {
            open: state.idle.len() + state.n_lent,
            idle: state.idle.len(),
            in_use: state.n_lent,
            opening: state.n_opening,
            closing: state.n_closing,
            waiting: state.waiters.len(),
            opened: totals.opened,
            closed: totals.closed,
            failed: totals.failed,
            failed_checks: totals.failed_checks,
            timed_out: totals.timed_out,
            wait_total: totals.wait_total,
            wait_max: totals.wait_max,
        }
    }
}

impl<M: PoolManager> Waiting<M> {
    /// Waits to be given a resource.
    pub(super) async fn given(mut self) -> Result<PoolGuard<M>, PoolError<M::Error>> {
        match (&mut self.given).await {
            Ok(given) => given.map_err(PoolError::Open),
            Err(_) => Err(PoolError::Closed),
        }
    }
}

impl<M: PoolManager> Drop for Waiting<M> {
    fn drop(&mut self) {
        let left = self.shared.state.lock().waiters.remove(&self.ticket);
        drop(left);
    }
}
