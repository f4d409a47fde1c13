//! Drawing what happens next: few names and texts, so that they meet often.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use taskloom_model::{
    Backoff, DependencyPolicy, Jitter, JobId, Outcome, Priority, RetryPolicy, Roll, Rules, Time,
};

use crate::{AttemptError, Demand, NewJob, NewLog, Queues};

const TASKS: [&str; 3] = ["resize", "send_email", "sync"];
const QUEUES: [&str; 3] = ["default", "mail", "slow"];
const KEYS: [&str; 2] = ["acme", "zenith"];
const UNIQUES: [&str; 5] = ["daily", "hourly", "nightly", "once", "weekly"];

/// One of `all`.
pub(super) fn one<T: Clone>(rng: &mut Rng, all: &[T]) -> Option<T> {
    if all.is_empty() { None } else { Some(all[rng.usize(..all.len())].clone()) }
}

fn word(rng: &mut Rng, words: &[&'static str]) -> Arc<str> {
    Arc::from(one(rng, words).unwrap_or_default())
}

/// True `percent` times in a hundred.
pub(super) fn chance(rng: &mut Rng, percent: u32) -> bool {
    rng.u32(..100) < percent
}

pub(super) fn secs(rng: &mut Rng, max: u64) -> Duration {
    Duration::from_secs(rng.u64(..=max))
}

/// A job that has nothing but a task, a queue, a priority and a retry policy.
pub(super) fn plain_job(rng: &mut Rng, now: Time) -> NewJob {
    let mut job = job(rng, now, &[]);
    (job.delay, job.key, job.unique) = (None, None, None);
    (job.rules.run_at, job.rules.deadline) = (None, None);
    job
}

/// A job that may wait for some of `known`.
pub(super) fn job(rng: &mut Rng, now: Time, known: &[JobId]) -> NewJob {
    let n = rng.u32(..);
    let mut job = NewJob::new(word(rng, &TASKS), format!("{{\"n\":{n}}}"));
    job.queue = word(rng, &QUEUES);
    job.priority =
        one(rng, &[0, 0, 0, 3, 9]).and_then(|level| Priority::new(level).ok()).unwrap_or_default();
    job.rules = rules(rng, now);
    job.delay = chance(rng, 10).then(|| secs(rng, 15));
    job.timeout = chance(rng, 30).then(|| secs(rng, 600));
    job.key = chance(rng, 30).then(|| word(rng, &KEYS).to_string());
    job.unique = chance(rng, 25).then(|| word(rng, &UNIQUES).to_string());
    if chance(rng, 35) {
        let n = rng.usize(1..=3);
        // The newest are the likeliest to be unfinished. The same one twice is one.
        let newest = &known[known.len().saturating_sub(20)..];
        job.after = (0..n).filter_map(|_| one(rng, newest)).collect();
    }
    job
}

fn rules(rng: &mut Rng, now: Time) -> Rules {
    let backoff = Backoff {
        delay_first: Duration::from_secs(1),
        factor: 2.0,
        delay_max: Duration::from_secs(8),
        jitter: if rng.bool() { Jitter::Full } else { Jitter::None },
    };
    Rules {
        retry: RetryPolicy { max_attempts: rng.u32(1..=4), backoff },
        run_at: chance(rng, 20).then(|| now + secs(rng, 12) - Duration::from_secs(2)),
        deadline: chance(rng, 20).then(|| now + secs(rng, 50)),
        on_dependency_failure: if rng.bool() {
            DependencyPolicy::Cancel
        } else {
            DependencyPolicy::Run
        },
    }
}

pub(super) fn demand(rng: &mut Rng) -> Demand {
    let some = |rng: &mut Rng, words: &[&'static str]| -> Arc<[Arc<str>]> {
        words.iter().filter(|_| rng.u32(..3) < 2).map(|&it| Arc::from(it)).collect()
    };
    let names = some(rng, &QUEUES);
    Demand {
        queues: if rng.bool() { Queues::Only(names) } else { Queues::Except(names) },
        tasks: some(rng, &TASKS),
        n: rng.usize(..=5),
    }
}

pub(super) fn outcome(rng: &mut Rng) -> Outcome {
    match rng.u32(..10) {
        0..=3 => Outcome::Succeeded,
        4 | 5 => Outcome::Errored { permanent: false, hint: chance(rng, 20).then(|| secs(rng, 9)) },
        6 => Outcome::Errored { permanent: chance(rng, 40), hint: None },
        7 => Outcome::TimedOut,
        8 => Outcome::Snoozed { delay: secs(rng, 9) },
        _ if rng.bool() => Outcome::Interrupted,
        _ => Outcome::Cancelled,
    }
}

pub(super) fn error(rng: &mut Rng) -> AttemptError {
    AttemptError {
        message: format!("it broke for the {}th time", rng.u8(..)),
        code: rng.bool().then(|| "http.status.503".to_owned()),
        backtrace: None,
    }
}

pub(super) fn logs(rng: &mut Rng, at: Time) -> Vec<NewLog> {
    let n = rng.usize(..=2);
    let line = |_| NewLog { at, level: "info", text: format!("line {}", rng.u8(..)) };
    (0..n).map(line).collect()
}

pub(super) fn roll(rng: &mut Rng) -> Roll {
    Roll(rng.f64())
}

pub(super) fn queue(rng: &mut Rng) -> String {
    word(rng, &QUEUES).to_string()
}

pub(super) fn task(rng: &mut Rng) -> String {
    word(rng, &TASKS).to_string()
}

pub(super) fn key(rng: &mut Rng) -> String {
    word(rng, &KEYS).to_string()
}
