//! Does the faults of a plan, each at its time, and puts new workers where others have ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use taskloom::TaskSystem;
use taskloom_flow::{Every, TaskGroup};
use tokio::signal::unix::Signal;
use tokio::time::Instant;

use super::fleet::Fleet;
use super::plan::{Fault, Kind};
use super::progress::Progress;
use crate::args::Role;

/// How often ended workers are replaced.
const TEND_EVERY: Duration = Duration::from_millis(50);

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) n_faults: BTreeMap<Kind, u64>,
    /// Ctrl-C came before the end of the plan.
    pub(super) is_cut: bool,
}

/// A fault, or the end of one.
#[derive(Debug, Clone, Copy)]
struct Act {
    at: Duration,
    fault: Fault,
    is_end: bool,
}

fn acts(plan: &[Fault]) -> Vec<Act> {
    let begins = plan.iter().map(|it| Act { at: it.at, fault: *it, is_end: false });
    let has_end = |it: &&Fault| matches!(it.kind, Kind::Pause | Kind::DiskFull);
    let ends = plan.iter().filter(has_end);
    let ends = ends.map(|it| Act { at: it.at + it.length, fault: *it, is_end: true });
    let mut acts: Vec<Act> = begins.chain(ends).collect();
    acts.sort_by_key(|it| it.at);
    acts
}

/// Does what `plan` says for as long as the run `lasts`, or until it is interrupted.
pub(super) async fn run(
    fleet: &mut Fleet,
    (plan, lasts): (&[Fault], Duration),
    interrupts: &mut Signal,
    progress: &mut Progress,
) -> Result<Done> {
    let began = Instant::now();
    let (holds, n_held) = (TaskGroup::isolated(), Arc::new(AtomicU64::new(0)));
    let mut done = Done::default();
    let mut acts = acts(plan).into_iter().take_while(|it| it.at < lasts).peekable();
    let mut tend = Every::new(TEND_EVERY);
    loop {
        let next = acts.peek().map_or(lasts, |it| it.at);
        let is_due = tokio::select! {
            biased;
            _ = interrupts.recv() => {
                done.is_cut = true;
                break;
            }
            () = tokio::time::sleep_until(began + next) => true,
            _ = tend.tick() => false,
        };
        if !is_due {
            fleet.replace_ended(Role::Storm)?;
            progress.show(began.elapsed(), done.n_faults.values().sum()).await;
            continue;
        }
        let Some(act) = acts.next() else { break };
        if act.fault.kind == Kind::Hold {
            let hold = hold(fleet.recipe.store.clone(), act.fault.length, Arc::clone(&n_held));
            holds.spawn("hold", hold);
            continue;
        }
        apply(fleet, act);
        if !act.is_end {
            *done.n_faults.entry(act.fault.kind).or_default() += 1;
        }
    }
    // A hold that is under way is let go.
    holds.drain(Duration::ZERO).await;
    let n_held = n_held.load(Ordering::Relaxed);
    if 0 < n_held {
        done.n_faults.insert(Kind::Hold, n_held);
    }
    Ok(done)
}

fn apply(fleet: &mut Fleet, act: Act) {
    let place = act.fault.place;
    tracing::debug!(?act, "a fault");
    match (act.fault.kind, act.is_end) {
        (Kind::Kill, _) => fleet.kill(place),
        (Kind::Drain, _) => fleet.drain(place),
        (Kind::Pause, false) => fleet.pause(place),
        (Kind::Pause, true) => fleet.go_on(place),
        (Kind::DiskFull, is_end) => fleet.limit(place, !is_end),
        (Kind::Hold, _) => {}
    }
}

/// Holds the right to write for a while. It counts only when it was got: a stopped worker may
/// have it.
async fn hold(store: String, length: Duration, n_held: Arc<AtomicU64>) {
    match TaskSystem::open(store).hold_writes().await {
        Ok(_held) => {
            n_held.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(length).await;
        }
        Err(error) => tracing::debug!(%error, "the store could not be held"),
    }
}
