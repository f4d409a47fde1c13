//! `taskloom torture`: real worker processes under load, killed, stopped, drained, locked out and
//! cut off from the disk at random; then everything is counted, and nothing may be missing.

mod faults;
mod fleet;
mod history;
mod logs;
mod notes;
mod plan;
mod progress;
mod report;
mod target;
mod work;
pub(crate) mod worker;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use taskloom::{Store, TaskSystem};
use taskloom_flow::{Every, timeout};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::args::{Role, TortureArgs};
use crate::exit::{FAILED, INTERRUPTED, Usage};
use faults::Done;
use fleet::{Fleet, Folder, Recipe};
use history::{Broken, Processes};
use plan::Place;
use progress::Progress;
use report::{Report, Rerun};
use target::{OWN_SERVER, Target};

/// How long the workers may take to drain once nothing is done to them any more.
const STOP_MAX: Duration = Duration::from_secs(30);
/// Jobs that don't end for this long, with healthy workers, never will.
const STUCK_AFTER: Duration = Duration::from_secs(60);
/// How often the jobs that are left are counted.
const COUNT_EVERY: Duration = Duration::from_millis(100);
/// Tortures `store`, or a file of its own.
pub(crate) async fn run(store: Option<String>, json: bool, args: TortureArgs) -> Result<ExitCode> {
    if let Some(store) = store.as_deref().filter(|it| *it != OWN_SERVER) {
        refuse_used(store).await?;
    }
    let lasts = args.lasts();
    let seed = args.seed.unwrap_or_else(|| u64::from(fastrand::u32(..)));
    let folder = Folder::new()?;
    let target = match Target::new(store, folder.path()).await {
        Ok(target) => target,
        Err(error) => {
            folder.remove();
            return Err(error);
        }
    };
    let recipe = Recipe {
        store: target.url.clone(),
        folder: folder.path().to_owned(),
        seed,
        sabotage: args.sabotage,
    };
    // Before anybody is told that it has begun.
    let mut interrupts = signal(SignalKind::interrupt())?;
    if !json {
        let (n, secs) = (args.workers, lasts.as_secs());
        eprintln!("torturing {} with {n} workers for {secs} s, seed {seed}", recipe.store);
    }
    let plan = plan::plan(seed, lasts, args.workers, target.place);
    let system = TaskSystem::open(&recipe.store).connect().await?;
    let mut progress = Progress::new(Arc::clone(system.store()), lasts, json);
    let began = Instant::now();
    let mut fleet = Fleet::start(recipe, args.workers)?;
    let (plan, ups) = ((&plan[..], lasts), (&mut interrupts, &mut progress));
    let done = faults::run(&mut fleet, &target, plan, ups).await?;
    let ended = tokio::select! {
        biased;
        _ = interrupts.recv() => {
            eprintln!("not counted; seed {seed}; everything is kept in {}", folder.path().display());
            target.keep();
            return Ok(ExitCode::from(INTERRUPTED));
        }
        ended = settle(&mut fleet, system.store(), &progress, args.workers) => ended?,
    };
    let lasted = began.elapsed();
    progress.say("counting");
    let mut report = count((&fleet, target.place), system.store(), done, ended).await?;
    report.workers = args.workers;
    report.seconds = lasted.as_secs_f64();
    report.jobs_per_s = report.finished as f64 / report.seconds;
    progress.end();
    let is_good = report.is_good();
    if !is_good {
        report.kept = Some(folder.path().display().to_string());
    }
    report.cut_short().print(json)?;
    drop(system);
    if is_good {
        drop(target);
        folder.remove();
    } else {
        target.keep();
    }
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// Nobody wants the jobs of others to be held up, nor counted.
async fn refuse_used(url: &str) -> Result<()> {
    if url.contains(":memory:") {
        let message = "a store in memory has one process only; name a file, or leave --store out";
        return Err(Usage(message.into()).into());
    }
    let system = TaskSystem::open(url).connect().await?;
    let n_jobs: u64 = system.store().counts().await?.iter().map(|it| it.n).sum();
    if 0 < n_jobs || !system.store().nodes().await?.is_empty() {
        let message = format!("{url} is in use; torture wants a store of its own: name a new one");
        return Err(Usage(message).into());
    }
    Ok(())
}

/// The faults have stopped: lets every job come to its end. Gives what went wrong in that.
async fn settle(
    fleet: &mut Fleet,
    store: &Arc<dyn Store>,
    progress: &Progress,
    n_workers: usize,
) -> Result<Vec<Broken>> {
    let late = |it: Vec<usize>| {
        let said = |it| Broken::new(format!("worker {it} was not drained within {STOP_MAX:?}"));
        it.into_iter().map(said).collect::<Vec<_>>()
    };
    progress.say("the faults have stopped; draining");
    let mut broken = late(fleet.stop(STOP_MAX).await?);
    fleet.fill(n_workers, Role::Work)?;
    let (mut n_left, mut moved) = (u64::MAX, Instant::now());
    let mut every = Every::new(COUNT_EVERY);
    while 0 < n_left {
        every.tick().await;
        fleet.replace_ended(Role::Work)?;
        // The store may need a moment after the last fault.
        let counts = match store.counts().await {
            Ok(counts) => counts,
            Err(error) if error.is_transient() && moved.elapsed() < STUCK_AFTER => continue,
            Err(error) => return Err(error.into()),
        };
        let left = counts.iter().filter(|it| !it.state.is_ended()).map(|it| it.n).sum();
        if left != n_left {
            (n_left, moved) = (left, Instant::now());
        } else if STUCK_AFTER <= moved.elapsed() {
            broken.push(Broken::new(format!("{left} jobs have not moved for {STUCK_AFTER:?}")));
            break;
        }
    }
    broken.extend(late(fleet.stop(STOP_MAX).await?));
    Ok(broken)
}

/// Counts everything, and judges it.
async fn count(
    (fleet, place): (&Fleet, Place),
    store: &Arc<dyn Store>,
    done: Done,
    mut broken: Vec<Broken>,
) -> Result<Report> {
    let recipe = &fleet.recipe;
    let logs = (0..fleet.lives.len()).map(|it| logs::read(&recipe.log(it)));
    let logs = logs.collect::<Result<Vec<_>>>()?;
    let trails = notes::read(&recipe.notes())?;
    let processes = Processes {
        lives: &fleet.lives,
        logs: &logs,
        freed: &done.freed,
        is_server: place != Place::File,
    };
    let history = history::read(&**store, &trails, &processes).await?;
    let mut store_errors = std::collections::BTreeMap::new();
    for (number, (life, log)) in fleet.lives.iter().zip(&logs).enumerate() {
        for (code, n) in &log.store_errors {
            *store_errors.entry(code.clone()).or_default() += n;
        }
        let said = |what| Broken::new(format!("worker {number} ended by itself: {what}"));
        broken.extend(life.strange_end().map(said));
        let said = |what: &String| Broken::new(format!("worker {number} panicked: {what}"));
        broken.extend(log.panic.as_ref().map(said));
    }
    let (lost, unexplained) = (history.lost.len(), history.unexplained.len());
    broken.extend(history.lost);
    broken.extend(history.unexplained);
    Ok(Report {
        seed: recipe.seed,
        store: recipe.store.clone(),
        workers: 0,
        processes: fleet.lives.len(),
        seconds: 0.0,
        is_cut: done.is_cut,
        accepted: history.n_accepted,
        unacknowledged: history.n_unacknowledged,
        finished: history.n_succeeded,
        cancelled: history.n_cancelled,
        quarantined: history.n_quarantined,
        quarantined_unbegun: history.n_quarantined_unbegun,
        lost,
        unexplained,
        rerun: history.n_rerun,
        causes: history.causes,
        refused_outcomes: logs.iter().map(|it| it.n_refused).sum(),
        evicted: logs.iter().map(|it| it.n_evicted).sum(),
        store_errors,
        crash_to_rerun: Rerun::of(history.rerun_ms),
        jobs_per_s: 0.0,
        faults: done.n_faults,
        left_out: match place {
            Place::OwnServer { has_disk: false } => {
                vec!["disk full: no disk of its own, for want of rights"]
            }
            _ => Vec::new(),
        },
        breaches: timeout(STUCK_AFTER, store.verify()).await??,
        broken,
        kept: None,
    })
}
