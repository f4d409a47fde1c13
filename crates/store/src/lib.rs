//! Durability: what the engine asks of a store, and the backends that keep it.
//!
//! [`Store`] has a dozen coarse, batched verbs. Each is one transaction, and what it returns is
//! durable. Calls that arrive while a commit is under way ride the next one.
//!
//! # Invariants
//! - Every unfinished job stands in exactly one place of the store, with its life beside it.
//! - [`taskloom_model::apply`] decides every move of a job; backends only keep what it says.
//! - Nothing is told, by return value or by notice, before it is committed.

#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod check;
mod clock;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod codec;
mod error;
mod health;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod inbox;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod keys;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod migrations;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod tells;
mod types;

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "sqlite")]
pub mod sqlite;

pub use clock::{Clock, ManualClock};
pub use error::StoreError;
pub use health::{Part, PartError, PartHealth, STALL, ServerHealth, StoreHealth};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use migrations::Schema;
pub use types::*;

use std::sync::Arc;

use futures::future::BoxFuture;
use taskloom_model::{Fence, JobId, NodeId};
use tokio::sync::watch;

/// The future of a verb.
///
/// Dropping it does not take the verb back: what was asked may still be committed.
pub type Verb<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// What the engine asks of a store.
///
/// # Cancel safety
/// A dropped [`Verb`] may or may not have happened; its answer is lost. A caller that must know
/// asks again: `finish` of an attempt that is already recorded is refused as
/// [`taskloom_model::Refusal::AlreadyFinished`] and changes nothing.
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Accepts `jobs`, all or none.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::UnknownDependency`], [`StoreError::Policy`]; then
    /// none is accepted.
    fn submit(&self, jobs: Vec<NewJob>) -> Verb<'_, Vec<Accepted>>;

    /// Takes ready jobs for `node`: for each demand at most its `n`, by priority, then age.
    fn claim(&self, node: NodeId, demands: Vec<Demand>) -> Verb<'_, Vec<Claimed>>;

    /// Records ended attempts, and claims the next jobs in the same transaction.
    fn finish(&self, node: NodeId, ended: Vec<Finish>, demands: Vec<Demand>) -> Verb<'_, Finished>;

    /// Gives jobs back that `node` claimed and never began; their attempts don't count.
    fn release(&self, node: NodeId, leases: Vec<(JobId, Fence)>) -> Verb<'_, ()>;

    /// Adds a node and takes its liveness lock.
    fn register(&self, node: NewNode) -> Verb<'_, NodeId>;

    /// Removes a node that has given everything back, and frees its liveness lock. What it still
    /// holds is taken from it as from a dead node.
    fn retire(&self, node: NodeId) -> Verb<'_, ()>;

    /// Renews the leases of a node, keeps what its attempts said, and tells what it must know.
    fn heartbeat(&self, beat: Beat) -> Verb<'_, Answer>;

    /// Makes due jobs ready and fails those past their deadline, at most [`PROMOTE_MAX`] each. Takes
    /// in what was submitted in transactions of others, where that needs a node.
    fn promote(&self) -> Verb<'_, Promoted>;

    /// Takes their jobs from dead nodes. Proof of death, a liveness lock that is free, is enough
    /// for a store whose locks can't be lost; otherwise only those are dead that `judge` suspects.
    fn rescue(&self, judge: Judge) -> Verb<'_, Vec<Rescued>>;

    /// Cancels jobs; one that runs is asked to end. The answers are in the order of `ids`.
    fn cancel(&self, ids: Vec<JobId>) -> Verb<'_, Vec<Changed>>;

    /// Makes ended jobs ready again, their attempts and crashes reset, their history kept.
    fn retry(&self, ids: Vec<JobId>) -> Verb<'_, Vec<Changed>>;

    /// Reads jobs, in the order of `ids`; `None` where there is no such job.
    fn get(&self, ids: Vec<JobId>) -> Verb<'_, Vec<Option<JobView>>>;

    /// Reads a page of jobs, newest first.
    fn list(&self, filter: Filter, page: Page) -> Verb<'_, Listed>;

    /// Reads the attempts of a job, oldest first.
    fn attempts(&self, id: JobId) -> Verb<'_, Vec<AttemptView>>;

    /// Reads the log of a job, oldest first, at most `limit` lines from the end.
    fn logs(&self, id: JobId, limit: usize) -> Verb<'_, Vec<LogView>>;

    /// Reads events after `cursor`, oldest first, at most `limit`.
    fn events(&self, cursor: EventCursor, limit: usize) -> Verb<'_, Events>;

    /// Counts jobs by queue, task and state.
    fn counts(&self) -> Verb<'_, Vec<Count>>;

    /// Reads the nodes that are registered.
    fn nodes(&self) -> Verb<'_, Vec<NodeView>>;

    /// Forgets ended jobs and events that are older than asked, a bounded number a call.
    fn prune(&self, prune: Prune) -> Verb<'_, Pruned>;

    /// Checks, on one snapshot, what must hold after every commit, and tells what does not. It
    /// reads the whole store: for operators and tests.
    fn verify(&self) -> Verb<'_, Vec<Breach>>;

    /// The time that the store goes by, the same for every process that uses it: what is due, late
    /// or old is so by this clock.
    fn clock(&self) -> Arc<dyn Clock>;

    /// What tells that something was committed, by this process or by another.
    fn notices(&self) -> Notices;

    /// How the store fares, as far as it is known without asking: cheap, no I/O.
    fn health(&self) -> StoreHealth {
        StoreHealth::default()
    }

    /// What the store is, and what it has done since it was opened.
    fn info(&self) -> StoreInfo;
}

/// How many jobs one [`Store::promote`] moves at most.
pub const PROMOTE_MAX: usize = 5_000;

/// Versions that grow with each commit of interest; a reader may skip some, never miss the last.
#[derive(Debug, Clone)]
pub struct Notices {
    /// Jobs may have become ready.
    pub ready: watch::Receiver<u64>,
    /// Jobs may have become due earlier than was known.
    pub due: watch::Receiver<u64>,
    /// Jobs may have moved, or been asked to end.
    pub changed: watch::Receiver<u64>,
}
