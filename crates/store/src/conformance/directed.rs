//! Cases that a random history does not come to: long chains, and more than one call may move.

use std::time::Duration;

use taskloom_model::{DependencyPolicy, JobId, Rules, StateName};

use super::compare::same;
use super::said;
use crate::{Clock, Filter, ManualClock, NewJob, PROMOTE_MAX, Page, Store};

/// How many jobs wait one for another: more than a stack holds.
const CHAIN: u64 = 20_000;

/// The end of the first job of a long chain reaches the last, in one call.
///
/// # Errors
/// What differs.
///
/// # Cancel safety
/// A dropped future leaves part of the chain in the store.
pub async fn long_chain(store: &dyn Store) -> Result<(), String> {
    let mut last: Option<JobId> = None;
    let mut first = None;
    for _ in 0..CHAIN {
        let mut job = NewJob::new("link", "{}");
        job.after = last.into_iter().collect();
        let accepted = store.submit(vec![job]).await.map_err(said)?;
        last = accepted.first().map(|it| it.id);
        first = first.or(last);
    }
    store.cancel(first.into_iter().collect()).await.map_err(said)?;
    check_count(store, "link", StateName::Cancelled, CHAIN).await
}

/// More jobs than one call moves pass their deadline at once, and all of them fail.
///
/// # Errors
/// What differs.
///
/// # Cancel safety
/// A dropped future leaves part of the jobs in the store.
pub async fn many_deadlines(store: &dyn Store, clock: &ManualClock) -> Result<(), String> {
    let n = PROMOTE_MAX + 10;
    let now = clock.now();
    let (soon, never) = (Duration::from_secs(1), Duration::from_secs(86_400));
    let mut blocker = NewJob::new("patient", "{}");
    blocker.delay = Some(never);
    let blocker = store.submit(vec![blocker]).await.map_err(said)?;
    let mut late = NewJob::new("late", "{}");
    late.rules = Rules {
        deadline: Some(now + soon),
        on_dependency_failure: DependencyPolicy::Run,
        ..Rules::default()
    };
    late.after = blocker.iter().map(|it| it.id).collect();
    store.submit(vec![late; n]).await.map_err(said)?;
    clock.advance(soon);
    let promoted = store.promote().await.map_err(said)?;
    same("moved by the first call", &promoted.n_moved, &PROMOTE_MAX)?;
    same("whether the rest is due", &promoted.next_due, &Some(now + soon))?;
    let promoted = store.promote().await.map_err(said)?;
    same("moved by the second call", &promoted.n_moved, &10)?;
    same("what is due then", &promoted.next_due, &Some(now + never))?;
    check_count(store, "late", StateName::Failed, u64::try_from(n).unwrap_or(0)).await?;
    let filter = Filter { states: vec![StateName::Blocked], ..Filter::default() };
    let listed = store.list(filter, Page::default()).await.map_err(said)?;
    same("jobs that are still blocked", &listed.jobs.len(), &0)
}

async fn check_count(
    store: &dyn Store,
    task: &str,
    state: StateName,
    n: u64,
) -> Result<(), String> {
    let counts = store.counts().await.map_err(said)?;
    let mine: Vec<_> =
        counts.iter().filter(|it| &*it.task == task).map(|it| (it.state, it.n)).collect();
    same(format!("the {task} jobs"), &mine, &vec![(state, n)])
}
