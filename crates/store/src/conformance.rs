//! What every backend must do, whichever it is: one suite, written once.
//!
//! [`lockstep`] plays a random history twice, on [`taskloom_model`] with plain maps around it and
//! on a backend, and compares after every step. [`long_chain`] and [`many_deadlines`] go where a
//! random history does not come.
//!
//! One seed is one history. Nothing here panics: a difference comes back as text that starts with
//! its seed and step.

mod compare;
mod directed;
mod draw;
mod nodes;
mod play;
mod reads;
mod world;

#[cfg(all(unix, feature = "postgres"))]
pub use crate::postgres::{Durability, PrivatePooler, PrivateServer, Stop};
pub use directed::{long_chain, many_deadlines};

use std::sync::Arc;
use std::time::Duration;

use crate::{ManualClock, Store, StoreError};

/// How long a node may be silent before any backend takes its jobs.
pub const LEASE: Duration = Duration::from_secs(30);

/// What happened in a history, so that a test can tell that it was not an idle one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Jobs accepted.
    pub n_jobs: usize,
    /// Submitted jobs that were there already.
    pub n_duplicates: usize,
    /// Jobs claimed.
    pub n_claims: usize,
    /// Attempts finished.
    pub n_finishes: usize,
    /// Outcomes refused: of a lost lease, or told twice.
    pub n_refusals: usize,
    /// Jobs promoted, or failed at their deadline.
    pub n_promoted: usize,
    /// Jobs taken from dead nodes.
    pub n_rescued: usize,
    /// Jobs forgotten.
    pub n_pruned: usize,
    /// Events compared.
    pub n_events: usize,
}

impl std::ops::AddAssign for Summary {
    fn add_assign(&mut self, other: Summary) {
        self.n_jobs += other.n_jobs;
        self.n_duplicates += other.n_duplicates;
        self.n_claims += other.n_claims;
        self.n_finishes += other.n_finishes;
        self.n_refusals += other.n_refusals;
        self.n_promoted += other.n_promoted;
        self.n_rescued += other.n_rescued;
        self.n_pruned += other.n_pruned;
        self.n_events += other.n_events;
    }
}

/// Plays the history of `seed`, `n_steps` long, on the model and on `store`, which must be empty
/// and take its time from `clock`.
///
/// # Errors
/// The first difference, with seed and step.
///
/// # Cancel safety
/// A dropped future leaves the store in the middle of the history.
pub async fn lockstep(
    store: Arc<dyn Store>,
    clock: ManualClock,
    seed: u64,
    n_steps: usize,
) -> Result<Summary, String> {
    let mut play = play::Play::new(store, clock, seed);
    for step in 0..n_steps {
        let name = play.choose();
        let played = play.step(name).await;
        let compared = match played {
            Ok(()) => play.compare(step % 50 == 49 || step + 1 == n_steps).await,
            Err(broken) => Err(broken),
        };
        compared.map_err(|broken| format!("seed {seed}, step {step} ({name:?}): {broken}"))?;
    }
    Ok(play.summary)
}

/// An error where there should be none.
fn said(error: StoreError) -> String {
    format!("the store refuses: {} ({})", error, error.code())
}
