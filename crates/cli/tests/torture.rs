//! Processes that are killed with SIGKILL again and again: what was accepted is finished, and
//! nothing runs twice but where an attempt was really cut.
//!
//! The processes are this program again, told by the environment to be [`child_entry`].

#[path = "torture/child.rs"]
mod child;
#[path = "torture/history.rs"]
mod history;
#[path = "support/child.rs"]
mod process;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use process::Running;
use taskloom::{JobId, TaskSystem};

/// How often a process is killed in the middle of its work.
const N_ROUNDS: u64 = 20;
/// The history of kills; another number is another history.
const SEED: u64 = 20_260_101;
/// How many jobs a process holds when the speed of their rescue is measured.
const N_HELD: usize = 50;

/// A store and the log that its tasks write.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().expect("the system gives us a folder"))
    }

    fn log(&self) -> PathBuf {
        self.0.path().join("attempts.log")
    }

    fn url(&self) -> String {
        format!("sqlite://{}", self.0.path().join("jobs.db").display())
    }

    /// Starts this program again as a child that does as `role` says.
    fn start(&self, role: &str, seed: u64) -> Running {
        let mut command = Command::new(std::env::current_exe().expect("it runs"));
        command.args(["--exact", "child_entry", "--nocapture"]);
        command.env(child::ROLE, role).env(child::SEED, seed.to_string());
        command.env(child::STORE, self.url()).env(child::LOG, self.log());
        Running::start(&mut command)
    }
}

/// Not a test of its own: what the processes of the other tests are.
#[test]
fn child_entry() {
    if std::env::var_os(child::ROLE).is_some() {
        child::run();
    }
}

fn accepted_in(line: &str) -> Option<JobId> {
    line.strip_prefix(child::ACCEPTED)?.parse().ok()
}

/// Lets a process work and submit, kills it after `n_lines` accepted jobs, and gives those.
fn round(place: &Place, seed: u64, n_lines: usize) -> Vec<JobId> {
    let mut running = place.start(child::STORM, seed);
    let mut accepted = Vec::new();
    while accepted.len() < n_lines {
        let line = running.out.next().expect("a storm goes on until it is killed");
        accepted.extend(accepted_in(&line));
    }
    running.signal("KILL");
    // What it said before it died counts as well.
    accepted.extend(running.end().1.iter().filter_map(|it| accepted_in(it)));
    accepted
}

#[test]
fn what_was_accepted_survives_every_kill() {
    let began = Instant::now();
    let place = Place::new();
    let mut rng = fastrand::Rng::with_seed(SEED);
    let mut accepted = Vec::new();
    for seed in 0..N_ROUNDS {
        accepted.extend(round(&place, SEED + seed, rng.usize(20..2000)));
    }
    let mut last = place.start(child::DRAIN, SEED);
    last.out.with(child::DRAINED);
    let (status, _, errors) = last.end();
    assert!(status.success(), "seed {SEED}: {errors:?}");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let history = runtime.block_on(async {
        let system = TaskSystem::open(place.url()).connect().await.expect("the store opens");
        history::read(&system, &accepted, &place.log()).await
    });
    println!("{N_ROUNDS} kills in {:.1?}, seed {SEED}\n{history}", began.elapsed());
    assert_eq!(history.lost, Vec::<String>::new(), "seed {SEED}");
    assert_eq!(history.unexplained, Vec::<String>::new(), "seed {SEED}");
    let n_ended = history.n_succeeded + history.n_quarantined;
    assert_eq!(n_ended, history.n_accepted, "seed {SEED}");
}

/// A process that holds [`N_HELD`] jobs, each with an attempt under way.
fn holder(place: &Place) -> Running {
    let running = place.start(child::HOLD, SEED);
    (0..N_HELD).for_each(|_| drop(running.out.with(child::STARTED)));
    running
}

/// Waits until every held job has begun again.
fn all_started(running: &Running, since: Instant) -> Duration {
    (0..N_HELD).for_each(|_| drop(running.out.with(child::STARTED)));
    since.elapsed()
}

#[test]
fn a_living_process_takes_over_within_five_seconds() {
    let place = Place::new();
    let mut holding = holder(&place);
    let living = place.start(child::WORK, SEED);
    living.out.with(child::READY);
    let killed = Instant::now();
    holding.signal("KILL");
    holding.end();
    let took = all_started(&living, killed);
    println!("{N_HELD} running jobs began again {took:.0?} after the kill, on a living process");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_restarted_process_takes_over_within_a_second() {
    let place = Place::new();
    let mut holding = holder(&place);
    holding.signal("KILL");
    holding.end();
    let started = Instant::now();
    let restarted = place.start(child::WORK, SEED);
    restarted.out.with(child::STARTING);
    let since = Instant::now();
    let took = all_started(&restarted, since);
    println!(
        "{N_HELD} running jobs began again {took:.0?} after the restart, {:.0?} with the start of \
         the process",
        started.elapsed()
    );
    assert!(took < Duration::from_secs(1), "{took:?}");
}
