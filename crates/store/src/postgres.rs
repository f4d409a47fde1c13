//! The store for many machines: PostgreSQL 15 or newer, in a schema of its own, `taskloom`.
//!
//! Threads own the connections: two lanes that commit independently (new jobs; claims, finishes
//! and moves), one for upkeep, a few that read, and one that listens. A verb puts a call into the
//! inbox of one of them and waits for the answer. The history lies in parts by time, and an old part
//! is dropped whole (`parts.rs`).
//!
//! # Invariants
//! - Every unfinished job has one row in `hot`, every ended one a row in `ended`.
//! - `FOR UPDATE` on the row of a job comes before any decision about it.
//! - Rows are locked in the order of their keys; the victim of a deadlock is done again.
//! - A statement looks for a row of the history in its own part only (`plans.rs`).

mod address;
mod arrivals;
mod claim;
mod events;
mod finish;
mod front;
mod lane;
mod listen;
mod migrations;
mod names;
mod nodes;
mod open;
mod parts;
#[cfg(all(test, unix, feature = "conformance"))]
mod plans;
mod pooled;
#[cfg(all(unix, any(feature = "conformance", feature = "torture")))]
mod private_server;
#[cfg(feature = "torture")]
mod probe;
mod read;
mod readers;
mod rows;
mod says;
mod session;
mod submit;
mod submit_in;
mod tally;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "torture")]
mod torture;
mod tx;
mod upkeep;
mod verify;
mod write;

pub use nodes::LEASE;
pub use open::PostgresOptions;
#[cfg(all(unix, any(feature = "conformance", feature = "torture")))]
pub use private_server::{Durability, PrivatePooler, PrivateServer, Stop};
#[cfg(feature = "torture")]
pub use probe::{ServerUse, drop_schema, is_vacant, server_use};
#[cfg(feature = "sqlx")]
pub use sqlx;
#[cfg(feature = "sqlx")]
pub use submit_in::submit_in_sqlx;
pub use submit_in::{SubmitStatement, submit_in};
pub use tokio_postgres;
#[cfg(feature = "torture")]
pub use torture::{Cut, Held, Hold, cut, hold};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use taskloom_model::{Command, Fence, JobId, NodeId};

use crate::tells::Tells;
use crate::{
    Accepted, Answer, AttemptView, Beat, Breach, Changed, Claimed, Clock, Count, Demand,
    EventCursor, Events, Filter, Finish, Finished, JobView, Judge, Listed, LogView, NewJob,
    NewNode, NodeView, Notices, Page, Promoted, Prune, Pruned, Rescued, Store, StoreError,
    StoreHealth, StoreInfo, Verb,
};
use finish::{Change, FinishAndClaim, Release};
use lane::{Hearing, Lane};
use listen::Listener;
use nodes::{Heartbeat, NextNode, Register, Rescue, Retire};
use open::Server;
use readers::Readers;
use upkeep::{Forget, Promote};

type Result<T> = std::result::Result<T, StoreError>;

/// How long a statement waits for a lock of another transaction before it gives up.
pub(crate) const LOCK_MAX_SECS: u64 = 5;

/// The store for many machines.
pub struct PostgresStore {
    submits: Lane,
    moves: Lane,
    upkeep: Lane,
    readers: Readers,
    listener: Listener,
    server: Arc<Server>,
    hearing: Arc<Hearing>,
    patience: parts::Patience,
    payload_max: usize,
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStore").field("store", &self.server.address()).finish()
    }
}

impl PostgresStore {
    /// Opens the store at `url`, `postgres://USER@HOST/DATABASE`; its schema is made when it is
    /// missing.
    ///
    /// # Errors
    /// [`StoreError::Url`], [`StoreError::Unreachable`], [`StoreError::TooManyConnections`],
    /// [`StoreError::Denied`], [`StoreError::NewerSchema`], [`StoreError::Foreign`],
    /// [`StoreError::Database`].
    pub fn open(url: &str, options: PostgresOptions) -> Result<PostgresStore> {
        let payload_max = options.payload_max;
        let server = Arc::new(open_apart(url.to_owned(), options)?);
        let hearing = Arc::new(Hearing {
            tells: Tells::new(),
            newest_event: AtomicU64::new(0),
            has_many_dead: AtomicBool::new(false),
            outbox: listen::Outbox::default(),
            health: lane::StoreParts::default(),
        });
        let lane = |name: &str| Lane::start(name, Arc::clone(&server), Arc::clone(&hearing));
        Ok(PostgresStore {
            submits: lane("taskloom-submit")?,
            moves: lane("taskloom-moves")?,
            upkeep: lane("taskloom-upkeep")?,
            readers: Readers::start(&server, &hearing)?,
            listener: Listener::start(Arc::clone(&server), Arc::clone(&hearing))?,
            patience: parts::Patience::default(),
            payload_max,
            server,
            hearing,
        })
    }

    /// Makes and drops parts of the history, on a connection that is there for it alone, so that no
    /// heartbeat waits. Returns how many jobs are forgotten.
    async fn care(&self, plan: parts::Plan, prune: Prune) -> usize {
        if !self.patience.allows(&plan) {
            return 0;
        }
        let drops = plan.drops();
        let cared = async {
            let (server, hearing) = (Arc::clone(&self.server), Arc::clone(&self.hearing));
            let lane = Lane::start("taskloom-parts", server, hearing)?.apart();
            lane.call(parts::Care::new(plan, prune)).await
        };
        let cared = cared.await.inspect_err(|error| {
            tracing::warn!(%error, code = error.code(), "a part could not be made or dropped");
        });
        let dropped = match cared {
            Ok(dropped) => {
                self.patience.tried(dropped.is_some() || !drops);
                dropped
            }
            Err(_) => {
                self.patience.tried(false);
                None
            }
        };
        usize::try_from(dropped.unwrap_or(0)).unwrap_or(usize::MAX)
    }
}

/// Opens on a thread of its own: the caller may be inside a runtime, which must not be entered
/// twice.
fn open_apart(url: String, options: PostgresOptions) -> Result<Server> {
    let cant = |error: std::io::Error| StoreError::Unreachable { why: error.to_string() };
    let opening = std::thread::Builder::new().name("taskloom-open".into()).spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cant)?;
        runtime.block_on(Server::open(&url, &options))
    });
    opening.map_err(cant)?.join().unwrap_or(Err(StoreError::Closed))
}

impl Store for PostgresStore {
    fn submit(&self, jobs: Vec<NewJob>) -> Verb<'_, Vec<Accepted>> {
        Box::pin(async move {
            crate::check::check(&jobs, self.payload_max)?;
            crate::check::check_nul(&jobs)?;
            if jobs.is_empty() {
                return Ok(Vec::new());
            }
            self.submits.call(submit::Submit::new(jobs)).await
        })
    }

    fn claim(&self, node: NodeId, demands: Vec<Demand>) -> Verb<'_, Vec<Claimed>> {
        Box::pin(self.moves.call(claim::Claim { node, demands }))
    }

    fn finish(&self, node: NodeId, ended: Vec<Finish>, demands: Vec<Demand>) -> Verb<'_, Finished> {
        Box::pin(self.moves.call(FinishAndClaim { node, ended, demands }))
    }

    fn release(&self, _node: NodeId, leases: Vec<(JobId, Fence)>) -> Verb<'_, ()> {
        Box::pin(self.moves.call(Release { leases }))
    }

    fn register(&self, node: NewNode) -> Verb<'_, NodeId> {
        Box::pin(async move {
            let id = self.upkeep.call(NextNode).await?;
            self.listener.hold(id).await?;
            self.upkeep.call(Register { id, node }).await
        })
    }

    fn retire(&self, node: NodeId) -> Verb<'_, ()> {
        Box::pin(async move {
            self.upkeep.call(Retire { node }).await?;
            self.listener.free(node).await;
            Ok(())
        })
    }

    fn heartbeat(&self, beat: Beat) -> Verb<'_, Answer> {
        Box::pin(async move {
            let node = beat.node;
            let answer = self.upkeep.call(Heartbeat { beat }).await?;
            if answer.evicted {
                self.listener.free(node).await;
            }
            Ok(answer)
        })
    }

    fn promote(&self) -> Verb<'_, Promoted> {
        Box::pin(self.upkeep.call(Promote))
    }

    fn rescue(&self, judge: Judge) -> Verb<'_, Vec<Rescued>> {
        Box::pin(self.upkeep.call(Rescue { judge }))
    }

    fn cancel(&self, ids: Vec<JobId>) -> Verb<'_, Vec<Changed>> {
        Box::pin(self.moves.call(Change { ids, command: Command::Cancel }))
    }

    fn retry(&self, ids: Vec<JobId>) -> Verb<'_, Vec<Changed>> {
        Box::pin(self.moves.call(Change { ids, command: Command::Retry }))
    }

    fn get(&self, ids: Vec<JobId>) -> Verb<'_, Vec<Option<JobView>>> {
        Box::pin(self.readers.call(move |it| {
            let ids = ids.clone();
            Box::pin(async move { read::get(&it, &ids).await })
        }))
    }

    fn list(&self, filter: Filter, page: Page) -> Verb<'_, Listed> {
        Box::pin(self.readers.call(move |it| {
            let filter = filter.clone();
            Box::pin(async move { read::list(&it, &filter, page).await })
        }))
    }

    fn attempts(&self, id: JobId) -> Verb<'_, Vec<AttemptView>> {
        let read =
            self.readers.call(move |it| Box::pin(async move { read::attempts(&it, id).await }));
        Box::pin(read)
    }

    fn logs(&self, id: JobId, limit: usize) -> Verb<'_, Vec<LogView>> {
        Box::pin(
            self.readers.call(move |it| Box::pin(async move { read::logs(&it, id, limit).await })),
        )
    }

    fn events(&self, cursor: EventCursor, limit: usize) -> Verb<'_, Events> {
        Box::pin(
            self.readers
                .call(move |it| Box::pin(async move { events::events(&it, cursor, limit).await })),
        )
    }

    fn counts(&self) -> Verb<'_, Vec<Count>> {
        Box::pin(self.readers.call(|it| Box::pin(async move { read::counts(&it).await })))
    }

    fn nodes(&self) -> Verb<'_, Vec<NodeView>> {
        Box::pin(self.readers.call(|it| Box::pin(async move { read::nodes(&it).await })))
    }

    fn prune(&self, prune: Prune) -> Verb<'_, Pruned> {
        Box::pin(async move {
            let look = self.readers.call(|it| Box::pin(async move { parts::look(&it).await }));
            let mut plan = look.await?.plan(&prune, self.server.clock.now());
            let parts = std::mem::take(&mut plan.one_by_one);
            let n_dropped = self.care(plan, prune).await;
            let found = self.readers.call(move |it| {
                let parts = parts.clone();
                Box::pin(async move { read::prunable(&it, &prune, &parts).await })
            });
            let keys = found.await?;
            let pruned = self.upkeep.call(Forget { keys, prune }).await?;
            Ok(Pruned { n_jobs: pruned.n_jobs + n_dropped, ..pruned })
        })
    }

    fn verify(&self) -> Verb<'_, Vec<Breach>> {
        let max = verify::VERIFY_MAX;
        Box::pin(
            self.readers.call_within(max, |it| Box::pin(async move { verify::verify(&it).await })),
        )
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.server) as Arc<dyn Clock>
    }

    fn notices(&self) -> Notices {
        self.hearing.tells.notices()
    }

    fn health(&self) -> StoreHealth {
        let health = &self.hearing.health;
        let parts = vec![health.commits.health(), health.listener.health()];
        StoreHealth { parts, server: health.server.lock().clone() }
    }

    fn info(&self) -> StoreInfo {
        StoreInfo {
            store: self.server.address(),
            synchronous: "full",
            n_commits: self.hearing.tells.n_commits.load(Ordering::Relaxed),
        }
    }
}
