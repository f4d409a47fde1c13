//! Thousands of histories keep every promise, and a seed is a history.

use taskloom_sim::{Summary, simulate, simulate_traced};

/// Shorter than on the command line: more seeds in the same time find more.
const N_STEPS: usize = 25;
const N_SEEDS: u64 = 2_000;

#[test]
fn histories_with_faults_keep_every_promise() {
    let mut sum = Summary::default();
    for seed in 0..N_SEEDS {
        match simulate(seed, N_STEPS) {
            Ok(summary) => sum += summary,
            Err(broken) => panic!("{broken} --steps {N_STEPS}"),
        }
    }
    // A simulation in which something never happens promises nothing about it.
    assert_eq!(sum.missing(), [""; 0], "{sum}");
}

#[test]
fn a_seed_is_a_history() {
    for seed in (0..20).map(|it| 1_000_000_007 * it) {
        let played = |seed| simulate_traced(seed, N_STEPS).expect("it keeps every promise");
        let ((once, trace), (again, other)) = (played(seed), played(seed));
        let place = trace.iter().zip(&other).position(|(a, b)| a != b);
        let lines = place.map(|it| (&trace[it], &other[it]));
        assert_eq!(lines, None, "seed {seed} plays differently a second time");
        assert_eq!(once, again, "seed {seed} counts differently a second time");
    }
}

#[test]
fn another_seed_is_another_history() {
    let hash = |seed| simulate(seed, N_STEPS).expect("it keeps every promise").trace_hash;
    assert_ne!(hash(1), hash(2));
}
