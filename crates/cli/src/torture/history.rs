//! What became of the jobs: the notes of the workers held against what the store says.
//!
//! # Invariants
//! - An accepted job has ended: succeeded with the note of the attempt that the store counts,
//!   quarantined after crashes, or cancelled because somebody asked.
//! - Every attempt that began has a record of its own, and the record a cause in what was done.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use serde::Serialize;
use taskloom::{AttemptView, FailReason, Fence, JobId, JobView, StateName, Store};

use super::fleet::Life;
use super::logs::Log;
use super::notes::{Noted, Trail};
use super::work::{Args, Kind, NOT_NOTED, TOLD};

/// How many jobs one read takes.
const GET_MAX: usize = 500;
/// A crash is counted this often before a job is given up.
const CRASHES_MAX: u32 = 3;

/// A promise that was broken.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Broken {
    /// Which promise, and how.
    pub(super) what: String,
    /// By which job, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) job: Option<JobId>,
}

impl Broken {
    pub(super) fn new(what: impl Into<String>) -> Broken {
        Broken { what: what.into(), job: None }
    }
}

/// What became of the jobs.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) n_accepted: u64,
    pub(super) n_succeeded: u64,
    pub(super) n_cancelled: u64,
    /// Given up by the rule of three crashes.
    pub(super) n_quarantined: u64,
    /// Of these, how many never began: claimed ahead of a free slot, thrice.
    pub(super) n_quarantined_unbegun: u64,
    /// In the store although no submit of theirs was seen to return.
    pub(super) n_unacknowledged: u64,
    /// Jobs that began more than once.
    pub(super) n_rerun: u64,
    /// Why attempts were followed by another.
    pub(super) causes: BTreeMap<&'static str, u64>,
    /// From a kill to the next begin of what it cut, in milliseconds.
    pub(super) rerun_ms: Vec<i64>,
    pub(super) lost: Vec<Broken>,
    pub(super) unexplained: Vec<Broken>,
}

/// What the processes did and suffered, by their number.
#[derive(Debug)]
pub(super) struct Processes<'a> {
    pub(super) lives: &'a [Life],
    pub(super) logs: &'a [Log],
    /// While the server freed liveness locks, from and until, in milliseconds since 1970.
    pub(super) freed: &'a [(i64, i64)],
    /// Whether the store is a server. There an error of the store explains no lost lease: a lock
    /// of the server, not a process that could write, says who lives.
    pub(super) is_server: bool,
}

/// A process that was stopped for longer may have been taken for dead: the lease of 30 s, less
/// what its last heartbeat may have been late. In milliseconds, as the next two.
const SUSPICIOUS: i64 = 20_000;
/// The same without its liveness lock: 3 s, less a heartbeat.
const SUSPICIOUS_UNLOCKED: i64 = 2_000;
/// How long a process takes at most to have its lock back, and to be heard again.
const COMES_BACK: i64 = 3_000;
/// How much earlier than the fault that explains it a server may date a lost lease: the time of a
/// transaction is read before it begins, and a machine under load may make it wait.
const DATED_BACK: i64 = 1_000;

/// Looks at every job that the workers noted.
pub(super) async fn read(
    store: &dyn Store,
    trails: &HashMap<JobId, Trail>,
    processes: &Processes<'_>,
) -> Result<History> {
    let mut history = History::default();
    let mut ids: Vec<JobId> = trails.keys().copied().collect();
    ids.sort_unstable();
    for part in ids.chunks(GET_MAX) {
        let views = store.get(part.to_vec()).await?;
        for (id, view) in part.iter().zip(views) {
            let trail = &trails[id];
            history.n_accepted += u64::from(trail.is_accepted);
            history.end_of(*id, trail, view.as_ref());
            if !is_simple(trail, view.as_ref()) {
                let records = store.attempts(*id).await?;
                history.attempts_of(*id, (trail, view.as_ref()), &records, processes);
            }
        }
    }
    let counts = store.counts().await?;
    let n_durable: u64 = counts.iter().map(|it| it.n).sum();
    history.n_unacknowledged = n_durable.saturating_sub(history.n_accepted);
    Ok(history)
}

/// Whether it began once, and that is the attempt that the store counts.
fn is_simple(trail: &Trail, view: Option<&JobView>) -> bool {
    let Some(view) = view.filter(|it| it.state == StateName::Succeeded) else { return false };
    let mut attempts = trail.attempts.iter();
    let only = attempts.next().filter(|_| attempts.next().is_none());
    only.is_some_and(|(fence, noted)| *fence == view.fence && noted.n_starts == 1)
}

fn kind_of(view: Option<&JobView>) -> Option<Kind> {
    let args: Args = serde_json::from_str(view?.args.get()).ok()?;
    Some(args.kind)
}

impl History {
    /// Judges where a job is in the end.
    fn end_of(&mut self, id: JobId, trail: &Trail, view: Option<&JobView>) {
        let lost = match view {
            None => Some("it is not in the store".to_owned()),
            Some(view) => match (view.state, view.reason) {
                (StateName::Succeeded, _) => {
                    self.n_succeeded += 1;
                    let counted = trail.attempts.get(&view.fence);
                    (!counted.is_some_and(|it| it.has_ended))
                        .then(|| "it succeeded by an attempt that noted no end".to_owned())
                }
                (StateName::Cancelled, _) => {
                    self.n_cancelled += 1;
                    let is_asked =
                        trail.is_cancelled || kind_of(Some(view)) == Some(Kind::Depending);
                    (!is_asked).then(|| "it was cancelled, and nobody had asked".to_owned())
                }
                (StateName::Failed, Some(FailReason::Quarantined)) => {
                    self.n_quarantined += 1;
                    self.n_quarantined_unbegun += u64::from(trail.attempts.is_empty());
                    (view.crashes != CRASHES_MAX)
                        .then(|| format!("it was quarantined after {} crashes", view.crashes))
                }
                (StateName::Failed, _) => Some(format!("it failed: {:?}", view.error)),
                (state, _) => Some(format!("it is {state}, and nothing moves it")),
            },
        };
        self.lost.extend(lost.map(|what| Broken { what, job: Some(id) }));
    }

    /// Finds the cause of every attempt that began and was not the last word.
    fn attempts_of(
        &mut self,
        id: JobId,
        (trail, view): (&Trail, Option<&JobView>),
        records: &[AttemptView],
        processes: &Processes<'_>,
    ) {
        let records: HashMap<Fence, &AttemptView> =
            records.iter().map(|it| (it.fence, it)).collect();
        let mut attempts = trail.attempts.iter().peekable();
        self.n_rerun += u64::from(1 < attempts.len());
        while let Some((fence, noted)) = attempts.next() {
            let next = attempts.peek().map(|(_, next)| *next);
            let record = records.get(fence).copied();
            let found = cause(kind_of(view), (noted, record, next.is_some()), processes);
            match found {
                Ok(found) if next.is_some() => *self.causes.entry(found).or_default() += 1,
                Ok(_) => {}
                Err(what) => {
                    let what = format!("attempt with fence {}: {what}", fence.0);
                    self.unexplained.push(Broken { what, job: Some(id) });
                }
            }
            let killed = processes.lives.get(noted.process as usize).and_then(|it| it.killed);
            let lost = record.filter(|it| it.outcome == "lost");
            if let (Some(next), Some(killed), Some(lost)) = (next, killed, lost)
                && killed <= lost.ended.as_millis()
            {
                self.rerun_ms.push((next.began - killed).max(0));
            }
        }
    }
}

/// Why an attempt ended as the store says; or what has no explanation.
fn cause(
    kind: Option<Kind>,
    (noted, record, is_followed): (&Noted, Option<&AttemptView>, bool),
    processes: &Processes<'_>,
) -> Result<&'static str, String> {
    if noted.n_starts != 1 {
        return Err(format!("it began {} times under one lease", noted.n_starts));
    }
    let Some(record) = record else { return Err("it began, and the store knows none".into()) };
    let code = record.error.as_ref().and_then(|it| it.code.as_deref());
    let process = noted.process as usize;
    let is_drained = processes.lives.get(process).is_some_and(|it| it.is_drained);
    match record.outcome {
        "errored" if code == Some(TOLD) && kind == Some(Kind::Erroring) => Ok("errored as told"),
        "errored" if code == Some(NOT_NOTED) => Ok("could not write its note"),
        "timed_out" if kind == Some(Kind::TimingOut) => Ok("timed out as told"),
        "interrupted" if is_drained => Ok("drained"),
        "succeeded" | "cancelled" if !is_followed => Ok("the last"),
        "lost" => lost(process, record, processes),
        outcome => Err(format!("it {outcome}, and nothing explains that ({:?})", record.error)),
    }
}

/// Why the lease of an attempt was lost.
fn lost(
    process: usize,
    record: &AttemptView,
    processes: &Processes<'_>,
) -> Result<&'static str, String> {
    let (life, log) = processes
        .lives
        .get(process)
        .zip(processes.logs.get(process))
        .ok_or("no such process was started")?;
    let dated_back = if processes.is_server { DATED_BACK } else { 0 };
    if life.killed.is_some_and(|it| it <= record.ended.as_millis() + dated_back) {
        return Ok("killed");
    }
    if let Some(cause) = paused(&life.pauses, record.ended.as_millis(), processes.freed) {
        return Ok(cause);
    }
    if !log.store_errors.is_empty() {
        if !processes.is_server {
            return Ok("store error told");
        }
        // It could not give back what it held.
        if life.is_drained {
            return Ok("drained without the store");
        }
    }
    // Told to drain before it could listen to that.
    if life.end.is_some_and(|it| it.code().is_none()) && life.is_drained {
        return Ok("killed");
    }
    Err("it was lost, and its process was neither killed nor paused for long".into())
}

/// Whether a process may have been taken for dead at `lost` because it was stopped.
fn paused(pauses: &[(i64, i64)], lost: i64, freed: &[(i64, i64)]) -> Option<&'static str> {
    let near: Vec<_> = pauses
        .iter()
        .filter(|(from, until)| (*from..=until + COMES_BACK).contains(&lost))
        .collect();
    if near.iter().any(|(from, until)| SUSPICIOUS <= until - from) {
        return Some("paused");
    }
    let is_unlocked = |(from, until): &&&(i64, i64)| {
        let free = |it: &(i64, i64)| it.0 <= *until && from - COMES_BACK <= it.1;
        SUSPICIOUS_UNLOCKED <= until - from && freed.iter().any(free)
    };
    near.iter().find(is_unlocked).map(|_| "paused, and its connections cut")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_explains_a_lost_lease_when_it_was_long_or_the_lock_was_gone() {
        let (short, long) = ([(100_000, 104_000)], [(100_000, 131_000)]);
        for (pauses, lost, freed, expected) in [
            (&long, 130_500, &[][..], Some("paused")),
            (&long, 99_000, &[], None),
            (&short, 103_500, &[], None),
            (&short, 103_500, &[(101_000, 102_000)], Some("paused, and its connections cut")),
            (&short, 103_500, &[(98_000, 99_000)], Some("paused, and its connections cut")),
            (&short, 103_500, &[(90_000, 91_000)], None),
        ] {
            assert_eq!(paused(pauses, lost, freed), expected, "{pauses:?} {lost} {freed:?}");
        }
    }
}
