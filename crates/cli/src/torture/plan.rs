//! Which faults happen when: a seed is a plan. Nothing here does anything.

use std::time::Duration;

use serde::Serialize;

/// What is done to the workers and to their store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// SIGKILL; another process takes its place.
    Kill,
    /// SIGSTOP, and SIGCONT after a while.
    Pause,
    /// SIGTERM; another process takes its place once this one has given everything back.
    Drain,
    /// Somebody else holds the right to write to the store.
    Hold,
    /// No file that the process writes may grow, as on a full disk.
    DiskFull,
}

impl Kind {
    /// Which faults a store bears, with how likely each is, in parts of 100.
    pub(super) fn of_store(url: &str) -> &'static [(Kind, u32)] {
        let is_server = url.starts_with("postgres:") || url.starts_with("postgresql:");
        if is_server {
            return &[(Kind::Kill, 50), (Kind::Pause, 30), (Kind::Drain, 20)];
        }
        // Elsewhere than on Linux a process can't be limited from outside.
        if !cfg!(target_os = "linux") {
            return &[(Kind::Kill, 45), (Kind::Pause, 30), (Kind::Drain, 15), (Kind::Hold, 10)];
        }
        &[
            (Kind::Kill, 40),
            (Kind::Pause, 25),
            (Kind::Drain, 15),
            (Kind::Hold, 8),
            (Kind::DiskFull, 12),
        ]
    }
}

/// One fault of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    /// When, from the begin of the run.
    pub(super) at: Duration,
    /// What.
    pub(super) kind: Kind,
    /// To which worker, by its place; of no meaning for [`Kind::Hold`].
    pub(super) place: usize,
    /// How long it lasts; zero where it has no end.
    pub(super) length: Duration,
}

/// The first fault comes after this long: there must be something to break.
const QUIET: Duration = Duration::from_secs(1);
/// Between two faults, in milliseconds.
const GAP_MS: std::ops::Range<u64> = 200..1_500;
/// A node that gives no sign of life for this long is taken for dead.
const LEASE: Duration = Duration::from_secs(30);
/// How long a worker is left alone after a pause over the lease.
const COMES_BACK: Duration = Duration::from_secs(5);
/// Runs at least this long have pauses over the lease.
const LONG_RUN: Duration = Duration::from_secs(90);

/// The faults of a run, in their order. The same arguments give the same plan.
pub(super) fn plan(
    seed: u64,
    lasts: Duration,
    n_workers: usize,
    kinds: &[(Kind, u32)],
) -> Vec<Fault> {
    let mut rng = fastrand::Rng::with_seed(seed);
    // Each kind once, so that a short run has them all; then as likely as they are.
    let mut deck: Vec<Kind> = kinds.iter().map(|(kind, _)| *kind).collect();
    rng.shuffle(&mut deck);
    let mut busy_until = vec![Duration::ZERO; n_workers];
    let mut held_until = Duration::ZERO;
    // The place of a pause over the lease, and its end.
    let mut long = (0, Duration::ZERO);
    let mut faults = Vec::new();
    let mut at = QUIET;
    while at < lasts {
        let mut kind = deck.pop().unwrap_or_else(|| draw(&mut rng, kinds));
        let mut place = rng.usize(0..n_workers);
        let is_free = |it: &Duration| *it <= at;
        // A killed worker may well be a stopped one; the other faults want one that works.
        if kind != Kind::Kill && kind != Kind::Hold && !is_free(&busy_until[place]) {
            match busy_until.iter().position(is_free) {
                Some(free) => place = free,
                None => kind = Kind::Kill,
            }
        }
        if kind == Kind::Hold && at < held_until {
            kind = Kind::Kill;
        }
        if kind == Kind::Kill && place == long.0 && at < long.1 {
            place = (place + 1) % n_workers;
        }
        // The first pause of a long run is one over the lease.
        let n_long = match long.1 {
            _ if lasts < LONG_RUN || at < long.1 => 0,
            Duration::ZERO => LENGTHS,
            _ => 1,
        };
        let length = length(&mut rng, kind, n_long);
        match kind {
            Kind::Hold => held_until = at + length,
            _ => busy_until[place] = busy_until[place].max(at + length),
        }
        if LEASE < length {
            // It is to come back, and to find that its jobs belong to others.
            long = (place, at + length + COMES_BACK);
            busy_until[place] = long.1;
        }
        faults.push(Fault { at, kind, place, length });
        at += Duration::from_millis(rng.u64(GAP_MS));
    }
    faults
}

fn draw(rng: &mut fastrand::Rng, kinds: &[(Kind, u32)]) -> Kind {
    let total = kinds.iter().map(|(_, weight)| weight).sum();
    let mut left = rng.u32(0..total);
    for &(kind, weight) in kinds {
        if left < weight {
            return kind;
        }
        left -= weight;
    }
    Kind::Kill
}

/// Lengths of pauses are drawn from so many, of which `n_long` are over the lease.
const LENGTHS: u32 = 6;

fn length(rng: &mut fastrand::Rng, kind: Kind, n_long: u32) -> Duration {
    let millis = match kind {
        Kind::Kill | Kind::Drain => 0,
        // Under the 3 s that are suspicious, over them, and over the lease of 30 s.
        Kind::Pause => match rng.u32(0..LENGTHS) {
            drawn if drawn < n_long => rng.u64(31_000..36_000),
            0..3 => rng.u64(3_000..6_000),
            _ => rng.u64(100..2_000),
        },
        // On both sides of the 5 s after which a writer gives up.
        Kind::Hold => rng.u64(500..7_000),
        Kind::DiskFull => rng.u64(500..5_000),
    };
    Duration::from_millis(millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTES: Duration = Duration::from_secs(120);

    fn of_seed(seed: u64) -> Vec<Fault> {
        plan(seed, MINUTES, 4, Kind::of_store("sqlite://jobs.db"))
    }

    #[test]
    fn a_seed_is_a_plan() {
        assert_eq!(of_seed(7), of_seed(7));
        assert_ne!(of_seed(7), of_seed(8));
    }

    #[test]
    fn every_fault_happens_in_order_and_in_time() {
        let faults: Vec<Fault> = (0..20).flat_map(of_seed).collect();
        for (kind, _) in Kind::of_store("sqlite://jobs.db") {
            assert!(faults.iter().any(|it| it.kind == *kind), "no {kind:?}");
        }
        for seed in 0..20 {
            let faults = of_seed(seed);
            assert!(faults.iter().any(|it| LEASE < it.length && it.at < MINUTES / 2), "{seed}");
            assert!(faults.is_sorted_by_key(|it| it.at) && 80 < faults.len());
            assert!(faults.iter().all(|it| it.at < MINUTES && it.place < 4));
        }
    }

    #[test]
    fn ten_seconds_have_every_fault() {
        let kinds = Kind::of_store("sqlite://jobs.db");
        for seed in 0..50 {
            let faults = plan(seed, Duration::from_secs(10), 3, kinds);
            let has = |kind| faults.iter().any(|it| it.kind == kind);
            assert!(kinds.iter().all(|(kind, _)| has(*kind)), "seed {seed}: {faults:?}");
        }
    }

    #[test]
    fn a_short_run_has_no_pause_over_the_lease() {
        let lasts = Duration::from_secs(60);
        let faults = (0..50).flat_map(|it| plan(it, lasts, 4, Kind::of_store("jobs.db")));
        assert!(faults.map(|it| it.length).max() < Some(Duration::from_secs(10)));
    }
}
