//! What a group and its routines share: who lives, and how the others ended.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::{Poll, Waker};

use parking_lot::Mutex;
use slab::Slab;
use tokio::task::AbortHandle;

use super::routine::{Membership, Routine, Tracked};
use super::{BoxError, Drained, End, Ended, Failure, GroupError, Name, RoutineOutput};
use crate::{Cancellation, Reason, timeout};

/// How many ended routines a group remembers for an owner that spawns without listening, and how
/// many failures. A group of a component has a handful of routines; only those that spawn one per
/// job come near it.
pub(super) const ENDED_MAX: usize = 256;

/// What a failure does to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnFailure {
    CancelSiblings,
    Tell,
}

/// How a routine takes part in its group.
///
/// Ordered by how much it takes to end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RoutineKind {
    /// Dropped at its next await point when the group is cancelled.
    Plain,
    /// Holds the group's token and has a grace.
    Graceful,
    /// Finishes, whatever becomes of the group.
    Shielded,
}

/// A routine that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutineInfo {
    /// The name it was spawned with.
    pub name: Name,
    /// How it takes part in its group.
    pub kind: RoutineKind,
    /// What Tokio, and its console, call it; `None` while it is being spawned.
    pub id: Option<tokio::task::Id>,
}

pub(super) struct Shared {
    pub(super) cancellation: Cancellation,
    pub(super) on_failure: OnFailure,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    live: Slab<Live>,
    n_shielded: usize,
    /// Counts every routine: tells a key's next holder from its last, and gives an order.
    n_spawned: u64,
    /// Who may still be spawned: all, only the shielded, or none.
    admits: Admits,
    /// Routines up to this kind were aborted; one that is just being spawned must be, too.
    aborted: Option<RoutineKind>,
    /// Whether a routine was cut short since the group was cancelled.
    is_cut: bool,
    /// Ends nobody was told of; failures apart, so that clean ends can't push them out.
    ended: VecDeque<Ended>,
    failures: VecDeque<(Name, Failure)>,
    n_failures_forgotten: usize,
    /// Of the owner, who waits for one end or for the last.
    waiter: Option<Waker>,
    wake_at_each: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Admits {
    #[default]
    All,
    Shielded,
    None,
}

struct Live {
    name: Name,
    kind: RoutineKind,
    serial: u64,
    /// Empty between its registration and its spawning.
    abort: Option<AbortHandle>,
}

impl Shared {
    pub(super) fn new(cancellation: Cancellation, on_failure: OnFailure) -> Self {
        Shared { cancellation, on_failure, state: Mutex::default() }
    }

    pub(super) fn spawn<F>(
        self: &Arc<Self>,
        name: Name,
        kind: RoutineKind,
        future: F,
    ) -> Routine<<F::Output as RoutineOutput>::Value>
    where
        F: Future<Output: RoutineOutput<Value: Send, Error: Into<BoxError>>> + Send + 'static,
    {
        let Some((key, serial)) = self.register(name, kind) else { return Routine::refused() };
        let membership = Membership::new(Arc::clone(self), key);
        // What is shielded may outlast the caller, so the caller's deadline is none of it.
        let deadline = if kind == RoutineKind::Shielded { None } else { timeout::current() };
        let tracked = Tracked::new(future, deadline, membership);
        #[expect(clippy::disallowed_methods, reason = "this group owns what it spawns")]
        let handle = tokio::spawn(tracked);
        self.keep_abort(key, serial, handle.abort_handle());
        Routine::new(handle)
    }

    fn register(&self, name: Name, kind: RoutineKind) -> Option<(usize, u64)> {
        let mut state = self.state.lock();
        match state.admits {
            Admits::All => {}
            Admits::Shielded if kind == RoutineKind::Shielded => {}
            Admits::Shielded | Admits::None => return None,
        }
        state.n_spawned += 1;
        state.n_shielded += usize::from(kind == RoutineKind::Shielded);
        let serial = state.n_spawned;
        Some((state.live.insert(Live { name, kind, serial, abort: None }), serial))
    }

    /// Outside the lock that registered it: Tokio may drop a future within `spawn`, and that
    /// takes the lock.
    fn keep_abort(&self, key: usize, serial: u64, abort: AbortHandle) {
        let mut state = self.state.lock();
        let aborted = state.aborted;
        let Some(live) = state.live.get_mut(key).filter(|it| it.serial == serial) else { return };
        if Some(live.kind) <= aborted {
            drop(state);
            abort.abort();
        } else {
            live.abort = Some(abort);
        }
    }

    pub(super) fn ended(&self, key: usize, end: End) {
        let is_cancelled = self.cancellation.is_cancelled();
        let mut state = self.state.lock();
        let Live { name, kind, .. } = state.live.remove(key);
        state.n_shielded -= usize::from(kind == RoutineKind::Shielded);
        let end = match end {
            End::Failed(failure) if is_cancelled && failure.is_cancellation() => End::Cancelled,
            end => end,
        };
        let is_failure = matches!(end, End::Failed(_));
        state.is_cut |= is_cancelled && matches!(end, End::Cancelled);
        state.remember(Ended { name: name.clone(), end });
        let waiter = state.waiter_to_wake();
        drop(state);
        if is_failure {
            self.failed(name);
        }
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    /// Counts a failure outside any routine.
    pub(super) fn fail(&self, name: Name, failure: Failure) {
        if self.cancellation.is_cancelled() && failure.is_cancellation() {
            self.state.lock().is_cut = true;
            return;
        }
        self.state.lock().remember(Ended { name: name.clone(), end: End::Failed(failure) });
        self.failed(name);
    }

    fn failed(&self, name: Name) {
        match self.on_failure {
            OnFailure::CancelSiblings => self.cancel(Reason::SiblingFailed(name)),
            OnFailure::Tell => {}
        }
    }

    /// Fires the token, takes no more routines, and drops those that don't hold the token.
    pub(super) fn cancel(&self, reason: Reason) {
        self.cancellation.cancel(reason);
        let mut state = self.state.lock();
        if state.admits == Admits::All {
            state.admits = Admits::Shielded;
        }
        drop(state);
        self.abort(RoutineKind::Plain);
    }

    pub(super) fn close(&self) {
        self.state.lock().admits = Admits::None;
    }

    /// Aborts routines up to this kind, and says how many.
    pub(super) fn abort(&self, up_to: RoutineKind) -> usize {
        let mut state = self.state.lock();
        state.aborted = state.aborted.max(Some(up_to));
        let meant = state.live.iter().filter(|(_, it)| it.kind <= up_to);
        // Outside the lock: an abort may drop the future here and now, and that takes the lock.
        let aborts: Vec<_> = meant.map(|(_, it)| it.abort.clone()).collect();
        drop(state);
        aborts.iter().flatten().for_each(AbortHandle::abort);
        aborts.len()
    }

    pub(super) fn len(&self) -> usize {
        self.state.lock().live.len()
    }

    pub(super) fn routines(&self) -> Vec<RoutineInfo> {
        let state = self.state.lock();
        let mut live: Vec<&Live> = state.live.iter().map(|(_, it)| it).collect();
        live.sort_unstable_by_key(|it| it.serial);
        let info = |it: &Live| {
            let id = it.abort.as_ref().map(AbortHandle::id);
            RoutineInfo { name: it.name.clone(), kind: it.kind, id }
        };
        live.into_iter().map(info).collect()
    }

    /// Waits for an end that nobody was told of.
    pub(super) async fn next_end(&self) -> Option<Ended> {
        poll_fn(|cx| {
            let mut state = self.state.lock();
            if let Some((name, failure)) = state.failures.pop_front() {
                return Poll::Ready(Some(Ended { name, end: End::Failed(failure) }));
            }
            if let Some(ended) = state.ended.pop_front() {
                return Poll::Ready(Some(ended));
            }
            if state.live.is_empty() {
                return Poll::Ready(None);
            }
            state.wait(cx.waker(), true);
            Poll::Pending
        })
        .await
    }

    /// Waits until all have ended, and takes no more from that moment.
    pub(super) async fn closed(&self) {
        self.wait_until(|state| {
            let is_over = state.live.is_empty();
            if is_over {
                state.admits = Admits::None;
            }
            is_over
        })
        .await;
    }

    pub(super) async fn all_ended_but_shielded(&self) {
        self.wait_until(|state| state.live.len() == state.n_shielded).await;
    }

    async fn wait_until(&self, is_met: impl Fn(&mut State) -> bool) {
        poll_fn(|cx| {
            let mut state = self.state.lock();
            if is_met(&mut state) {
                return Poll::Ready(());
            }
            let wake_at_each = 0 < state.n_shielded;
            state.wait(cx.waker(), wake_at_each);
            Poll::Pending
        })
        .await;
    }

    /// What a drain tells of.
    pub(super) fn drained(&self, n_aborted: usize) -> Drained {
        let mut state = self.state.lock();
        let failures = std::mem::take(&mut state.failures).into();
        Drained { n_aborted, failures, n_more: state.n_failures_forgotten }
    }

    /// What went wrong, if anything did, once all have ended.
    pub(super) fn take_error(&self) -> Option<GroupError> {
        let mut state = self.state.lock();
        let failures = Vec::from(std::mem::take(&mut state.failures));
        if failures.is_empty() && !state.is_cut {
            return None;
        }
        let (n_more, reason) = (state.n_failures_forgotten, self.cancellation.reason());
        Some(GroupError { failures, n_more, reason })
    }
}

impl State {
    fn remember(&mut self, Ended { name, end }: Ended) {
        match end {
            End::Failed(failure) if self.failures.len() < ENDED_MAX => {
                self.failures.push_back((name, failure));
            }
            End::Failed(_) => self.n_failures_forgotten += 1,
            End::Returned | End::Cancelled => {
                if self.ended.len() == ENDED_MAX {
                    self.ended.pop_front();
                }
                self.ended.push_back(Ended { name, end });
            }
        }
    }

    fn wait(&mut self, waker: &Waker, wake_at_each: bool) {
        self.wake_at_each = wake_at_each;
        match &mut self.waiter {
            Some(waiter) => waiter.clone_from(waker),
            None => self.waiter = Some(waker.clone()),
        }
    }

    fn waiter_to_wake(&mut self) -> Option<Waker> {
        let is_meant = self.wake_at_each || self.live.len() == self.n_shielded;
        if is_meant { self.waiter.take() } else { None }
    }
}
