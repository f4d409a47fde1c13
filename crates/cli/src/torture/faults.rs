//! Does the faults of a plan, each at its time, and puts new workers where others have ended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use taskloom::{Clock, SystemClock};
use taskloom_flow::{Every, TaskGroup};
use tokio::signal::unix::Signal;
use tokio::time::Instant;

use super::fleet::Fleet;
use super::plan::{Fault, Kind};
use super::progress::Progress;
use super::target::Target;
use crate::args::Role;

/// How often ended workers are replaced.
const TEND_EVERY: Duration = Duration::from_millis(50);

/// How long a server takes at most to be there again, beside what a fault lasts.
const RECOVERS: Duration = Duration::from_secs(5);

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) n_faults: BTreeMap<Kind, u64>,
    /// While the server freed the liveness locks of living workers, from and until, in milliseconds
    /// since 1970.
    pub(super) freed: Vec<(i64, i64)>,
    /// Ctrl-C came before the end of the plan.
    pub(super) is_cut: bool,
}

/// A fault, or the end of one that is done to a worker.
#[derive(Debug, Clone, Copy)]
struct Act {
    at: Duration,
    fault: Fault,
    is_end: bool,
}

/// What was done to the store. The routines that do it write.
type Suffered = Arc<Mutex<Done>>;

fn acts(plan: &[Fault]) -> Vec<Act> {
    let begins = plan.iter().map(|it| Act { at: it.at, fault: *it, is_end: false });
    let has_end = |it: &&Fault| it.place.is_some() && !it.length.is_zero();
    let ends = plan.iter().filter(has_end);
    let ends = ends.map(|it| Act { at: it.at + it.length, fault: *it, is_end: true });
    let mut acts: Vec<Act> = begins.chain(ends).collect();
    acts.sort_by_key(|it| it.at);
    acts
}

/// Does what `plan` says for as long as the run `lasts`, or until it is interrupted.
pub(super) async fn run(
    fleet: &mut Fleet,
    target: &Target,
    (plan, lasts): (&[Fault], Duration),
    (interrupts, progress): (&mut Signal, &mut Progress),
) -> Result<Done> {
    let began = Instant::now();
    let (sufferings, suffered) = (TaskGroup::isolated(), Suffered::default());
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
        let Some(place) = act.fault.place else {
            let suffering = suffer(target.clone(), act.fault, Arc::clone(&suffered));
            sufferings.spawn("fault", suffering);
            continue;
        };
        apply(fleet, place, act);
        if !act.is_end {
            *done.n_faults.entry(act.fault.kind).or_default() += 1;
        }
    }
    // What is under way is let go.
    sufferings.drain(Duration::ZERO).await;
    target.recover().await?;
    let of_store = std::mem::take(&mut *suffered.lock().unwrap_or_else(PoisonError::into_inner));
    done.n_faults.extend(of_store.n_faults);
    done.freed = of_store.freed;
    Ok(done)
}

fn apply(fleet: &mut Fleet, place: usize, act: Act) {
    tracing::debug!(?act, "a fault");
    match (act.fault.kind, act.is_end) {
        (Kind::Kill, _) => fleet.kill(place),
        (Kind::Drain, _) => fleet.drain(place),
        (Kind::Pause, false) => fleet.pause(place),
        (Kind::Pause, true) => fleet.go_on(place),
        (Kind::DiskFull, is_end) => fleet.limit(place, !is_end),
        // Those of the store.
        (_, _) => {}
    }
}

/// Does a fault to the store. It counts only when it could be done: a stopped worker may have the
/// right to write.
async fn suffer(target: Target, fault: Fault, suffered: Suffered) {
    let done = || suffered.lock().unwrap_or_else(PoisonError::into_inner);
    use Kind::{Away, Crash, Cut, CutAll, Restart};
    if matches!(fault.kind, Cut | CutAll | Restart | Crash | Away) {
        let from = SystemClock.now().as_millis();
        let length = i64::try_from((fault.length + RECOVERS).as_millis()).unwrap_or(i64::MAX);
        done().freed.push((from, from + length));
    }
    let began = || *done().n_faults.entry(fault.kind).or_default() += 1;
    let went = target.suffer(fault.kind, fault.length, began).await;
    if let Err(error) = went {
        tracing::warn!(%error, kind = ?fault.kind, "a fault could not be done");
    }
}
