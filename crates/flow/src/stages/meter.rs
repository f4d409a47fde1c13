//! What the stages count, and the clock they share.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use super::line::{AnyLine, Entry};

/// How long a chunk of items may take that is moved as one: the longest that an item which is
/// ready waits for the ones after it, as far as the past tells.
const CHUNK_TIME: Duration = Duration::from_micros(50);
/// More would save next to nothing.
const CHUNK_MAX: usize = 64;

/// The counts of one stage of [`Stages`](crate::Stages).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageStats {
    /// Its name; the first one is `source`.
    pub name: &'static str,
    /// Items it began.
    pub n_in: u64,
    /// Items it passed on; for a last stage, items it finished.
    pub n_out: u64,
    /// Items lost to an error or a panic.
    pub n_errors: u64,
    /// How many of those were panics.
    pub n_panics: u64,
    /// The time its workers spent on items, waiting included, all workers together.
    pub busy: Duration,
    /// From when an item was put in line until its outputs were ready, on average.
    pub latency_mean: Duration,
    /// The longest of these times.
    pub latency_max: Duration,
    /// Items that wait in front of it.
    pub n_waiting: usize,
    /// The most that ever waited there.
    pub n_waiting_max: usize,
}

/// Counts one stage. Written by its workers, once a chunk; read by whoever asks.
pub(super) struct Meter {
    name: &'static str,
    line: Option<Arc<dyn AnyLine>>,
    n_in: AtomicU64,
    n_out: AtomicU64,
    n_errors: AtomicU64,
    n_panics: AtomicU64,
    busy: AtomicU64,
    n_timed: AtomicU64,
    latency_sum: AtomicU64,
    latency_max: AtomicU64,
}

/// What one worker counted since it last told the meter.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) n_in: u64,
    pub(super) n_out: u64,
    pub(super) n_errors: u64,
    pub(super) n_panics: u64,
    pub(super) n_timed: u64,
    pub(super) at_sum: u64,
    pub(super) at_min: Option<u64>,
}

impl Tally {
    /// An item that was put in line at `at` is finished.
    pub(super) fn time(&mut self, at: u64) {
        self.n_timed += 1;
        self.at_sum = self.at_sum.wrapping_add(at);
        self.at_min = Some(self.at_min.map_or(at, |it| it.min(at)));
    }
}

impl Meter {
    pub(super) fn new(name: &'static str, line: Option<Arc<dyn AnyLine>>) -> Arc<Self> {
        Arc::new(Meter {
            name,
            line,
            n_in: AtomicU64::new(0),
            n_out: AtomicU64::new(0),
            n_errors: AtomicU64::new(0),
            n_panics: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            n_timed: AtomicU64::new(0),
            latency_sum: AtomicU64::new(0),
            latency_max: AtomicU64::new(0),
        })
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Adds a tally of items that were ready by `now`, and the time they took.
    pub(super) fn tell(&self, tally: &mut Tally, now: u64, busy: u64) {
        let tally = std::mem::take(tally);
        let add = |counter: &AtomicU64, n: u64| {
            if n != 0 {
                counter.fetch_add(n, Relaxed);
            }
        };
        add(&self.n_in, tally.n_in);
        add(&self.n_out, tally.n_out);
        add(&self.n_errors, tally.n_errors);
        add(&self.n_panics, tally.n_panics);
        add(&self.busy, busy);
        add(&self.n_timed, tally.n_timed);
        // Modulo 2^64, as the sum: the difference is right.
        add(&self.latency_sum, now.wrapping_mul(tally.n_timed).wrapping_sub(tally.at_sum));
        if let Some(at) = tally.at_min {
            self.latency_max.fetch_max(now.saturating_sub(at), Relaxed);
        }
    }

    pub(super) fn stats(&self) -> StageStats {
        let (n_waiting, n_waiting_max) = self.line.as_ref().map_or((0, 0), |it| it.depth());
        let n_timed = self.n_timed.load(Relaxed).max(1);
        StageStats {
            name: self.name,
            n_in: self.n_in.load(Relaxed),
            n_out: self.n_out.load(Relaxed),
            n_errors: self.n_errors.load(Relaxed),
            n_panics: self.n_panics.load(Relaxed),
            busy: Duration::from_nanos(self.busy.load(Relaxed)),
            latency_mean: Duration::from_nanos(self.latency_sum.load(Relaxed) / n_timed),
            latency_max: Duration::from_nanos(self.latency_max.load(Relaxed)),
            n_waiting,
            n_waiting_max,
        }
    }
}

/// The nanoseconds since the start of the pipeline, by Tokio's clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    began: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Clock { began: Instant::now() }
    }

    pub(super) fn now(self) -> u64 {
        u64::try_from(self.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    pub(super) fn elapsed(self) -> Duration {
        self.began.elapsed()
    }
}

/// How many items a worker takes at a time: as many as were lately done in [`CHUNK_TIME`], so
/// that quick ones cost little to move and slow ones never wait for each other.
#[derive(Debug)]
pub(super) struct Pace {
    n: usize,
    n_max: usize,
}

impl Pace {
    /// The most that are taken at a time.
    pub(super) const N_MAX: usize = CHUNK_MAX;

    /// At most a fair share of a line with room for `capacity`.
    pub(super) fn new(capacity: usize, n_workers: usize) -> Self {
        Pace { n: 1, n_max: (capacity / n_workers.max(1) / 2).clamp(1, CHUNK_MAX) }
    }

    pub(super) fn n(&self) -> usize {
        self.n
    }

    /// Learns that `n_done` items took `nanos`.
    pub(super) fn learn(&mut self, n_done: usize, nanos: u64) {
        let fitting = CHUNK_TIME.as_nanos() as u64 * n_done as u64 / nanos.max(1);
        let fitting = usize::try_from(fitting).unwrap_or(usize::MAX);
        self.n = fitting.clamp(1, self.n_max).min(self.n * 2);
    }

    /// Learns that an item had to wait: the ones after it should be with other workers.
    pub(super) fn slow_down(&mut self) {
        self.n = 1;
    }
}

/// Entries on their way into a worker.
pub(super) type Chunk<T> = VecDeque<Entry<T>>;
