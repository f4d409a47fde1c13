//! The rows of a job, as they are read for a move.

use taskloom_model::{Fence, Job, Life, NodeId, State, StateName, Time};
use tokio_postgres::Row;

use super::Result;
use super::names::Names;
use crate::StoreError;
use crate::codec::{Extra, ended_state, state_name};

/// `hot.flags`: it has a unique text.
pub(super) const UNIQUE: i16 = 1;
/// `hot.flags`: it has a deadline.
pub(super) const DEADLINE: i16 = 2;
/// `hot.flags`: others wait for it.
pub(super) const AWAITED: i16 = 4;
/// `hot.flags`: somebody wants it to end.
pub(super) const CANCEL: i16 = 8;

/// Whether a row that begins as [`LOAD_HOT`] is of a job among the `arrivals`: its flags are below
/// zero, which keeps it out of the index of those that somebody wants to end.
pub(super) fn has_just_arrived(row: &Row) -> Result<bool> {
    Ok(row.try_get::<_, i16>(12)? < 0)
}

/// Where the row of a job stands in the database, as of the last write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    Nowhere,
    Hot,
    Ended,
}

/// The attempt a job ended with.
#[derive(Debug, Clone)]
pub(super) struct LastAttempt {
    pub(super) node: NodeId,
    pub(super) started: Time,
    pub(super) outcome: i16,
    pub(super) result: Option<String>,
    pub(super) error: Option<String>,
}

/// A job as a move needs it, locked until the commit.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub(super) key: u64,
    pub(super) created: Time,
    pub(super) lane: i32,
    pub(super) rank: i16,
    pub(super) extra: Extra,
    pub(super) job: Job,
    /// When the attempt under way was claimed.
    pub(super) started: Time,
    /// Others wait for it.
    pub(super) is_awaited: bool,
    pub(super) stored: Stored,
    /// It differs from what stands in the database.
    pub(super) is_dirty: bool,
    /// Of a job that ended in this transaction, when it ended with an attempt.
    pub(super) last: Option<LastAttempt>,
    /// When it ended, if that was in this transaction.
    pub(super) ended_here: bool,
}

impl Loaded {
    pub(super) fn flags(&self) -> i16 {
        let flag = |is_set: bool, bit: i16| if is_set { bit } else { 0 };
        flag(self.extra.unique.is_some(), UNIQUE)
            | flag(self.job.rules.deadline.is_some(), DEADLINE)
            | flag(self.is_awaited, AWAITED)
            | flag(self.job.life.cancel_requested, CANCEL)
    }
}

/// A number of the model as PostgreSQL keeps it; none of ours is near its end.
pub(super) fn big(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn int(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

pub(super) fn code(number: i64) -> i16 {
    i16::try_from(number).unwrap_or(i16::MAX)
}

pub(super) fn key(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

pub(super) fn count(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

/// PostgreSQL keeps no NUL in a text.
pub(super) fn clean(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{FFFD}").into() } else { text.into() }
}

/// The unfinished ones of some jobs, locked in the order of their keys.
pub(super) const LOAD_HOT: &str = "SELECT h.job, h.fence, h.at, h.node, h.started, h.lane, h.attempts, \
     h.crashes, h.snoozes, h.n_unfinished, h.rank, h.state, h.flags, j.created, j.policy, j.extra \
     FROM hot h CROSS JOIN LATERAL \
     (SELECT created, policy, extra FROM jobs WHERE job = h.job OFFSET 0) AS j \
     WHERE h.job = ANY($1) ORDER BY h.job FOR UPDATE OF h";
/// The ended ones. Keys that stand in a table of their own are looked up one after the other, each
/// in its own part: `job = ANY($1)` would look for all of them in all parts. `OFFSET 0`, as a lock
/// does, keeps the planner from another order.
pub(super) const LOAD_ENDED: &str = "SELECT e.job, e.fence, e.attempts, e.crashes, e.snoozes, \
     e.state, j.lane, j.rank, j.created, j.policy, j.extra \
     FROM unnest($1::bigint[]) AS u(job) CROSS JOIN LATERAL \
     (SELECT * FROM ended WHERE job = u.job FOR UPDATE) AS e CROSS JOIN LATERAL \
     (SELECT lane, rank, created, policy, extra FROM jobs WHERE job = u.job OFFSET 0) AS j";
/// The jobs that wait for some, which wait for them no more.
pub(super) const TAKE_DEPENDENTS: &str = "WITH gone AS \
     (DELETE FROM dependencies WHERE on_job = ANY($1) RETURNING on_job, job) \
     SELECT on_job, job FROM gone ORDER BY on_job, job";

/// Where an unfinished job is, from a row that begins as [`LOAD_HOT`]. One that has just arrived
/// counts as delayed.
pub(super) fn standing(row: &Row) -> Result<(State, Life, Time)> {
    let at = || -> Result<Time> {
        if has_just_arrived(row)? {
            let created: i64 = row.try_get(13)?;
            return Ok(extra(row, 15)?.run_at.unwrap_or(Time::from_millis(created)));
        }
        let at: Option<i64> = row.try_get(2)?;
        Ok(Time::from_millis(at.unwrap_or(0)))
    };
    let state: i16 = row.try_get(11)?;
    let node: Option<i64> = row.try_get(3)?;
    let n_unfinished: Option<i32> = row.try_get(9)?;
    let state = match state_name(i64::from(state)) {
        StateName::Delayed => State::Delayed { at: at()? },
        StateName::Retrying => State::Retrying { at: at()? },
        StateName::Blocked => State::Blocked { n_unfinished: count(n_unfinished.unwrap_or(0)) },
        StateName::Ready => State::Ready,
        StateName::Running => State::Running { node: NodeId(key(node.unwrap_or(0))) },
        StateName::Succeeded | StateName::Failed | StateName::Cancelled => {
            return Err(StoreError::Corrupt { why: "an ended job among the unfinished".into() });
        }
    };
    let flags: i16 = row.try_get(12)?;
    let life = Life {
        attempts: count(row.try_get(6)?),
        crashes: count(row.try_get(7)?),
        snoozes: count(row.try_get(8)?),
        fence: Fence(key(row.try_get(1)?)),
        cancel_requested: flags & CANCEL != 0,
    };
    let started: Option<i64> = row.try_get(4)?;
    Ok((state, life, Time::from_millis(started.unwrap_or(0))))
}

pub(super) fn extra(row: &Row, at: usize) -> Result<Extra> {
    Extra::from_json(row.try_get(at)?)
}

/// A row of [`LOAD_HOT`].
pub(super) fn hot(row: &Row, names: &Names) -> Result<Loaded> {
    let (state, life, started) = standing(row)?;
    let extra = extra(row, 15)?;
    let flags: i16 = row.try_get(12)?;
    let rules = names.policy(row.try_get(14)?)?.rules(&extra);
    Ok(Loaded {
        key: key(row.try_get(0)?),
        created: Time::from_millis(row.try_get(13)?),
        lane: row.try_get(5)?,
        rank: row.try_get(10)?,
        extra,
        job: Job { state, rules, life },
        started,
        is_awaited: flags & AWAITED != 0,
        stored: Stored::Hot,
        is_dirty: false,
        last: None,
        ended_here: false,
    })
}

/// A row of [`LOAD_ENDED`].
pub(super) fn ended(row: &Row, names: &Names) -> Result<Loaded> {
    let extra = extra(row, 10)?;
    let rules = names.policy(row.try_get(9)?)?.rules(&extra);
    let state: i16 = row.try_get(5)?;
    let life = Life {
        attempts: count(row.try_get(2)?),
        crashes: count(row.try_get(3)?),
        snoozes: count(row.try_get(4)?),
        fence: Fence(key(row.try_get(1)?)),
        cancel_requested: false,
    };
    Ok(Loaded {
        key: key(row.try_get(0)?),
        created: Time::from_millis(row.try_get(8)?),
        lane: row.try_get(6)?,
        rank: row.try_get(7)?,
        extra,
        job: Job { state: ended_state(i64::from(state)), rules, life },
        started: Time::default(),
        is_awaited: false,
        stored: Stored::Ended,
        is_dirty: false,
        last: None,
        ended_here: false,
    })
}
