//! The process that is killed: it runs jobs, submits others, and says what was accepted.

use std::fs::{File, OpenOptions};
use std::future::pending;
use std::io::Write;
use std::time::Duration;

use taskloom::{Ctx, Invoke, StateName, Task, TaskError, TaskSystem};

/// The environment of a child.
pub(crate) const ROLE: &str = "TASKLOOM_TORTURE_ROLE";
pub(crate) const SEED: &str = "TASKLOOM_TORTURE_SEED";
pub(crate) const STORE: &str = "TASKLOOM_TORTURE_STORE";
pub(crate) const LOG: &str = "TASKLOOM_TORTURE_LOG";

/// Works and submits until it is killed.
pub(crate) const STORM: &str = "storm";
/// Works until every job has ended.
pub(crate) const DRAIN: &str = "drain";
/// Submits jobs and never ends them.
pub(crate) const HOLD: &str = "hold";
/// Works until it is killed.
pub(crate) const WORK: &str = "work";

/// The lines of a child: how they begin.
pub(crate) const STARTING: &str = "starting";
pub(crate) const READY: &str = "ready";
pub(crate) const ACCEPTED: &str = "accepted ";
pub(crate) const STARTED: &str = "started ";
pub(crate) const DRAINED: &str = "drained";

/// How many submits are under way at a time, and how many jobs each carries at most.
const N_SUBMITTERS: usize = 4;
const BATCH_MAX: usize = 20;

/// A task that notes its start and its end in a file that outlives the process.
struct Noted {
    log: File,
    holds: bool,
    says_start: bool,
}

impl Noted {
    fn note(&self, ctx: &Ctx, what: &str) -> Result<(), TaskError> {
        // One write to a file opened for appending: lines of several processes don't mix.
        let line = format!("{} {} {what}\n", ctx.job_id(), ctx.attempt());
        Ok((&self.log).write_all(line.as_bytes())?)
    }
}

impl Task for Noted {
    const NAME: &'static str = "noted";
    type Args = u64;
    type Output = u64;

    async fn run(&self, ctx: &Ctx, micros: u64) -> Result<u64, TaskError> {
        self.note(ctx, "start")?;
        if self.says_start {
            say(&format!("{STARTED}{}\n", ctx.job_id()));
        }
        if self.holds {
            return pending().await;
        }
        tokio::time::sleep(Duration::from_micros(micros)).await;
        self.note(ctx, "end")?;
        Ok(micros)
    }
}

/// Says whole lines at once, past the capture of the test harness.
fn say(lines: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(lines.as_bytes()).and_then(|()| out.flush()).expect("the parent listens");
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("a child needs {name}"))
}

/// Does what the environment says.
pub(crate) fn run() {
    // The harness has begun a line of its own.
    say(&format!("\n{STARTING}\n"));
    tokio::runtime::Runtime::new().expect("a runtime starts").block_on(async {
        let role = variable(ROLE);
        let log = OpenOptions::new().create(true).append(true).open(variable(LOG));
        let noted = Noted {
            log: log.expect("the log opens"),
            holds: role == HOLD,
            says_start: role == HOLD || role == WORK,
        };
        let builder = TaskSystem::open(variable(STORE)).task(noted).max_workers(50);
        let system = builder.start().await.expect("the system starts");
        say(&format!("{READY}\n"));
        match &*role {
            STORM => storm(&system).await,
            DRAIN => drain(&system).await,
            HOLD => hold(&system).await,
            _ => pending().await,
        }
    });
}

/// Only its name and its options are needed to submit.
fn invocation(micros: u64) -> taskloom::Invocation<u64> {
    let log = File::open("/dev/null").expect("there is a null device");
    Noted { log, holds: false, says_start: false }.invoke(micros)
}

async fn storm(system: &TaskSystem) {
    let seed: u64 = variable(SEED).parse().expect("the seed is a number");
    let submitters = (0..N_SUBMITTERS).map(|n| submit(system, seed * 1_000 + n as u64));
    futures::future::join_all(submitters).await;
}

/// Submits for ever, and says of each job that it was accepted once the submit has returned.
async fn submit(system: &TaskSystem, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    loop {
        let n = rng.usize(1..=BATCH_MAX);
        let jobs: Vec<_> = (0..n).map(|_| invocation(rng.u64(0..20_000))).collect();
        let handles = system.submit(jobs).await.expect("the store accepts");
        let lines: String = handles.iter().map(|it| format!("{ACCEPTED}{}\n", it.id())).collect();
        say(&lines);
    }
}

async fn hold(system: &TaskSystem) {
    let jobs: Vec<_> = (0..super::N_HELD).map(|_| invocation(0)).collect();
    system.submit(jobs).await.expect("the store accepts");
    pending().await
}

async fn drain(system: &TaskSystem) {
    let mut changed = system.store().notices().changed;
    loop {
        changed.borrow_and_update();
        let counts = system.store().counts().await.expect("the store reads");
        let is_ended = |it: StateName| it.is_ended();
        if counts.iter().all(|it| it.n == 0 || is_ended(it.state)) {
            break;
        }
        changed.changed().await.expect("the store is open");
    }
    system.drain().await.expect("the store records");
    say(&format!("{DRAINED}\n"));
}
