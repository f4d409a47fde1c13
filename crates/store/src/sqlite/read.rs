//! Reading: on connections of their own, each read with an end, so that no snapshot stops the
//! checkpoints for long.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::value::RawValue;
use taskloom_model::{Fence, JobId, NodeId, Priority, State, StateName, Time};

use super::engine::Result;
use super::rows::{read_policy, standing};
use crate::codec::{Extra, Policy, outcome_word, parse, state_name, unpack};
use crate::{
    AttemptView, Count, Event, EventCursor, Events, Filter, JobView, Listed, LogView, NodeView,
    Page, StoreError,
};

/// How long a read may take.
pub(super) const READ_MAX_SECS: u64 = 2;

pub(super) fn get(conn: &Connection, ids: &[JobId]) -> Result<Vec<Option<JobView>>> {
    let salt = salt(conn)?;
    ids.iter()
        .map(|&id| {
            if id.salt() != salt {
                return Ok(None);
            }
            Ok(view(conn, salt, id.key())?.filter(|it| it.id == id))
        })
        .collect()
}

fn salt(conn: &Connection) -> Result<u32> {
    let sql = "SELECT value FROM meta WHERE name = 'salt'";
    Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

fn raw(text: String) -> Result<Box<RawValue>> {
    RawValue::from_string(text).map_err(|error| StoreError::Corrupt { why: error.to_string() })
}

fn view(conn: &Connection, salt: u32, key: u64) -> Result<Option<JobView>> {
    let mut get = conn.prepare_cached(
        "SELECT created, lane, rank, policy, args, extra, queue, task FROM jobs \
         JOIN lanes ON lanes.id = lane WHERE jobs.id = ?1",
    )?;
    let mut rows = get.query([key])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let created = Time::from_millis(row.get(0)?);
    let (lane, rank): (i64, i64) = (row.get(1)?, row.get(2)?);
    let policy: Policy = read_policy(conn, row.get(3)?)?;
    let extra = Extra::from_json(row.get::<_, Option<String>>(5)?.as_deref())?;
    let Some((state, life, started)) = standing(conn, key, (lane, rank))? else {
        return Err(StoreError::Corrupt { why: format!("job {key} stands nowhere") });
    };
    let level = u8::try_from(9 - rank).unwrap_or(0);
    let mut view = JobView {
        id: JobId::compose(created, salt, key),
        task: row.get(7)?,
        queue: row.get(6)?,
        priority: Priority::new(level).unwrap_or_default(),
        state: state.name(),
        reason: None,
        created,
        due: None,
        started: None,
        ended: None,
        node: None,
        n_unfinished: None,
        attempts: life.attempts,
        max_attempts: policy.retry.max_attempts,
        crashes: life.crashes,
        snoozes: life.snoozes,
        fence: life.fence,
        cancel_requested: life.cancel_requested,
        key: extra.key,
        unique: extra.unique,
        timeout_ms: policy.timeout_ms,
        deadline: extra.deadline,
        progress: None,
        args: raw(row.get(4)?)?,
        result: None,
        error: None,
    };
    fill(conn, key, &mut view, (state, started))?;
    Ok(Some(view))
}

/// Fills in what belongs to the state.
fn fill(
    conn: &Connection,
    key: u64,
    view: &mut JobView,
    (state, started): (State, Time),
) -> Result<()> {
    match state {
        State::Delayed { at } | State::Retrying { at } => view.due = Some(at),
        State::Blocked { n_unfinished } => view.n_unfinished = Some(n_unfinished),
        State::Ready => {}
        State::Running { node } => {
            view.node = Some(node);
            view.started = Some(started);
            let sql = "SELECT progress FROM running WHERE job = ?1";
            let progress: Option<Option<String>> =
                conn.prepare_cached(sql)?.query_row([key], |row| row.get(0)).optional()?;
            view.progress = progress.flatten().as_deref().map(parse).transpose()?;
        }
        State::Failed { reason } => view.reason = Some(reason),
        State::Succeeded | State::Cancelled => {}
    }
    if view.state.is_ended() {
        let mut get = conn
            .prepare_cached("SELECT at, node, started, result, error FROM ended WHERE job = ?1")?;
        let mut rows = get.query([key])?;
        if let Some(row) = rows.next()? {
            view.ended = Some(Time::from_millis(row.get(0)?));
            view.node = row.get::<_, Option<u64>>(1)?.map(NodeId);
            view.started = row.get::<_, Option<i64>>(2)?.map(Time::from_millis);
            view.result = row.get::<_, Option<String>>(3)?.map(raw).transpose()?;
            view.error = row.get::<_, Option<String>>(4)?.as_deref().map(parse).transpose()?;
        }
    }
    // The last attempt of an ended job is in its row, unless it ended between two attempts.
    if !(view.state.is_ended() && view.node.is_some()) {
        let sql = "SELECT error FROM attempts WHERE job = ?1 ORDER BY fence DESC LIMIT 1";
        let error: Option<Option<String>> =
            conn.prepare_cached(sql)?.query_row([key], |row| row.get(0)).optional()?;
        view.error = error.flatten().as_deref().map(parse).transpose()?;
    }
    Ok(())
}

pub(super) fn list(conn: &Connection, filter: &Filter, page: Page) -> Result<Listed> {
    let salt = salt(conn)?;
    let limit = page.limit.clamp(1, Page::LIMIT_MAX);
    let before = page.before.map_or(i64::MAX, |it| i64::try_from(it.key()).unwrap_or(i64::MAX));
    let mut listed = Listed::default();
    let mut n_seen = 0;
    let sql = scan(&filter.states);
    let mut find = conn.prepare_cached(&sql)?;
    let mut rows = find.query(params![before])?;
    let mut last = None;
    while let Some(row) = rows.next()? {
        if listed.jobs.len() == limit || n_seen == Page::SCAN_MAX {
            listed.next = last;
            break;
        }
        n_seen += 1;
        let Some(view) = view(conn, salt, row.get(0)?)? else { continue };
        last = Some(view.id);
        if fits(filter, &view) {
            listed.jobs.push(view);
        }
    }
    Ok(listed)
}

/// The keys to look at, newest first. States that hold few rows are read from their own tables;
/// `ready` and `succeeded` may be millions, so they are found by walking all jobs.
fn scan(states: &[StateName]) -> String {
    let walks = |it: &StateName| matches!(it, StateName::Ready | StateName::Succeeded);
    if states.is_empty() || states.iter().any(walks) {
        return "SELECT id FROM jobs WHERE id < ?1 ORDER BY id DESC".into();
    }
    let parts: Vec<&str> = states
        .iter()
        .map(|state| match state {
            StateName::Delayed | StateName::Retrying => "SELECT job FROM waiting WHERE job < ?1",
            StateName::Blocked => "SELECT job FROM blocked WHERE job < ?1",
            StateName::Running => "SELECT job FROM running WHERE job < ?1",
            StateName::Cancelled => {
                "SELECT job FROM ended WHERE state <> 5 AND state = 7 AND job < ?1"
            }
            _ => "SELECT job FROM ended WHERE state <> 5 AND state IN (6, 16, 26, 36) AND job < ?1",
        })
        .collect();
    format!("{} ORDER BY 1 DESC", parts.join(" UNION "))
}

fn fits(filter: &Filter, view: &JobView) -> bool {
    (filter.states.is_empty() || filter.states.contains(&view.state))
        && filter.queue.as_deref().is_none_or(|it| it == &*view.queue)
        && filter.task.as_deref().is_none_or(|it| it == &*view.task)
        && filter.key.as_deref().is_none_or(|it| Some(it) == view.key.as_deref())
}

pub(super) fn attempts(conn: &Connection, id: JobId) -> Result<Vec<AttemptView>> {
    if get(conn, &[id])?.iter().all(Option::is_none) {
        return Ok(Vec::new());
    }
    let mut find = conn.prepare_cached(
        "SELECT fence, attempt, node, started, ended, outcome, error FROM attempts \
         WHERE job = ?1 UNION ALL \
         SELECT fence, attempts + (outcome = 6), node, started, at, outcome, error FROM ended \
         WHERE job = ?1 AND node IS NOT NULL ORDER BY fence",
    )?;
    let mut rows = find.query([id.key()])?;
    let mut attempts = Vec::new();
    while let Some(row) = rows.next()? {
        attempts.push(AttemptView {
            fence: Fence(row.get(0)?),
            attempt: row.get(1)?,
            node: NodeId(row.get(2)?),
            started: Time::from_millis(row.get(3)?),
            ended: Time::from_millis(row.get(4)?),
            outcome: outcome_word(row.get(5)?),
            error: row.get::<_, Option<String>>(6)?.as_deref().map(parse).transpose()?,
        });
    }
    Ok(attempts)
}

pub(super) fn logs(conn: &Connection, id: JobId, limit: usize) -> Result<Vec<LogView>> {
    if get(conn, &[id])?.iter().all(Option::is_none) {
        return Ok(Vec::new());
    }
    let mut find = conn.prepare_cached(
        "SELECT fence, at, level, text FROM logs WHERE job = ?1 ORDER BY n DESC LIMIT ?2",
    )?;
    let lines = find.query_map(params![id.key(), limit], |row| {
        let at = Time::from_millis(row.get(1)?);
        Ok(LogView { fence: Fence(row.get(0)?), at, level: row.get(2)?, text: row.get(3)? })
    })?;
    let mut lines = lines.collect::<rusqlite::Result<Vec<_>>>()?;
    lines.reverse();
    Ok(lines)
}

pub(super) fn events(conn: &Connection, cursor: EventCursor, limit: usize) -> Result<Events> {
    let sql = "SELECT value FROM meta WHERE name = 'next_event'";
    let end: Option<u64> = conn.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?;
    let end = end.unwrap_or(1);
    let from = cursor.0.clamp(1, end);
    let salt = salt(conn)?;
    let sql = "SELECT min(first) FROM events";
    let oldest: Option<u64> = conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
    let gap = from < oldest.unwrap_or(end);
    let mut read = conn.prepare_cached(
        "SELECT first, at, body FROM events \
         WHERE first >= ifnull((SELECT max(first) FROM events WHERE first <= ?1), 0) \
         ORDER BY first",
    )?;
    let mut rows = read.query([from])?;
    let mut found = Events { events: Vec::new(), next: EventCursor(from), gap };
    while let Some(row) = rows.next()? {
        let mut offset: u64 = row.get(0)?;
        let at = Time::from_millis(row.get(1)?);
        let mut body = row.get_ref(2)?.as_blob().unwrap_or_default();
        while let Some(packed) = unpack(&mut body) {
            if limit <= found.events.len() {
                return Ok(found);
            }
            if from <= offset {
                let lane = i64::try_from(packed.lane).unwrap_or(0);
                let (queue, task) = lane_names(conn, lane)?;
                let created = Time::from_millis(i64::try_from(packed.created).unwrap_or(0));
                let id = JobId::compose(created, salt, packed.job);
                let attempt = u32::try_from(packed.attempt).unwrap_or(u32::MAX);
                let kind = packed.kind;
                found.events.push(Event { offset, at, kind, id, task, queue, attempt });
                found.next = EventCursor(offset + 1);
            }
            offset += 1;
        }
    }
    Ok(found)
}

fn lane_names(conn: &Connection, lane: i64) -> Result<(Arc<str>, Arc<str>)> {
    let sql = "SELECT queue, task FROM lanes WHERE id = ?1";
    let names =
        conn.prepare_cached(sql)?.query_row([lane], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(names)
}

pub(super) fn counts(conn: &Connection) -> Result<Vec<Count>> {
    let mut find = conn.prepare_cached(
        "SELECT queue, task, state, n FROM counts JOIN lanes ON lanes.id = lane WHERE n > 0",
    )?;
    let rows = find.query_map([], |row| {
        let state = state_name(row.get(2)?);
        Ok(Count { queue: row.get(0)?, task: row.get(1)?, state, n: row.get(3)? })
    })?;
    let mut counts = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    counts.sort();
    Ok(counts)
}

pub(super) fn nodes(conn: &Connection) -> Result<Vec<NodeView>> {
    let mut find = conn
        .prepare_cached("SELECT id, name, pid, started, heartbeat, tasks FROM nodes ORDER BY id")?;
    let mut rows = find.query([])?;
    let mut nodes = Vec::new();
    while let Some(row) = rows.next()? {
        nodes.push(NodeView {
            id: NodeId(row.get(0)?),
            name: row.get(1)?,
            pid: row.get(2)?,
            started: Time::from_millis(row.get(3)?),
            heartbeat: Time::from_millis(row.get(4)?),
            tasks: parse(&row.get::<_, String>(5)?)?,
        });
    }
    Ok(nodes)
}

/// The keys of ended jobs that may be forgotten; found on a reader, so that the writer only
/// deletes.
pub(super) fn prunable(conn: &Connection, prune: &crate::Prune) -> Result<Vec<u64>> {
    let mut find = conn.prepare_cached(
        "SELECT job FROM ended WHERE at < CASE WHEN state % 10 = 6 THEN ?1 ELSE ?2 END \
         ORDER BY job LIMIT ?3",
    )?;
    let failed = prune.failed_before.as_millis();
    let keys = find
        .query_map(params![failed, prune.succeeded_before.as_millis(), prune.limit], |row| {
            row.get(0)
        })?;
    Ok(keys.collect::<rusqlite::Result<_>>()?)
}
