//! Drawing jobs: few queues, priorities and texts, so that they meet often.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use taskloom_model::{
    Backoff, DependencyPolicy, Jitter, JobId, Priority, RetryPolicy, Rules, Time,
};
use taskloom_store::NewJob;

use crate::chance::{chance, millis, one};
use crate::program::APART;
use crate::script::TASKS;

const UNIQUES: [&str; 4] = ["daily", "hourly", "nightly", "weekly"];
/// Of how many of the newest jobs one waits for some: the older ones have mostly ended.
const RECENT: usize = 12;

/// A few jobs, for one call.
pub(crate) fn draw(rng: &mut Rng, now: Time, known: &[JobId]) -> Vec<NewJob> {
    let n = rng.usize(1..=5);
    // Stores have a shorter way for plain jobs.
    let is_plain = chance(rng, 40);
    (0..n).map(|_| draw_one(rng, now, if is_plain { None } else { Some(known) })).collect()
}

fn draw_one(rng: &mut Rng, now: Time, known: Option<&[JobId]>) -> NewJob {
    let task = one(rng, &TASKS).unwrap_or("bake");
    let mut job = NewJob::new(task, "{}");
    if chance(rng, 25) {
        job.queue = Arc::from(APART);
    }
    let level = one(rng, &[0, 0, 0, 4, 9]).unwrap_or(0);
    job.priority = Priority::new(level).unwrap_or_default();
    job.timeout = chance(rng, 20).then(|| millis(rng, 100..4_000));
    job.rules.retry = retry(rng);
    let Some(known) = known else { return job };
    job.rules = rules(rng, now, job.rules.retry);
    job.delay = chance(rng, 15).then(|| millis(rng, 0..8_000));
    job.unique = chance(rng, 15).then(|| one(rng, &UNIQUES).unwrap_or("daily").to_owned());
    if chance(rng, 40) {
        let recent = &known[known.len().saturating_sub(RECENT)..];
        job.after = (0..rng.usize(1..=3)).filter_map(|_| one(rng, recent)).collect();
    }
    job
}

fn retry(rng: &mut Rng) -> RetryPolicy {
    let backoff = Backoff {
        delay_first: millis(rng, 100..2_000),
        factor: 2.0,
        delay_max: Duration::from_secs(6),
        jitter: if rng.bool() { Jitter::Full } else { Jitter::None },
    };
    RetryPolicy { max_attempts: rng.u32(1..=4), backoff }
}

fn rules(rng: &mut Rng, now: Time, retry: RetryPolicy) -> Rules {
    let on_dependency_failure =
        if rng.bool() { DependencyPolicy::Cancel } else { DependencyPolicy::Run };
    Rules {
        retry,
        run_at: chance(rng, 15).then(|| now + millis(rng, 0..10_000)),
        deadline: chance(rng, 12).then(|| now + millis(rng, 500..40_000)),
        on_dependency_failure,
    }
}
