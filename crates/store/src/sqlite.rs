//! The embedded store: one SQLite file, one writer thread, readers beside it.
//!
//! # Invariants
//! - The writer thread owns the only connection that writes.
//! - WAL; `synchronous=FULL` unless the user says otherwise: what is accepted survives a power cut.

mod batch;
mod claim;
mod engine;
#[cfg(feature = "torture")]
mod hold;
mod migrations;
mod moves;
mod nodes;
mod open;
mod prune;
mod read;
mod rows;
mod says;
mod submit;
mod submit_in;
mod tally;
mod verify;
mod writer;

#[cfg(feature = "torture")]
pub use hold::WriteHold;
pub use nodes::LEASE;
pub use open::{SqliteOptions, Synchronous};
pub use rusqlite;
pub use submit_in::submit_in;

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use rusqlite::Connection;
use taskloom_model::{Command, Fence, JobId, NodeId};

use crate::{
    Accepted, Answer, AttemptView, Beat, Breach, Changed, Claimed, Clock, Count, Demand,
    EventCursor, Events, Filter, Finish, Finished, JobView, Judge, Listed, LogView, NewJob,
    NewNode, NodeView, Notices, Page, Promoted, Prune, Pruned, Rescued, Store, StoreError,
    StoreInfo, Verb,
};
use engine::Engine;
use writer::Writer;

/// How many readers are kept; more are opened while all are busy.
const READERS_KEPT: usize = 4;

/// The embedded store.
#[derive(Debug)]
pub struct SqliteStore {
    /// Dropped before the writer: the last connection to close moves the WAL into the file, and
    /// one that only reads can't.
    readers: Arc<Mutex<Vec<Connection>>>,
    writer: Writer,
    clock: Arc<dyn Clock>,
    /// `None`: in memory.
    path: Option<PathBuf>,
    options: SqliteOptions,
    /// The liveness locks of the nodes of this process.
    locks: Mutex<HashMap<NodeId, (String, File)>>,
}

impl SqliteStore {
    /// Opens the file at `path`, made when it is missing.
    ///
    /// # Errors
    /// [`StoreError::NewerSchema`], [`StoreError::Foreign`], [`StoreError::NetworkFileSystem`],
    /// [`StoreError::CantOpen`], [`StoreError::Corrupt`], [`StoreError::Locked`].
    pub fn open(
        path: impl Into<PathBuf>,
        options: SqliteOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<SqliteStore, StoreError> {
        let path = path.into();
        let engine = open::engine(&path, &options, clock.now())?;
        let writer = Writer::thread(engine, Arc::clone(&clock), path.clone())?;
        Ok(SqliteStore {
            writer,
            clock,
            path: Some(path),
            options,
            readers: Arc::default(),
            locks: Mutex::default(),
        })
    }

    /// Opens a store that lives as long as this value: for tests. Verbs are done by the caller,
    /// so a paused Tokio clock stays paused.
    ///
    /// # Errors
    /// [`StoreError::Database`] when SQLite refuses.
    pub fn in_memory(
        options: SqliteOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<SqliteStore, StoreError> {
        let engine = open::engine_in_memory(clock.now())?;
        Ok(SqliteStore {
            writer: Writer::inline(engine, Arc::clone(&clock)),
            clock,
            path: None,
            options,
            readers: Arc::default(),
            locks: Mutex::default(),
        })
    }

    /// Runs a read on a connection of its own, on a thread where it may block.
    fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Verb<'_, T> {
        Box::pin(async move {
            let Some(path) = self.path.clone() else {
                return self.writer.read_inline(read).unwrap_or(Err(StoreError::Closed));
            };
            let readers = Arc::clone(&self.readers);
            let reading = tokio::task::spawn_blocking(move || {
                let kept = readers.lock().pop();
                let mut conn = kept.map_or_else(|| open::reader(&path), Ok)?;
                let answer = open::with_deadline(&mut conn, read);
                let mut readers = readers.lock();
                if readers.len() < READERS_KEPT {
                    readers.push(conn);
                }
                answer
            });
            reading.await.unwrap_or(Err(StoreError::Closed))
        })
    }
}

impl Store for SqliteStore {
    fn submit(&self, jobs: Vec<NewJob>) -> Verb<'_, Vec<Accepted>> {
        Box::pin(async move {
            crate::check::check(&jobs, self.options.payload_max)?;
            // The jobs come back, so that the writer does not spend its time on freeing them.
            let submit = move |engine: &mut Engine| Ok((engine.submit(&jobs)?, jobs));
            self.writer.call(submit).await.map(|(accepted, _)| accepted)
        })
    }

    fn claim(&self, node: NodeId, demands: Vec<Demand>) -> Verb<'_, Vec<Claimed>> {
        Box::pin(self.writer.call(move |engine| engine.claim(node, &demands)))
    }

    fn finish(&self, node: NodeId, ended: Vec<Finish>, demands: Vec<Demand>) -> Verb<'_, Finished> {
        // What ended comes back too: see `submit`.
        let finish = move |engine: &mut Engine| {
            let outcomes = engine.finish(node, &ended)?;
            let claimed = engine.claim(node, &demands)?;
            Ok((Finished { outcomes, claimed }, ended))
        };
        Box::pin(async move { self.writer.call(finish).await.map(|(finished, _)| finished) })
    }

    fn release(&self, node: NodeId, leases: Vec<(JobId, Fence)>) -> Verb<'_, ()> {
        Box::pin(self.writer.call(move |engine| engine.release(node, &leases)))
    }

    fn register(&self, node: NewNode) -> Verb<'_, NodeId> {
        Box::pin(async move {
            let name = uuid::Uuid::new_v4().simple().to_string();
            let folder = self.path.as_deref().map(nodes::lock_folder);
            let lock = folder.map(|folder| nodes::take_lock(&folder, &name)).transpose()?;
            let written = name.clone();
            let id = self.writer.call(move |engine| engine.register(&node, &written)).await?;
            if let Some(lock) = lock {
                self.locks.lock().insert(id, (name, lock));
            }
            Ok(id)
        })
    }

    fn retire(&self, node: NodeId) -> Verb<'_, ()> {
        Box::pin(async move {
            self.writer.call(move |engine| engine.retire(node)).await?;
            let lock = self.locks.lock().remove(&node);
            if let (Some((name, _lock)), Some(path)) = (lock, &self.path) {
                std::fs::remove_file(nodes::lock_folder(path).join(name)).ok();
            }
            Ok(())
        })
    }

    fn heartbeat(&self, beat: Beat) -> Verb<'_, Answer> {
        Box::pin(self.writer.call(move |engine| engine.heartbeat(&beat)))
    }

    fn promote(&self) -> Verb<'_, Promoted> {
        Box::pin(self.writer.call(|engine| engine.promote()))
    }

    fn rescue(&self, judge: Judge) -> Verb<'_, Vec<Rescued>> {
        let folder = self.path.as_deref().map(nodes::lock_folder);
        Box::pin(self.writer.call(move |engine| engine.rescue(&judge, folder.as_deref())))
    }

    fn cancel(&self, ids: Vec<JobId>) -> Verb<'_, Vec<Changed>> {
        Box::pin(self.writer.call(move |engine| engine.change(&ids, Command::Cancel)))
    }

    fn retry(&self, ids: Vec<JobId>) -> Verb<'_, Vec<Changed>> {
        Box::pin(self.writer.call(move |engine| engine.change(&ids, Command::Retry)))
    }

    fn get(&self, ids: Vec<JobId>) -> Verb<'_, Vec<Option<JobView>>> {
        self.read(move |conn| read::get(conn, &ids))
    }

    fn list(&self, filter: Filter, page: Page) -> Verb<'_, Listed> {
        self.read(move |conn| read::list(conn, &filter, page))
    }

    fn attempts(&self, id: JobId) -> Verb<'_, Vec<AttemptView>> {
        self.read(move |conn| read::attempts(conn, id))
    }

    fn logs(&self, id: JobId, limit: usize) -> Verb<'_, Vec<LogView>> {
        self.read(move |conn| read::logs(conn, id, limit))
    }

    fn events(&self, cursor: EventCursor, limit: usize) -> Verb<'_, Events> {
        self.read(move |conn| read::events(conn, cursor, limit))
    }

    fn counts(&self) -> Verb<'_, Vec<Count>> {
        self.read(read::counts)
    }

    fn nodes(&self) -> Verb<'_, Vec<NodeView>> {
        self.read(read::nodes)
    }

    fn prune(&self, prune: Prune) -> Verb<'_, Pruned> {
        Box::pin(async move {
            let keys = self.read(move |conn| read::prunable(conn, &prune)).await?;
            self.writer.call(move |engine| engine.prune(&keys, &prune)).await
        })
    }

    fn verify(&self) -> Verb<'_, Vec<Breach>> {
        let Some(path) = self.path.clone() else { return self.read(verify::verify) };
        // As long as it takes: the reads of everyday end after some seconds.
        Box::pin(async move {
            let verifying = tokio::task::spawn_blocking(move || {
                let conn = open::reader(&path)?;
                verify::verify(&conn)
            });
            verifying.await.unwrap_or(Err(StoreError::Closed))
        })
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    fn notices(&self) -> Notices {
        self.writer.tells().notices()
    }

    fn info(&self) -> StoreInfo {
        StoreInfo {
            store: match &self.path {
                Some(path) => format!("sqlite://{}", path.display()),
                None => "sqlite::memory:".into(),
            },
            synchronous: match (&self.path, self.options.synchronous) {
                (None, _) => "memory",
                (_, Synchronous::Full) => "full",
                (_, Synchronous::Normal) => "normal",
            },
            n_commits: self.writer.tells().n_commits.load(Ordering::Relaxed),
        }
    }
}
