//! Nodes: liveness locks, heartbeats, and the rescue of what dead nodes held.
//!
//! A node holds a lock on a file of its own, which the operating system frees when the process
//! dies. A lock that can be taken is proof of death, so its jobs are rescued at once. A node that
//! holds its lock and gives no sign of life for [`LEASE`] is taken for dead as well; the fence
//! keeps it from doing harm.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::params;
use taskloom_model::{Command, Fence, JobId, NodeId, StateName, Time};

use super::engine::{Engine, Result};
use super::moves::Left;
use crate::{Answer, Beat, Judge, NewNode, ProgressView, Rescued, StoreError};

/// How long a lease lasts without a heartbeat, when there is no proof of death.
pub const LEASE: Duration = Duration::from_secs(30);

/// The folder of the liveness locks of the database at `path`.
pub(super) fn lock_folder(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-nodes");
    PathBuf::from(name)
}

/// Makes and takes a liveness lock.
pub(super) fn take_lock(folder: &Path, name: &str) -> Result<File> {
    let cant = |error: std::io::Error| StoreError::CantOpen {
        path: folder.join(name),
        why: error.to_string(),
    };
    std::fs::create_dir_all(folder).map_err(cant)?;
    let path = folder.join(name);
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(cant)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(cant(std::io::Error::other("the lock is taken"))),
        Err(TryLockError::Error(error)) => Err(cant(error)),
    }
}

/// Whether the process that held the lock is dead for certain.
fn is_free(folder: Option<&Path>, name: &str) -> bool {
    let Some(folder) = folder else { return false };
    match OpenOptions::new().write(true).open(folder.join(name)) {
        Ok(file) => file.try_lock().is_ok(),
        // The lock is made before the node is known, so a missing one belonged to a dead node.
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

impl Engine {
    pub(super) fn register(&mut self, node: &NewNode, lock: &str) -> Result<NodeId> {
        let now = self.now.as_millis();
        let tasks = serde_json::to_string(&node.tasks).expect("names are plain data");
        self.conn
            .prepare_cached(
                "INSERT INTO nodes (name, pid, started, heartbeat, lock, tasks) \
                 VALUES (?1, ?2, ?3, ?3, ?4, ?5)",
            )?
            .execute(params![node.name, node.pid, now, lock, tasks])?;
        self.tally.told.changed = true;
        Ok(NodeId(u64::try_from(self.conn.last_insert_rowid()).unwrap_or(0)))
    }

    pub(super) fn retire(&mut self, node: NodeId) -> Result<()> {
        // What it has not given back would have no owner.
        self.rescue_from(node, String::new())?;
        self.conn.prepare_cached("DELETE FROM nodes WHERE id = ?1")?.execute([node.0])?;
        self.tally.told.changed = true;
        Ok(())
    }

    pub(super) fn heartbeat(&mut self, beat: &Beat) -> Result<Answer> {
        let n = self
            .conn
            .prepare_cached("UPDATE nodes SET heartbeat = ?2 WHERE id = ?1")?
            .execute(params![beat.node.0, self.now.as_millis()])?;
        if n == 0 {
            return Ok(Answer { cancel: Vec::new(), evicted: true });
        }
        for sign in &beat.signs {
            let key = sign.id.key();
            if let Some((fraction, message)) = &sign.progress {
                let progress = ProgressView { fraction: *fraction, message: message.clone() };
                let progress = serde_json::to_string(&progress).expect("progress is plain data");
                let fence = Self::fence_number(sign.fence);
                self.conn
                    .prepare_cached(
                        "UPDATE running SET progress = ?3 WHERE job = ?1 AND fence = ?2",
                    )?
                    .execute(params![key, fence, progress])?;
            }
            self.write_logs(key, sign.fence, &sign.logs)?;
        }
        Ok(Answer { cancel: self.cancel_requested(beat.node)?, evicted: false })
    }

    fn cancel_requested(&self, node: NodeId) -> Result<Vec<(JobId, Fence)>> {
        let mut find = self.conn.prepare_cached(
            "SELECT job, created, fence FROM running JOIN jobs ON jobs.id = job \
             WHERE node = ?1 AND cancel = 1",
        )?;
        let rows = find.query_map([node.0], |row| {
            let created = Time::from_millis(row.get(1)?);
            Ok((self.job_id(row.get(0)?, created), Fence(row.get(2)?)))
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Takes their jobs from dead nodes.
    pub(super) fn rescue(&mut self, judge: &Judge, folder: Option<&Path>) -> Result<Vec<Rescued>> {
        let mut find = self.conn.prepare_cached("SELECT id, name, heartbeat, lock FROM nodes")?;
        let nodes = find
            .query_map([], |row| {
                let heartbeat = Time::from_millis(row.get(2)?);
                Ok((NodeId(row.get(0)?), row.get(1)?, heartbeat, row.get(3)?))
            })?
            .collect::<rusqlite::Result<Vec<(NodeId, String, Time, String)>>>()?;
        drop(find);
        let mut rescued = Vec::new();
        for (node, name, heartbeat, lock) in nodes {
            let is_late = LEASE <= self.now.since(heartbeat) && judge.suspects(node);
            // The operating system frees the lock of a process that has ended, and no other.
            if Some(node) == judge.asking || !(is_late || is_free(folder, &lock)) {
                continue;
            }
            rescued.push(self.rescue_from(node, name)?);
            self.retire(node)?;
            if let Some(folder) = folder {
                std::fs::remove_file(folder.join(lock)).ok();
            }
        }
        Ok(rescued)
    }

    fn rescue_from(&mut self, node: NodeId, name: String) -> Result<Rescued> {
        let mut find = self.conn.prepare_cached("SELECT job FROM running WHERE node = ?1")?;
        let keys =
            find.query_map([node.0], |row| row.get(0))?.collect::<rusqlite::Result<Vec<u64>>>()?;
        drop(find);
        let mut rescued = Rescued { node, name, n_ready: 0, n_ended: 0 };
        for key in keys {
            let Some(loaded) = self.load(key)? else { continue };
            let left = Left { node, started: loaded.started, result: None, error: None };
            match self.transition(&loaded, Command::OwnerLost, Some(left))? {
                Ok(StateName::Ready) => rescued.n_ready += 1,
                Ok(_) => rescued.n_ended += 1,
                Err(_) => {}
            }
            self.leased.remove(&key);
        }
        Ok(rescued)
    }
}
