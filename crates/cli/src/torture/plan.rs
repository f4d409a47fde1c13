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
    /// No file that the process writes may grow, as on a full disk. Of a server with a disk of its
    /// own for the databases: that disk is full.
    DiskFull,
    /// The server cuts a third of the connections of the workers.
    Cut,
    /// The server cuts them all.
    CutAll,
    /// Somebody else holds the rows of unfinished jobs.
    HoldRows,
    /// Somebody else holds a snapshot, so that nothing deleted is cleaned away.
    HoldSnapshot,
    /// The server is restarted in good order.
    Restart,
    /// The server crashes, and recovers.
    Crash,
    /// The server is away for some seconds.
    Away,
    /// Every process of the server is stopped with SIGSTOP for some seconds.
    Freeze,
}

/// What the store is, which decides what can be done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A file.
    File,
    /// A server of somebody else.
    Server,
    /// A server of the torture's own.
    OwnServer {
        /// Whether the disk of its databases can be filled.
        has_disk: bool,
    },
}

impl Kind {
    /// Whether it is done to the store and not to a worker.
    fn is_of_store(self, place: Place) -> bool {
        match self {
            Kind::Kill | Kind::Pause | Kind::Drain => false,
            Kind::DiskFull => place != Place::File,
            _ => true,
        }
    }

    /// Which faults a store bears, with how likely each is.
    pub(super) fn of_place(place: Place) -> Vec<(Kind, u32)> {
        let server = [
            (Kind::Kill, 35),
            (Kind::Pause, 20),
            (Kind::Drain, 15),
            (Kind::Cut, 10),
            (Kind::CutAll, 5),
            (Kind::HoldRows, 6),
            (Kind::HoldSnapshot, 4),
        ];
        let own = [(Kind::Restart, 4), (Kind::Crash, 5), (Kind::Away, 4), (Kind::Freeze, 4)];
        match place {
            Place::Server => server.to_vec(),
            Place::OwnServer { has_disk } => {
                let mut all = [&server[..], &own[..]].concat();
                if has_disk {
                    all.push((Kind::DiskFull, 5));
                }
                all
            }
            // Elsewhere than on Linux a process can't be limited from outside.
            Place::File if !cfg!(target_os = "linux") => {
                vec![(Kind::Kill, 45), (Kind::Pause, 30), (Kind::Drain, 15), (Kind::Hold, 10)]
            }
            Place::File => vec![
                (Kind::Kill, 40),
                (Kind::Pause, 25),
                (Kind::Drain, 15),
                (Kind::Hold, 8),
                (Kind::DiskFull, 12),
            ],
        }
    }
}

/// One fault of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    /// When, from the begin of the run.
    pub(super) at: Duration,
    /// What.
    pub(super) kind: Kind,
    /// To which worker, by its place; `None`: to the store.
    pub(super) place: Option<usize>,
    /// How long it lasts; zero where it has no end.
    pub(super) length: Duration,
}

/// The first fault comes after this long: there must be something to break.
const QUIET: Duration = Duration::from_secs(1);
/// Between two faults, in milliseconds.
const GAP_MS: std::ops::Range<u64> = 200..1_500;
/// A node that gives no sign of life for this long is taken for dead.
const LEASE: Duration = Duration::from_secs(30);
/// How long the store is left alone after a fault of its own.
const RECOVERS: Duration = Duration::from_secs(1);
/// How long a worker is left alone after a pause over the lease.
const COMES_BACK: Duration = Duration::from_secs(5);
/// Runs at least this long have pauses over the lease.
const LONG_RUN: Duration = Duration::from_secs(90);

/// The faults of a run, in their order. The same arguments give the same plan.
pub(super) fn plan(seed: u64, lasts: Duration, n_workers: usize, store: Place) -> Vec<Fault> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let kinds = Kind::of_place(store);
    // Each kind once, so that a short run has them all; then as likely as they are.
    let mut deck: Vec<Kind> = kinds.iter().map(|(kind, _)| *kind).collect();
    rng.shuffle(&mut deck);
    let mut busy_until = vec![Duration::ZERO; n_workers];
    // The store bears one fault at a time, and a snapshot that is held beside it.
    let (mut held_until, mut snapshot_until) = (Duration::ZERO, Duration::ZERO);
    // The place of a pause over the lease, and its end.
    let mut long = (0, Duration::ZERO);
    let mut faults = Vec::new();
    let mut at = QUIET;
    while at < lasts {
        let mut kind = deck.pop().unwrap_or_else(|| draw(&mut rng, &kinds));
        let mut place = rng.usize(0..n_workers);
        let is_free = |it: &Duration| *it <= at;
        let is_taken = match kind {
            Kind::HoldSnapshot => at < snapshot_until,
            _ => kind.is_of_store(store) && at < held_until,
        };
        if is_taken {
            // A short run is to have it all the same.
            if faults.iter().all(|it: &Fault| it.kind != kind) {
                deck.insert(0, kind);
            }
            kind = Kind::Kill;
        }
        // A killed worker may well be a stopped one; the other faults want one that works.
        if kind != Kind::Kill && !kind.is_of_store(store) && !is_free(&busy_until[place]) {
            match busy_until.iter().position(is_free) {
                Some(free) => place = free,
                None => kind = Kind::Kill,
            }
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
        let place = match kind {
            Kind::HoldSnapshot => {
                snapshot_until = at + length;
                None
            }
            _ if kind.is_of_store(store) => {
                held_until = at + length + RECOVERS;
                None
            }
            _ => {
                busy_until[place] = busy_until[place].max(at + length);
                Some(place)
            }
        };
        if let Some(place) = place.filter(|_| LEASE < length) {
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
        Kind::Kill | Kind::Drain | Kind::Cut | Kind::CutAll | Kind::Restart | Kind::Crash => 0,
        // Under the 3 s that are suspicious, over them, and over the lease of 30 s.
        Kind::Pause => match rng.u32(0..LENGTHS) {
            drawn if drawn < n_long => rng.u64(31_000..36_000),
            0..3 => rng.u64(3_000..6_000),
            _ => rng.u64(100..2_000),
        },
        // On both sides of the 5 s after which a writer gives up.
        Kind::Hold | Kind::HoldRows => rng.u64(500..7_000),
        Kind::HoldSnapshot => rng.u64(10_000..40_000),
        Kind::DiskFull => rng.u64(500..5_000),
        // Under the 3 s that are suspicious, and over them.
        Kind::Away | Kind::Freeze => rng.u64(500..7_000),
    };
    Duration::from_millis(millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTES: Duration = Duration::from_secs(120);
    const PLACES: [Place; 4] = [
        Place::File,
        Place::Server,
        Place::OwnServer { has_disk: false },
        Place::OwnServer { has_disk: true },
    ];

    #[test]
    fn a_seed_is_a_plan() {
        for place in PLACES {
            assert_eq!(plan(7, MINUTES, 4, place), plan(7, MINUTES, 4, place));
            assert_ne!(plan(7, MINUTES, 4, place), plan(8, MINUTES, 4, place));
        }
    }

    #[test]
    fn every_fault_happens_in_order_and_in_time() {
        for (place, seed) in PLACES.into_iter().flat_map(|it| (0..20).map(move |n| (it, n))) {
            let faults = plan(seed, MINUTES, 4, place);
            for (kind, _) in Kind::of_place(place) {
                assert!(faults.iter().any(|it| it.kind == kind), "no {kind:?} in {seed}");
            }
            let is_long = |it: &Fault| it.kind == Kind::Pause && LEASE < it.length;
            assert!(faults.iter().any(|it| is_long(it) && it.at < MINUTES / 2), "{seed}");
            assert!(faults.is_sorted_by_key(|it| it.at) && 80 < faults.len());
            assert!(faults.iter().all(|it| it.at < MINUTES && it.place < Some(4)));
        }
    }

    #[track_caller]
    fn check_has_all(place: Place, secs: u64) {
        for seed in 0..50 {
            let faults = plan(seed, Duration::from_secs(secs), 3, place);
            let has = |kind| faults.iter().any(|it| it.kind == kind);
            let kinds = Kind::of_place(place);
            assert!(kinds.iter().all(|(kind, _)| has(*kind)), "seed {seed}: {faults:?}");
        }
    }

    #[test]
    fn a_short_run_has_every_fault() {
        check_has_all(Place::File, 20);
        check_has_all(Place::Server, 30);
        check_has_all(Place::OwnServer { has_disk: true }, 60);
    }

    #[test]
    fn a_short_run_has_no_pause_over_the_lease() {
        let faults = (0..50).flat_map(|it| plan(it, Duration::from_secs(60), 4, Place::File));
        assert!(faults.map(|it| it.length).max() < Some(Duration::from_secs(10)));
    }

    #[test]
    fn a_store_bears_one_fault_at_a_time() {
        let place = Place::OwnServer { has_disk: true };
        for seed in 0..20 {
            let mut free_at = Duration::ZERO;
            for it in plan(seed, MINUTES, 4, place) {
                if it.place.is_none() && it.kind != Kind::HoldSnapshot {
                    assert!(free_at <= it.at, "seed {seed}: {it:?}");
                    free_at = it.at + it.length;
                }
            }
        }
    }
}
