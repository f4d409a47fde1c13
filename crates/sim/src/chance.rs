//! Drawing from a seed.

use std::time::Duration;

use fastrand::Rng;

/// True `percent` times in a hundred.
pub(crate) fn chance(rng: &mut Rng, percent: u32) -> bool {
    rng.u32(..100) < percent
}

/// One of `all`.
pub(crate) fn one<T: Clone>(rng: &mut Rng, all: &[T]) -> Option<T> {
    if all.is_empty() { None } else { Some(all[rng.usize(..all.len())].clone()) }
}

pub(crate) fn millis(rng: &mut Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.u64(range))
}

/// Chance that depends on what it is for and on nothing that happened before.
pub(crate) fn rng_for(seed: u64, job: u64, fence: u64) -> Rng {
    let mixed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ job.rotate_left(24) ^ fence;
    let mut rng = Rng::with_seed(mixed);
    rng.u64(..);
    rng
}
