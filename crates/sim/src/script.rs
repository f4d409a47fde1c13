//! What a body does. It follows from seed, job and fence alone, not from what happened before.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use futures::FutureExt;
use serde_json::Value;
use taskloom_dispatch::{Ctx, Entry, Registry, Runner, TaskError, TaskOptions};

use crate::book::{Said, SharedBook};
use crate::chance::{chance, millis, rng_for};
use crate::gate::Gate;

/// The tasks of every program.
pub(crate) const TASKS: [&str; 2] = ["bake", "wash"];

/// From this fence on a job asks for no more time, or it might never end.
const SNOOZE_FENCE_MAX: u64 = 6;

#[derive(Debug, Clone, Copy)]
enum Ending {
    Succeed,
    Err { retry_after: Option<Duration> },
    ErrForGood,
    Snooze(Duration),
    Panic,
}

#[derive(Debug)]
struct Script {
    parts: Vec<Duration>,
    /// Does not look whether it should end.
    is_deaf: bool,
    /// How long it takes to end when asked.
    last_words: Duration,
    ending: Ending,
}

impl Script {
    fn draw(rng: &mut Rng, fence: u64) -> Script {
        let n = rng.usize(1..=3);
        let longest = match rng.u32(..20) {
            0 => 15_000,
            1..=5 => 3_000,
            _ => 300,
        };
        let parts = (0..n).map(|_| millis(rng, 0..longest)).collect();
        let ending = match rng.u32(..100) {
            0..=62 => Ending::Succeed,
            63..=79 => Ending::Err { retry_after: None },
            80..=83 => Ending::Err { retry_after: Some(millis(rng, 0..5_000)) },
            84..=87 => Ending::ErrForGood,
            88..=94 if fence < SNOOZE_FENCE_MAX => Ending::Snooze(millis(rng, 0..5_000)),
            95..=97 => Ending::Panic,
            _ => Ending::Succeed,
        };
        Script { parts, is_deaf: chance(rng, 30), last_words: millis(rng, 0..2_500), ending }
    }
}

/// The end of a body, told by its drop whatever happens.
struct Telling {
    book: SharedBook,
    lease: (u64, u64),
    said: Said,
}

impl Drop for Telling {
    fn drop(&mut self) {
        let (key, fence) = self.lease;
        self.book.lock().body_ended(key, fence, self.said);
    }
}

/// The tasks of program `view`.
pub(crate) fn registry(view: usize, book: &SharedBook, gate: &Arc<Gate>) -> Registry {
    let mut registry = Registry::default();
    for task in TASKS {
        let (book, gate) = (Arc::clone(book), Arc::clone(gate));
        let runner = Arc::new(move |ctx: Ctx, args: Arc<str>| {
            let (book, gate) = (Arc::clone(&book), Arc::clone(&gate));
            async move { body(view, book, &gate, (ctx, args)).await }.boxed()
        });
        let options = TaskOptions::default();
        let entry = Entry { name: Arc::from(task), options, runner: Runner::Async(runner) };
        registry.add(entry).expect("the names differ");
    }
    registry
}

async fn body(
    view: usize,
    book: SharedBook,
    gate: &Gate,
    (ctx, args): (Ctx, Arc<str>),
) -> Result<String, TaskError> {
    let args: Value = serde_json::from_str(&args)?;
    let (key, fence) = (ctx.job_id().key(), args["fence"].as_u64().unwrap_or(0));
    let seed = {
        let mut book = book.lock();
        book.begin(view, key, fence);
        book.seed
    };
    let mut telling = Telling { book, lease: (key, fence), said: Said::Cut };
    let script = Script::draw(&mut rng_for(seed, key, fence), fence);
    let n_parts = script.parts.len();
    for (n, part) in script.parts.iter().enumerate() {
        let asked = async {
            match script.is_deaf {
                true => std::future::pending().await,
                false => ctx.cancelled().await,
            }
        };
        if tokio::time::timeout(*part, asked).await.is_ok() {
            tokio::time::sleep(script.last_words).await;
            gate.pass().await;
            telling.said = Said::Trouble;
            return Err(TaskError::cancelled());
        }
        gate.pass().await;
        ctx.progress((n as f64 + 1.0) / n_parts as f64, "under way");
        ctx.log(format!("part {n}"));
    }
    match script.ending {
        Ending::Succeed => {
            telling.said = Said::Success;
            Ok(result_of(key, fence))
        }
        Ending::Err { retry_after } => {
            telling.said = Said::Trouble;
            let error = TaskError::new("no luck");
            Err(match retry_after {
                Some(delay) => error.retry_after(delay),
                None => error,
            })
        }
        Ending::ErrForGood => {
            telling.said = Said::Trouble;
            Err(TaskError::permanent("never"))
        }
        Ending::Snooze(delay) => {
            telling.said = Said::Snooze;
            Err(TaskError::snooze(delay))
        }
        Ending::Panic => {
            telling.said = Said::Trouble;
            telling.book.lock().summary.n_panics += 1;
            // Past the hook, which would spend its time on a backtrace.
            std::panic::resume_unwind(Box::new("a panic of the simulation"));
        }
    }
}

/// The result of a job, by the attempt that it comes from.
pub(crate) fn result_of(key: u64, fence: u64) -> String {
    format!("{{\"job\":{key},\"fence\":{fence}}}")
}
