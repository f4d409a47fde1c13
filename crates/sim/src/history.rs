//! One seed, one history: from an empty store to the last job's end.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use parking_lot::Mutex;
use taskloom_flow::TaskGroup;
use taskloom_store::sqlite::{LEASE, SqliteOptions, SqliteStore};
use taskloom_store::{Clock, EventCursor, Store};

use crate::Summary;
use crate::book::Book;
use crate::chance::chance;
use crate::clock::SimClock;
use crate::program::Ground;
use crate::relay::Relay;
use crate::rest;
use crate::weather::{Rates, Weather};
use crate::world::World;

/// How many steps a history has, unless told otherwise.
pub const N_STEPS: usize = 60;
/// How long a healthy program may take for all that is left.
const END_MAX: Duration = Duration::from_secs(600);

/// How much of the trace a broken promise shows by itself.
const LINES_SHOWN: usize = 60;

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The seed of the history.
    pub seed: u64,
    /// At which step, and what it did.
    pub step: String,
    /// The promise.
    pub promise: String,
    /// What happened, up to there; of a long history the last part.
    pub trace: Vec<String>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace[self.trace.len().saturating_sub(LINES_SHOWN)..] {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "seed {}, {}: {}", self.seed, self.step, self.promise)?;
        write!(f, "replay it alone: cargo run -p taskloom-sim -- --seed {}", self.seed)
    }
}

/// Plays the history of `seed`, of `n_steps` steps and an end.
///
/// # Errors
/// The first promise that was broken.
///
/// # Panics
/// Inside of a Tokio runtime: it makes one of its own.
pub fn simulate(seed: u64, n_steps: usize) -> Result<Summary, Broken> {
    simulate_traced(seed, n_steps).map(|(summary, _)| summary)
}

/// The same, with the trace of a history that kept every promise; of a long one the last part.
///
/// # Errors
/// The first promise that was broken.
///
/// # Panics
/// Inside of a Tokio runtime: it makes one of its own.
pub fn simulate_traced(seed: u64, n_steps: usize) -> Result<(Summary, Vec<String>), Broken> {
    // The jitter of retries is drawn from the generator of the thread.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing of the system");
    runtime.block_on(play(seed, n_steps))
}

async fn play(seed: u64, n_steps: usize) -> Result<(Summary, Vec<String>), Broken> {
    let mut rng = Rng::with_seed(seed);
    let clock = SimClock::start();
    let wall: Arc<dyn Clock> = Arc::new(clock.clone());
    let store = SqliteStore::in_memory(SqliteOptions::default(), wall);
    let store: Arc<dyn Store> = Arc::new(store.expect("a store in memory needs nothing"));
    let book = Arc::new(Mutex::new(Book::new(seed, clock.clone())));
    let weather = Arc::new(Weather::new(rng.fork()));
    let relay = Arc::new(Relay::new(&*store));
    let ground = Ground { store, relay, clock, weather, book };
    let follower = TaskGroup::isolated();
    let n_heard = follow(&ground, &follower);
    let mut world = World::new(ground, rng);
    for _ in 0..world.rng.usize(1..=3) {
        world.start();
    }
    let calm_at = world.rng.usize(..2 * n_steps.max(1));
    for n in 0..n_steps {
        let step = world.choose();
        world.step(step).await;
        world.check(seed, || format!("step {n} ({step:?})"))?;
        if n == calm_at {
            world.calm().await;
            world.compare().await;
            world.check(seed, || format!("step {n} (calm)"))?;
        }
    }
    world.calm().await;
    world.compare().await;
    world.check(seed, || "the last calm".into())?;
    world.everybody_leaves().await;
    world.check(seed, || "the end of all programs".into())?;
    world.finish().await;
    world.compare().await;
    let mut book = world.ground.book.lock();
    let (n_heard, n_events) = (n_heard.load(Ordering::Relaxed), book.n_events);
    book.promise(n_heard == n_events, || format!("{n_heard} of {n_events} events were told"));
    (book.summary.n_events, book.summary.n_commits) = (n_events, book.n_commits);
    let summary = Summary { trace_hash: book.trace().hash(), ..book.summary };
    let trace = book.trace().lines();
    drop(book);
    world.check(seed, || "the end".into())?;
    Ok((summary, trace))
}

/// Follows the events as whoever waits for jobs does: by the notice of a change.
fn follow(ground: &Ground, group: &TaskGroup) -> Arc<AtomicU64> {
    let (store, n_heard) = (Arc::clone(&ground.store), Arc::new(AtomicU64::new(0)));
    let heard = Arc::clone(&n_heard);
    let mut changed = ground.relay.notices().changed;
    group.spawn("follower", async move {
        let mut cursor = EventCursor::START;
        while changed.changed().await.is_ok() {
            let Ok(events) = store.events(cursor, usize::MAX).await else { return };
            cursor = events.next;
            let n = u64::try_from(events.events.len()).unwrap_or(0);
            heard.fetch_add(n, Ordering::Relaxed);
        }
    });
    n_heard
}

impl World {
    fn check(&self, seed: u64, step: impl FnOnce() -> String) -> Result<(), Broken> {
        let book = self.ground.book.lock();
        let Some(promise) = book.broken().cloned() else { return Ok(()) };
        Err(Broken { seed, step: step(), promise, trace: book.trace().lines() })
    }

    async fn compare(&mut self) {
        let compared = rest::compare(&*self.ground.store, &self.ground.book).await;
        let is_read = compared.is_ok();
        self.ground.book.lock().promise(is_read, || format!("can't read: {compared:?}"));
    }

    /// Every program is killed or drains; some of it in bad weather.
    async fn everybody_leaves(&mut self) {
        let rates = Rates::draw(&mut self.rng);
        self.ground.weather.set(rates);
        let is_quick = chance(&mut self.rng, 30);
        let n = self.programs.len();
        for _ in 0..n {
            if is_quick || self.rng.bool() {
                self.kill();
            } else {
                self.drain();
            }
        }
        self.pass(Duration::from_secs(8)).await;
        for program in &mut self.programs {
            program.kill();
            program.over().await;
        }
        self.ground.weather.set(Rates::default());
        self.pass(Duration::from_millis(1)).await;
    }

    /// A healthy program ends all that is left.
    async fn finish(&mut self) {
        let is_patient = chance(&mut self.rng, 10);
        if !is_patient {
            // As if time had passed: whatever the dead have held is free.
            let behind = self.ground.clock.behind();
            let forward = LEASE + behind + Duration::from_secs(1);
            self.ground.clock.jump(i64::try_from(forward.as_millis()).unwrap_or(0));
        }
        self.tell("a healthy program starts");
        self.start();
        let until = self.ground.clock.elapsed() + END_MAX;
        while self.first_unfinished().is_some() && self.ground.clock.elapsed() < until {
            self.pass(Duration::from_secs(1)).await;
        }
        let left = self.first_unfinished();
        self.ground.book.lock().promise(left.is_none(), || format!("{left:?} never ends"));
        self.drain();
        self.pass(Duration::from_secs(6)).await;
        let n_left = self.programs.len();
        self.ground.book.lock().promise(n_left == 0, || "the last program never leaves".into());
    }

    fn first_unfinished(&self) -> Option<String> {
        let book = self.ground.book.lock();
        let left = book.jobs.iter().find(|(_, it)| !it.state.is_ended());
        left.map(|(key, it)| format!("job {key}, {}", it.state))
    }
}
