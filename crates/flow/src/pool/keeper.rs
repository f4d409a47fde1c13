//! The upkeep of a pool: opens what is wanted, and closes what is discarded, idle or old.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use super::PoolManager;
use super::error::PoolOpenError;
use super::shared::Shared;
use crate::{TaskGroup, catch_panic};

/// How long a resource may take to close before it is dropped instead: the time of a polite
/// goodbye over a slow network, and no more for a server that is gone.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// What one look at the pool comes to.
struct Plan<R> {
    n_openings: usize,
    to_close: Vec<R>,
    wakes_at: Option<Instant>,
}

/// The routine that lives as long as its pool. Openings and closings are routines of their own, so
/// that a slow one holds up nothing.
pub(super) async fn keep<M: PoolManager>(shared: Arc<Shared<M>>) {
    let routines = TaskGroup::isolated();
    loop {
        let plan = plan(&shared, Instant::now());
        for _ in 0..plan.n_openings {
            routines.spawn("pool open", open_one(Arc::clone(&shared)));
        }
        for resource in plan.to_close {
            routines.spawn("pool close", close_one(Arc::clone(&shared), resource));
        }
        let due = async {
            match plan.wakes_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.changed.notified() => (),
            () = due => (),
        }
    }
}

/// Retires what is idle for too long or too old, and says what to do next.
fn plan<M: PoolManager>(shared: &Shared<M>, now: Instant) -> Plan<M::Resource> {
    let limits = &shared.limits;
    let mut state = shared.state.lock();
    let mut wakes_at: Option<Instant> = None;
    let mut wake = |at: Instant| wakes_at = Some(wakes_at.map_or(at, |it| it.min(at)));
    for _ in 0..state.idle.len() {
        let Some(idle) = state.idle.pop_front() else { break };
        let age_end = limits.age_end(idle.opened.opened_at);
        let idle_end = limits.idle_end(idle.since);
        // With itself, which was taken off just now.
        let is_spare = limits.n_min <= state.n_open();
        let is_over = |end: Option<Instant>| end.is_some_and(|it| it <= now);
        if is_over(age_end) || (is_spare && is_over(idle_end)) {
            state.retire(idle.opened.resource);
            continue;
        }
        [age_end, idle_end].into_iter().flatten().filter(|it| now < *it).for_each(&mut wake);
        state.idle.push_back(idle);
    }
    let (n_openings, ask_at) = state.openings(limits, now);
    state.n_opening += n_openings;
    ask_at.into_iter().for_each(&mut wake);
    state.wakes_at = wakes_at;
    let mut to_close = std::mem::take(&mut state.to_close);
    // At most as many say goodbye at once as may be open; the others are dropped without.
    let n_too_many = state.n_closing.saturating_sub(limits.n_max).min(to_close.len());
    drop(state);
    if 0 < n_too_many {
        to_close.truncate(to_close.len() - n_too_many);
        shared.closed(n_too_many);
    }
    Plan { n_openings, to_close, wakes_at }
}

async fn open_one<M: PoolManager>(shared: Arc<Shared<M>>) {
    let limit = shared.limits.open_timeout;
    match timeout(limit, catch_panic(shared.manager.open())).await {
        Ok(Ok(Ok(resource))) => shared.opened(resource),
        Ok(Ok(Err(error))) => shared.open_failed(PoolOpenError::Failed(error)),
        Ok(Err(panicked)) => shared.open_failed(PoolOpenError::Panicked(panicked)),
        Err(_) => shared.open_failed(PoolOpenError::TimedOut(limit)),
    }
}

async fn close_one<M: PoolManager>(shared: Arc<Shared<M>>, resource: M::Resource) {
    timeout(CLOSE_MAX, catch_panic(shared.manager.close(resource))).await.ok();
    shared.closed(1);
}
