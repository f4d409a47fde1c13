//! The writing side of the file: one connection, its caches, and the transaction under way.
//!
//! # Invariants
//! - Only the owner of the engine writes through this connection.
//! - The caches mirror the file as of the transaction under way: they are read anew when another
//!   process has committed, and after a rollback.

use std::collections::{HashMap, VecDeque};
use std::ops::Deref;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use taskloom_model::{Fence, JobId, Life, Rules, Time};

use super::tally::Tally;
use crate::codec::Policy;
use crate::keys::KeyMap;
use crate::tells::Told;
use crate::{Clock, StoreError};

pub(super) type Result<T> = std::result::Result<T, StoreError>;

/// A queue and a task.
#[derive(Debug, Clone)]
pub(super) struct Lane {
    pub(super) queue: Arc<str>,
    pub(super) task: Arc<str>,
}

/// What is known of a job that this process has claimed, so that finishing it reads nothing.
#[derive(Debug, Clone)]
pub(super) struct Leased {
    pub(super) created: Time,
    pub(super) lane: i64,
    pub(super) rank: i64,
    pub(super) rules: Rules,
    pub(super) life: Life,
    pub(super) unique: Option<String>,
}

/// The connection of an engine: its own, or one that is lent to it.
pub(super) trait Conn: Deref<Target = Connection> {}

impl<C: Deref<Target = Connection>> Conn for C {}

#[derive(Debug)]
pub(super) struct Engine<C = Box<Connection>> {
    pub(super) conn: C,
    pub(super) salt: u32,
    pub(super) now: Time,
    /// By id; SQLite gives ids from 1 upwards.
    pub(super) lanes: Vec<Lane>,
    lane_ids: HashMap<Arc<str>, HashMap<Arc<str>, i64>>,
    pub(super) policies: KeyMap<Policy>,
    /// By id, newest first, at most [`POLICIES_RECENT`]: what submitters use again and again.
    policies_recent: VecDeque<(Policy, i64)>,
    pub(super) leased: KeyMap<Leased>,
    pub(super) tally: Tally,
    /// Jobs that have ended and whose dependents have not heard of it, with whether they succeeded.
    pub(super) endings: VecDeque<(u64, bool)>,
    pub(super) next_job: u64,
    next_job_stored: u64,
    /// The version that the caches mirror.
    data_version: i64,
    /// The version that was last told of.
    looked_at: i64,
}

const POLICIES_RECENT: usize = 16;

impl Engine {
    pub(super) fn new(conn: Connection) -> Result<Engine> {
        conn.set_prepared_statement_cache_capacity(128);
        super::open::keep_plans(&conn)?;
        let mut engine = Engine::unread(Box::new(conn), Time::default());
        engine.conn.execute_batch("BEGIN")?;
        engine.reload()?;
        engine.conn.execute_batch("COMMIT")?;
        Ok(engine)
    }
}

impl<'c> Engine<&'c Connection> {
    /// An engine on a connection that has a transaction open, which writes.
    pub(super) fn lent(conn: &'c Connection, now: Time) -> Result<Self> {
        let mut engine = Engine::unread(conn, now);
        engine.reload()?;
        Ok(engine)
    }
}

impl<C: Conn> Engine<C> {
    /// An engine that has not read the file yet.
    fn unread(conn: C, now: Time) -> Self {
        Engine {
            conn,
            salt: 0,
            now,
            lanes: Vec::new(),
            lane_ids: HashMap::new(),
            policies: KeyMap::default(),
            policies_recent: VecDeque::new(),
            leased: KeyMap::default(),
            tally: Tally::default(),
            endings: VecDeque::new(),
            next_job: 1,
            next_job_stored: 1,
            data_version: -1,
            looked_at: -1,
        }
    }

    /// Starts a transaction. Its time is read when nobody else can write any more, so times follow
    /// the order of the commits, however long it waited.
    pub(super) fn begin(&mut self, clock: &dyn Clock) -> Result<()> {
        self.conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        self.now = clock.now();
        if self.foreign_commit()? {
            self.reload()?;
            // What the other process did may be what somebody here waits for.
            self.tally.told = Told { ready: true, due: true, changed: true };
        }
        Ok(())
    }

    fn read_data_version(&self) -> Result<i64> {
        let mut read = self.conn.prepare_cached("PRAGMA data_version")?;
        Ok(read.query_row([], |row| row.get(0))?)
    }

    /// Whether another connection has committed since the last transaction.
    fn foreign_commit(&mut self) -> Result<bool> {
        let version = self.read_data_version()?;
        let is_new = version != self.data_version;
        self.data_version = version;
        self.looked_at = version;
        Ok(is_new)
    }

    /// The same since the last look, outside a transaction; the next one still reads anew.
    pub(super) fn peek_foreign_commit(&mut self) -> Result<bool> {
        let version = self.read_data_version()?;
        let is_new = version != self.looked_at;
        self.looked_at = version;
        Ok(is_new)
    }

    /// Makes the transaction durable and returns what there is to tell.
    pub(super) fn commit(&mut self) -> Result<Told> {
        self.flush()?;
        self.conn.prepare_cached("COMMIT")?.execute([])?;
        Ok(std::mem::take(&mut self.tally.told))
    }

    /// Forgets the transaction.
    pub(super) fn rollback(&mut self) {
        self.tally = Tally::default();
        self.endings.clear();
        self.leased.clear();
        // Their rows may be among those taken back.
        self.policies.clear();
        self.policies_recent.clear();
        if !self.conn.is_autocommit() {
            self.conn.execute_batch("ROLLBACK").ok();
        }
        // The next transaction reads everything anew.
        self.data_version = -1;
    }

    /// Writes what a transaction gathers: counts, events, the next key.
    pub(super) fn flush(&mut self) -> Result<()> {
        if let Some(next_event) = self.tally.flush(&self.conn, self.now)? {
            self.put_meta("next_event", next_event)?;
        }
        if self.next_job != self.next_job_stored {
            self.put_meta("next_job", self.next_job)?;
            self.next_job_stored = self.next_job;
        }
        Ok(())
    }

    fn put_meta(&self, name: &str, value: u64) -> Result<()> {
        self.conn
            .prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)")?
            .execute(params![name, value])?;
        Ok(())
    }

    fn meta(&self, name: &str) -> Result<u64> {
        let mut get = self.conn.prepare_cached("SELECT value FROM meta WHERE name = ?1")?;
        Ok(get.query_row([name], |row| row.get(0)).optional()?.unwrap_or(1))
    }

    fn reload(&mut self) -> Result<()> {
        self.salt = u32::try_from(self.meta("salt")?).unwrap_or(0);
        self.next_job = self.meta("next_job")?;
        self.next_job_stored = self.next_job;
        self.lanes.clear();
        self.lane_ids.clear();
        let next_event = self.meta("next_event")?;
        self.tally.clear(next_event);
        let mut lanes = self.conn.prepare_cached("SELECT queue, task FROM lanes ORDER BY id")?;
        let mut rows = lanes.query([])?;
        while let Some(row) = rows.next()? {
            let (queue, task): (Arc<str>, Arc<str>) = (row.get(0)?, row.get(1)?);
            self.lanes.push(Lane { queue: Arc::clone(&queue), task: Arc::clone(&task) });
            let id = i64::try_from(self.lanes.len()).unwrap_or(i64::MAX);
            self.lane_ids.entry(queue).or_default().insert(task, id);
        }
        let mut counts = self.conn.prepare_cached("SELECT lane, state, n FROM counts")?;
        let mut rows = counts.query([])?;
        while let Some(row) = rows.next()? {
            self.tally.set(row.get(0)?, row.get(1)?, row.get(2)?);
        }
        Ok(())
    }

    pub(super) fn job_id(&self, key: u64, created: Time) -> JobId {
        JobId::compose(created, self.salt, key)
    }

    /// The lane of a queue and a task, made when it is new.
    pub(super) fn lane_id(&mut self, queue: &Arc<str>, task: &Arc<str>) -> Result<i64> {
        if let Some(&id) = self.lane_ids.get(queue).and_then(|tasks| tasks.get(task)) {
            return Ok(id);
        }
        let id = i64::try_from(self.lanes.len() + 1).unwrap_or(i64::MAX);
        self.conn
            .prepare_cached("INSERT INTO lanes (id, queue, task) VALUES (?1, ?2, ?3)")?
            .execute(params![id, queue, task])?;
        self.lanes.push(Lane { queue: Arc::clone(queue), task: Arc::clone(task) });
        self.lane_ids.entry(Arc::clone(queue)).or_default().insert(Arc::clone(task), id);
        Ok(id)
    }

    pub(super) fn lane(&self, id: i64) -> Result<&Lane> {
        usize::try_from(id - 1)
            .ok()
            .and_then(|place| self.lanes.get(place))
            .ok_or_else(|| StoreError::Corrupt { why: format!("no lane {id}") })
    }

    /// The id of a policy, made when it is new.
    pub(super) fn policy_id(&mut self, policy: &Policy) -> Result<i64> {
        if let Some((_, id)) = self.policies_recent.iter().find(|(it, _)| it == policy) {
            return Ok(*id);
        }
        let body = policy.to_json();
        let mut find = self.conn.prepare_cached("SELECT id FROM policies WHERE body = ?1")?;
        let found: Option<i64> = find.query_row([&body], |row| row.get(0)).optional()?;
        let id = if let Some(id) = found {
            id
        } else {
            self.conn
                .prepare_cached("INSERT INTO policies (body) VALUES (?1)")?
                .execute([&body])?;
            self.conn.last_insert_rowid()
        };
        drop(find);
        self.policies_recent.truncate(POLICIES_RECENT - 1);
        self.policies_recent.push_front((*policy, id));
        Ok(id)
    }

    pub(super) fn policy(&mut self, id: i64) -> Result<Policy> {
        let key = id.unsigned_abs();
        if let Some(&policy) = self.policies.get(&key) {
            return Ok(policy);
        }
        let policy = super::rows::read_policy(&self.conn, id)?;
        // A bound: retry policies computed for each job must not fill the memory.
        if 1_000 < self.policies.len() {
            self.policies.clear();
        }
        self.policies.insert(key, policy);
        Ok(policy)
    }

    /// The fence of a lease, for `(job, fence)` pairs given by callers.
    pub(super) fn fence_number(fence: Fence) -> i64 {
        i64::try_from(fence.0).unwrap_or(i64::MAX)
    }
}
