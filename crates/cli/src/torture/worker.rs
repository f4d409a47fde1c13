//! A worker process: a node, with submitters beside it that keep it under load.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use taskloom::{Fence, Invocation, JobId, TaskSystem};
use taskloom_flow::{Every, TaskGroup};
use tokio::signal::unix::{SignalKind, signal};

use super::notes::{Notes, What};
use super::work::{BlockingWork, Kind, Work};
use crate::args::{Role, WorkerArgs};
use crate::print;

/// How many attempts a worker runs at once, async and blocking.
const N_SLOTS: usize = 50;
const N_BLOCKING_SLOTS: usize = 4;
/// How long attempts go on after a signal; some are then cut.
const DRAIN: Duration = Duration::from_millis(500);
const GRACE: Duration = Duration::from_millis(200);
/// How many submits are under way at a time, and how many jobs each carries at most.
const N_SUBMITTERS: usize = 2;
const BATCH_MAX: usize = 20;
/// Submitters wait while more jobs than this have not ended: load, not a flood.
const UNFINISHED_MAX: u64 = 1_000;
/// How long a submitter waits for room, and after a refusal.
const WAIT: Duration = Duration::from_millis(100);
/// How often a worker looks whether the process that started it is still there.
const ORPHAN_EVERY: Duration = Duration::from_secs(1);

/// Works until SIGTERM, or until the process that started it is gone.
pub(crate) async fn run(store: &str, args: WorkerArgs) -> Result<ExitCode> {
    print::line("starting")?;
    // A file over its limit is to be an error of the write, not the end of the process.
    let full = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
    let _full = signal(full)?;
    let work = Work {
        notes: Arc::new(Notes::append_to(&args.notes, args.number)?),
        says_start: args.role != Role::Storm,
        sabotage: args.sabotage,
    };
    let system = TaskSystem::open(store)
        .without_registered_tasks()
        .task(work.clone())
        .blocking_task(BlockingWork(work.clone()))
        .max_workers(N_SLOTS)
        .blocking_workers(N_BLOCKING_SLOTS)
        .drain_deadline(DRAIN)
        .grace(GRACE)
        .name(format!("worker {}", args.number));
    let system = system.start().await?;
    print::line("ready")?;
    let routines = TaskGroup::isolated();
    routines.spawn("orphan", leave_when_orphaned());
    match args.role {
        Role::Storm => {
            for n in 0..N_SUBMITTERS as u64 {
                let rng = fastrand::Rng::with_seed(args.seed.wrapping_add(n));
                let submitter = Submitter { system: system.clone(), work: work.clone(), rng };
                routines.spawn("submitter", submitter.run());
            }
        }
        Role::Hold => {
            let held: Vec<_> = (0..N_SLOTS).map(|_| work.job(Kind::Held, 0)).collect();
            system.submit(held).await?;
        }
        Role::Work => {}
    }
    system.run_until_signal().await?;
    routines.drain(Duration::ZERO).await;
    Ok(ExitCode::SUCCESS)
}

/// Whoever kills the command wants no workers left behind.
async fn leave_when_orphaned() {
    let parent = std::os::unix::process::parent_id();
    let mut every = Every::new(ORPHAN_EVERY);
    while std::os::unix::process::parent_id() == parent {
        every.tick().await;
    }
    std::process::exit(1);
}

struct Submitter {
    system: TaskSystem,
    work: Work,
    rng: fastrand::Rng,
}

impl Submitter {
    /// Submits for ever, notes what was accepted, and cancels some of it a batch later.
    async fn run(mut self) {
        let (mut before, mut to_cancel) = (Vec::new(), Vec::new());
        loop {
            if !self.has_room().await {
                tokio::time::sleep(WAIT).await;
                continue;
            }
            match self.submit(&before).await {
                Ok((accepted, next)) => {
                    self.cancel(std::mem::replace(&mut to_cancel, next)).await;
                    before = accepted;
                }
                Err(error) => {
                    let code = error.code();
                    tracing::info!(%error, code, "a submit was refused");
                    tokio::time::sleep(WAIT).await;
                }
            }
        }
    }

    async fn has_room(&self) -> bool {
        let counts = self.system.store().counts().await.unwrap_or_default();
        let unfinished = counts.iter().filter(|it| !it.state.is_ended());
        unfinished.map(|it| it.n).sum::<u64>() < UNFINISHED_MAX
    }

    /// One batch. Gives its jobs, and which of them shall be cancelled.
    async fn submit(
        &mut self,
        before: &[JobId],
    ) -> Result<(Vec<JobId>, Vec<JobId>), taskloom::Error> {
        let n = self.rng.usize(1..=BATCH_MAX);
        let drawn: Vec<(Kind, Invocation<()>)> = (0..n).map(|_| self.draw(before)).collect();
        let (kinds, jobs): (Vec<Kind>, Vec<_>) = drawn.into_iter().unzip();
        let handles = self.system.submit(jobs).await?;
        let ids: Vec<JobId> = handles.iter().map(taskloom::JobHandle::id).collect();
        let noted = ids.iter().map(|it| (*it, Fence::default()));
        if let Err(error) = self.work.notes.write(What::Accepted, noted) {
            // As for a process that dies just here: they are durable, and nobody was told.
            tracing::info!(%error, "accepted jobs could not be noted");
            return Ok((Vec::new(), Vec::new()));
        }
        let cancelled = ids.iter().zip(kinds).filter(|(_, kind)| *kind == Kind::Cancelled);
        let to_cancel = cancelled.map(|(id, _)| *id).collect();
        Ok((ids, to_cancel))
    }

    fn draw(&mut self, before: &[JobId]) -> (Kind, Invocation<()>) {
        let kind = match self.rng.u32(0..100) {
            0..45 => Kind::Instant,
            45..65 => Kind::Sleeping,
            65..75 => Kind::Erroring,
            75..78 => Kind::TimingOut,
            78..86 => Kind::Blocking,
            86..95 => Kind::Depending,
            _ => Kind::Cancelled,
        };
        let job = self.work.job(kind, self.rng.u64(0..20_000));
        match kind {
            Kind::Depending if !before.is_empty() => {
                let first = self.rng.usize(0..before.len());
                let end = before.len().min(first + 3);
                (kind, job.after(before[first..end].to_vec()))
            }
            // Cancelled before it runs, not while it does.
            Kind::Cancelled if self.rng.bool() => (kind, job.delay(Duration::from_secs(1))),
            _ => (kind, job),
        }
    }

    async fn cancel(&self, ids: Vec<JobId>) {
        let noted = ids.iter().map(|it| (*it, Fence::default()));
        if ids.is_empty() || self.work.notes.write(What::Cancel, noted).is_err() {
            return;
        }
        if let Err(error) = self.system.cancel(ids).await {
            tracing::info!(%error, code = error.code(), "a cancel was refused");
        }
    }
}
