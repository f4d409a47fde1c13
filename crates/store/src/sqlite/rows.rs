//! The rows of a job, read and written: one place for each state, and what all states share.

use rusqlite::{Connection, OptionalExtension, Row, params};
use taskloom_model::{Fence, Job, JobId, Life, NodeId, Rules, State, Time};

use super::engine::{Conn, Engine, Result};
use crate::StoreError;
use crate::codec::{Extra, Policy, ended_code, ended_state, parse};

pub(super) fn read_policy(conn: &Connection, id: i64) -> Result<Policy> {
    let body: String = conn
        .prepare_cached("SELECT body FROM policies WHERE id = ?1")?
        .query_row([id], |row| row.get(0))?;
    parse(&body)
}

/// A job as the writer needs it.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub(super) key: u64,
    pub(super) created: Time,
    pub(super) lane: i64,
    pub(super) rank: i64,
    pub(super) extra: Extra,
    pub(super) job: Job,
    /// When the attempt under way was claimed.
    pub(super) started: Time,
}

/// Reads four numbers of a life, from column `at` on.
pub(super) fn life(row: &Row<'_>, at: usize) -> rusqlite::Result<Life> {
    Ok(Life {
        attempts: row.get(at)?,
        crashes: row.get(at + 1)?,
        snoozes: row.get(at + 2)?,
        fence: Fence(row.get(at + 3)?),
        cancel_requested: false,
    })
}

/// Where a job stands: its state and life, and for `running` since when.
pub(super) type Standing = (State, Life, Time);

/// Finds where job `key` stands.
pub(super) fn standing(
    conn: &Connection,
    key: u64,
    (lane, rank): (i64, i64),
) -> Result<Option<Standing>> {
    let none = Time::default();
    let mut get = conn.prepare_cached(
        "SELECT state, attempts, crashes, snoozes, fence FROM ended WHERE job = ?1",
    )?;
    let found = get
        .query_row([key], |row| Ok((ended_state(row.get(0)?), life(row, 1)?, none)))
        .optional()?;
    if found.is_some() {
        return Ok(found);
    }
    let mut get = conn.prepare_cached(
        "SELECT attempts, crashes, snoozes, fence FROM ready \
         WHERE lane = ?1 AND rank = ?2 AND job = ?3",
    )?;
    let found = get
        .query_row(params![lane, rank, key], |row| Ok((State::Ready, life(row, 0)?, none)))
        .optional()?;
    if found.is_some() {
        return Ok(found);
    }
    let mut get = conn.prepare_cached(
        "SELECT attempts, crashes, snoozes, fence, cancel, node, started FROM running \
         WHERE job = ?1",
    )?;
    let found = get
        .query_row([key], |row| {
            let life = Life { cancel_requested: row.get(4)?, ..life(row, 0)? };
            let started = Time::from_millis(row.get(6)?);
            Ok((State::Running { node: NodeId(row.get(5)?) }, life, started))
        })
        .optional()?;
    if found.is_some() {
        return Ok(found);
    }
    standing_still(conn, key)
}

fn standing_still(conn: &Connection, key: u64) -> Result<Option<Standing>> {
    let none = Time::default();
    let mut get = conn.prepare_cached(
        "SELECT attempts, crashes, snoozes, fence, at, retrying FROM waiting WHERE job = ?1",
    )?;
    let found = get
        .query_row([key], |row| {
            let at = Time::from_millis(row.get(4)?);
            let is_retrying: bool = row.get(5)?;
            let state = if is_retrying { State::Retrying { at } } else { State::Delayed { at } };
            Ok((state, life(row, 0)?, none))
        })
        .optional()?;
    if found.is_some() {
        return Ok(found);
    }
    let mut get = conn.prepare_cached(
        "SELECT attempts, crashes, snoozes, fence, n_unfinished FROM blocked WHERE job = ?1",
    )?;
    let found = get
        .query_row([key], |row| {
            Ok((State::Blocked { n_unfinished: row.get(4)? }, life(row, 0)?, none))
        })
        .optional()?;
    Ok(found)
}

impl<C: Conn> Engine<C> {
    /// Reads a job by its key.
    pub(super) fn load(&mut self, key: u64) -> Result<Option<Loaded>> {
        let row: Option<(i64, i64, i64, i64, Option<String>)> = self
            .conn
            .prepare_cached("SELECT created, lane, rank, policy, extra FROM jobs WHERE id = ?1")?
            .query_row([key], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
            })
            .optional()?;
        let Some((created, lane, rank, policy, extra)) = row else { return Ok(None) };
        let extra = Extra::from_json(extra.as_deref())?;
        let rules: Rules = self.policy(policy)?.rules(&extra);
        let Some((state, life, started)) = standing(&self.conn, key, (lane, rank))? else {
            return Err(StoreError::Corrupt { why: format!("job {key} stands nowhere") });
        };
        let job = Job { state, rules, life };
        let created = Time::from_millis(created);
        Ok(Some(Loaded { key, created, lane, rank, extra, job, started }))
    }

    /// Reads a job by its public id; `None` when it is of another store, or gone.
    pub(super) fn load_id(&mut self, id: JobId) -> Result<Option<Loaded>> {
        if id.salt() != self.salt {
            return Ok(None);
        }
        Ok(self.load(id.key())?.filter(|it| it.created == id.created()))
    }

    /// Takes the row of a job away from where it stands.
    pub(super) fn leave(&mut self, loaded: &Loaded) -> Result<()> {
        let key = loaded.key;
        let sql = match loaded.job.state {
            State::Ready => {
                self.conn
                    .prepare_cached("DELETE FROM ready WHERE lane = ?1 AND rank = ?2 AND job = ?3")?
                    .execute(params![loaded.lane, loaded.rank, key])?;
                self.tally.count(loaded.lane, loaded.job.state.name(), -1);
                return Ok(());
            }
            State::Delayed { .. } | State::Retrying { .. } => "DELETE FROM waiting WHERE job = ?1",
            State::Blocked { .. } => "DELETE FROM blocked WHERE job = ?1",
            State::Running { .. } => "DELETE FROM running WHERE job = ?1",
            State::Succeeded | State::Failed { .. } | State::Cancelled => {
                "DELETE FROM ended WHERE job = ?1"
            }
        };
        self.conn.prepare_cached(sql)?.execute([key])?;
        self.tally.count(loaded.lane, loaded.job.state.name(), -1);
        Ok(())
    }

    /// Puts the row of an unfinished job where its new state stands.
    pub(super) fn enter(&mut self, key: u64, (lane, rank): (i64, i64), job: &Job) -> Result<()> {
        let Life { attempts, crashes, snoozes, fence, cancel_requested } = job.life;
        let fence = Self::fence_number(fence);
        match job.state {
            State::Ready => {
                let sql = "INSERT INTO ready (lane, rank, job, attempts, crashes, snoozes, fence) VALUES (?1,?2,?3,?4,?5,?6,?7)";
                self.conn
                    .prepare_cached(sql)?
                    .execute(params![lane, rank, key, attempts, crashes, snoozes, fence])?;
                self.tally.told.ready = true;
            }
            State::Delayed { at } | State::Retrying { at } => {
                let is_retrying = matches!(job.state, State::Retrying { .. });
                let at = at.as_millis();
                let sql = "INSERT INTO waiting (job, at, retrying, attempts, crashes, snoozes, fence) VALUES (?1,?2,?3,?4,?5,?6,?7)";
                self.conn.prepare_cached(sql)?.execute(params![
                    key,
                    at,
                    is_retrying,
                    attempts,
                    crashes,
                    snoozes,
                    fence
                ])?;
                // A node may have to wake earlier than it meant to.
                self.tally.told.due = true;
            }
            State::Blocked { n_unfinished } => {
                let sql = "INSERT INTO blocked (job, n_unfinished, attempts, crashes, snoozes, fence) VALUES (?1,?2,?3,?4,?5,?6)";
                self.conn.prepare_cached(sql)?.execute(params![
                    key,
                    n_unfinished,
                    attempts,
                    crashes,
                    snoozes,
                    fence
                ])?;
            }
            State::Running { node } => {
                let started = self.now.as_millis();
                let sql = "INSERT INTO running (job, node, started, attempts, crashes, snoozes, fence, cancel) \
                     VALUES (?1,?2,?3,?4,?5,?6,?7,?8)";
                self.conn.prepare_cached(sql)?.execute(params![
                    key,
                    node.0,
                    started,
                    attempts,
                    crashes,
                    snoozes,
                    fence,
                    cancel_requested
                ])?;
            }
            State::Succeeded | State::Failed { .. } | State::Cancelled => {
                return Err(StoreError::Database("an ended job enters with its attempt".into()));
            }
        }
        self.tally.count(lane, job.state.name(), 1);
        Ok(())
    }

    /// Puts an ended job where it rests, with its last attempt when there was one.
    pub(super) fn enter_ended(
        &mut self,
        key: u64,
        lane: i64,
        job: &Job,
        last: Option<&LastAttempt<'_>>,
    ) -> Result<()> {
        let Life { attempts, crashes, snoozes, fence, .. } = job.life;
        let mut put = self.conn.prepare_cached(
            "INSERT INTO ended (job, state, at, attempts, crashes, snoozes, fence, node, started, \
             outcome, result, error) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12)",
        )?;
        put.execute(params![
            key,
            ended_code(&job.state),
            self.now.as_millis(),
            attempts,
            crashes,
            snoozes,
            Self::fence_number(fence),
            last.map(|it| it.node.0),
            last.map(|it| it.started.as_millis()),
            last.map(|it| it.outcome),
            last.and_then(|it| it.result),
            last.and_then(|it| it.error.as_deref()),
        ])?;
        drop(put);
        self.tally.count(lane, job.state.name(), 1);
        Ok(())
    }
}

/// The last attempt of a job that has ended.
#[derive(Debug)]
pub(super) struct LastAttempt<'a> {
    pub(super) node: NodeId,
    pub(super) started: Time,
    pub(super) outcome: i64,
    pub(super) result: Option<&'a str>,
    pub(super) error: Option<String>,
}
