//! Reading: on connections of their own, each statement with an end.

use std::sync::Arc;

use serde_json::value::RawValue;
use taskloom_model::{Fence, JobId, Life, NodeId, Priority, State, StateName, Time};
use tokio_postgres::Row;

use super::Result;
use super::readers::Reader;
use super::rows::{self, big, code, count, key, standing};
use crate::codec::{Policy, ended_state, outcome_word, parse, state_code, state_name};
use crate::{
    AttemptView, Count, Filter, JobView, Listed, LogView, NodeView, Page, Prune, StoreError,
};

/// How long a read may take.
pub(super) const READ_MAX_SECS: u64 = 2;

/// One statement, so that a job that moves meanwhile is seen in one place. Begins as
/// [`rows::LOAD_HOT`].
pub(super) const VIEWS: &str = "SELECT h.job, h.fence, h.at, h.node, h.started, h.lane, h.attempts, \
     h.crashes, h.snoozes, h.n_unfinished, h.rank, h.state, h.flags, \
     j.created, p.body, j.extra, h.progress, j.job, j.rank, j.args, l.queue, l.task, \
     e.at, e.fence, e.node, e.started, e.attempts, e.crashes, e.snoozes, e.state, e.result, \
     e.error, \
     (SELECT a.error FROM attempts a WHERE a.job = j.job ORDER BY a.fence DESC LIMIT 1) \
     FROM unnest($1::bigint[]) AS u(job) \
     CROSS JOIN LATERAL (SELECT * FROM jobs WHERE job = u.job OFFSET 0) AS j \
     JOIN lanes l ON l.id = j.lane JOIN policies p ON p.id = j.policy \
     LEFT JOIN hot h ON h.job = u.job LEFT JOIN ended e ON e.job = u.job";

pub(super) async fn get(reader: &Reader, ids: &[JobId]) -> Result<Vec<Option<JobView>>> {
    let keys = ids.iter().filter(|it| it.salt() == reader.salt).map(|it| it.key()).collect();
    let views = views(reader, keys).await?;
    let find = |id: &JobId| views.iter().find(|it| it.id == *id).cloned();
    if ids.len() < 16 {
        return Ok(ids.iter().map(find).collect());
    }
    let views: std::collections::HashMap<JobId, JobView> =
        views.into_iter().map(|it| (it.id, it)).collect();
    Ok(ids.iter().map(|id| views.get(id).cloned()).collect())
}

/// The jobs with these keys, newest first.
async fn views(reader: &Reader, keys: Vec<u64>) -> Result<Vec<JobView>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<i64> = keys.into_iter().map(big).collect();
    let rows = reader.session.query(VIEWS, &[&keys]).await?;
    let mut views: Vec<(i64, JobView)> = rows
        .iter()
        .map(|row| Ok((row.try_get(17)?, view(row, reader.salt)?)))
        .collect::<Result<_>>()?;
    views.sort_unstable_by_key(|it| std::cmp::Reverse(it.0));
    Ok(views.into_iter().map(|it| it.1).collect())
}

fn raw(text: String) -> Result<Box<RawValue>> {
    RawValue::from_string(text).map_err(|error| StoreError::Corrupt { why: error.to_string() })
}

fn view(row: &Row, salt: u32) -> Result<JobView> {
    let created = Time::from_millis(row.try_get(13)?);
    let job_key = key(row.try_get(17)?);
    let policy: Policy = parse(row.try_get(14)?)?;
    let extra = rows::extra(row, 15)?;
    let rank: i16 = row.try_get(18)?;
    let is_hot = row.try_get::<_, Option<i64>>(0)?.is_some();
    let (state, life, started) = if is_hot { standing(row)? } else { rest(row, job_key)? };
    let (queue, task): (&str, &str) = (row.try_get(20)?, row.try_get(21)?);
    let mut view = JobView {
        id: JobId::compose(created, salt, job_key),
        task: task.into(),
        queue: queue.into(),
        priority: Priority::new(u8::try_from(9 - rank).unwrap_or(0)).unwrap_or_default(),
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
        args: raw(row.try_get(19)?)?,
        result: None,
        error: None,
    };
    fill(row, &mut view, (&state, started))?;
    Ok(view)
}

/// Where an ended job rests.
fn rest(row: &Row, job_key: u64) -> Result<(State, Life, Time)> {
    let state: Option<i16> = row.try_get(29)?;
    let Some(state) = state else {
        return Err(StoreError::Corrupt { why: format!("job {job_key} stands nowhere") });
    };
    let life = Life {
        attempts: count(row.try_get(26)?),
        crashes: count(row.try_get(27)?),
        snoozes: count(row.try_get(28)?),
        fence: Fence(key(row.try_get(23)?)),
        cancel_requested: false,
    };
    Ok((ended_state(i64::from(state)), life, Time::default()))
}

/// Fills in what belongs to the state.
fn fill(row: &Row, view: &mut JobView, (state, started): (&State, Time)) -> Result<()> {
    match *state {
        State::Delayed { at } | State::Retrying { at } => view.due = Some(at),
        State::Blocked { n_unfinished } => view.n_unfinished = Some(n_unfinished),
        State::Ready | State::Succeeded | State::Cancelled => {}
        State::Running { node } => {
            view.node = Some(node);
            view.started = Some(started);
            let progress: Option<&str> = row.try_get(16)?;
            view.progress = progress.map(parse).transpose()?;
        }
        State::Failed { reason } => view.reason = Some(reason),
    }
    // The last attempt of an ended job is in its row, unless it ended between two attempts.
    let mut error: Option<&str> = row.try_get(32)?;
    if view.state.is_ended() {
        view.ended = row.try_get::<_, Option<i64>>(22)?.map(Time::from_millis);
        view.node = row.try_get::<_, Option<i64>>(24)?.map(|node| NodeId(key(node)));
        view.started = row.try_get::<_, Option<i64>>(25)?.map(Time::from_millis);
        view.result = row.try_get::<_, Option<String>>(30)?.map(raw).transpose()?;
        if view.node.is_some() {
            error = row.try_get(31)?;
        }
    }
    view.error = error.map(parse).transpose()?;
    Ok(())
}

pub(super) const SCAN_ALL: &str = "SELECT job FROM jobs WHERE job < $1 ORDER BY job DESC LIMIT $2";
pub(super) const SCAN_STATES: &str = "(SELECT job FROM hot WHERE job < $1 AND state = ANY($3) \
     ORDER BY job DESC LIMIT $2) UNION ALL \
     (SELECT e.job FROM unnest($4::smallint[]) AS s(state) CROSS JOIN LATERAL (SELECT job FROM ended \
     WHERE job < $1 AND state <> 5 AND state = s.state ORDER BY job DESC LIMIT $2) AS e) \
     ORDER BY 1 DESC LIMIT $2";
/// How many jobs are looked at in one statement.
const CHUNK_MAX: usize = 1_000;

pub(super) async fn list(reader: &Reader, filter: &Filter, page: Page) -> Result<Listed> {
    let limit = page.limit.clamp(1, Page::LIMIT_MAX);
    let mut before = page.before.map_or(i64::MAX, |it| big(it.key()));
    let mut listed = Listed::default();
    let (mut n_seen, mut chunk) = (0, limit + 1);
    let mut last = None;
    loop {
        let keys = scan(reader, &filter.states, (before, chunk)).await?;
        let is_last = keys.len() < chunk;
        before = keys.last().copied().map_or(before, big);
        for view in views(reader, keys).await? {
            if listed.jobs.len() == limit || n_seen == Page::SCAN_MAX {
                listed.next = last;
                return Ok(listed);
            }
            n_seen += 1;
            last = Some(view.id);
            if fits(filter, &view) {
                listed.jobs.push(view);
            }
        }
        if is_last {
            return Ok(listed);
        }
        chunk = CHUNK_MAX;
    }
}

/// The keys to look at, newest first. States that hold few rows are read from their own places;
/// `ready` and `succeeded` may be millions, so they are found by walking all jobs.
async fn scan(
    reader: &Reader,
    states: &[StateName],
    (before, n): (i64, usize),
) -> Result<Vec<u64>> {
    let n = big(n as u64);
    let walks = |it: &StateName| matches!(it, StateName::Ready | StateName::Succeeded);
    let rows = if states.is_empty() || states.iter().any(walks) {
        reader.session.query(SCAN_ALL, &[&before, &n]).await?
    } else {
        let mut hot: Vec<i16> = states.iter().map(|it| code(state_code(*it))).collect();
        // Each is looked for by itself.
        hot.sort_unstable();
        hot.dedup();
        // A failed job carries its reason in tens.
        let ended: Vec<i16> = hot.iter().flat_map(|it| [*it, it + 10, it + 20, it + 30]).collect();
        reader.session.query(SCAN_STATES, &[&before, &n, &hot, &ended]).await?
    };
    rows.iter().map(|row| Ok(key(row.try_get(0)?))).collect()
}

fn fits(filter: &Filter, view: &JobView) -> bool {
    (filter.states.is_empty() || filter.states.contains(&view.state))
        && filter.queue.as_deref().is_none_or(|it| it == &*view.queue)
        && filter.task.as_deref().is_none_or(|it| it == &*view.task)
        && filter.key.as_deref().is_none_or(|it| Some(it) == view.key.as_deref())
}

pub(super) const ATTEMPTS: &str = "SELECT fence, attempt, node, started, ended, outcome, error \
     FROM attempts WHERE job = $1 UNION ALL \
     SELECT fence, attempts + (outcome = 6)::int, node, started, at, outcome, error FROM ended \
     WHERE job = $1 AND node IS NOT NULL ORDER BY 1";

pub(super) async fn attempts(reader: &Reader, id: JobId) -> Result<Vec<AttemptView>> {
    if get(reader, &[id]).await?.iter().all(Option::is_none) {
        return Ok(Vec::new());
    }
    let rows = reader.session.query(ATTEMPTS, &[&big(id.key())]).await?;
    let attempt = |row: &Row| -> Result<AttemptView> {
        let error: Option<&str> = row.try_get(6)?;
        Ok(AttemptView {
            fence: Fence(key(row.try_get(0)?)),
            attempt: count(row.try_get(1)?),
            node: NodeId(key(row.try_get(2)?)),
            started: Time::from_millis(row.try_get(3)?),
            ended: Time::from_millis(row.try_get(4)?),
            outcome: outcome_word(i64::from(row.try_get::<_, i16>(5)?)),
            error: error.map(parse).transpose()?,
        })
    };
    rows.iter().map(attempt).collect()
}

pub(super) const LOGS: &str = "SELECT fence, at, level, text FROM logs WHERE job = $1 \
     ORDER BY n DESC LIMIT $2";

pub(super) async fn logs(reader: &Reader, id: JobId, limit: usize) -> Result<Vec<LogView>> {
    if get(reader, &[id]).await?.iter().all(Option::is_none) {
        return Ok(Vec::new());
    }
    let rows = reader.session.query(LOGS, &[&big(id.key()), &big(limit as u64)]).await?;
    let line = |row: &Row| -> Result<LogView> {
        Ok(LogView {
            fence: Fence(key(row.try_get(0)?)),
            at: Time::from_millis(row.try_get(1)?),
            level: row.try_get(2)?,
            text: row.try_get(3)?,
        })
    };
    rows.iter().rev().map(line).collect()
}

const COUNTS: &str = "SELECT l.queue, l.task, c.state, c.n FROM \
     (SELECT lane, state, sum(n)::bigint AS n FROM (SELECT lane, state, n FROM counts UNION ALL \
     SELECT lane, 0::smallint, count(*) FROM arrivals GROUP BY lane) AS i GROUP BY lane, state) AS c \
     JOIN lanes l ON l.id = c.lane WHERE c.n > 0";

/// Jobs by lane and state. Those that have just arrived count as delayed.
pub(super) async fn counts(reader: &Reader) -> Result<Vec<Count>> {
    let rows = reader.session.query(COUNTS, &[]).await?;
    let number = |row: &Row| -> Result<Count> {
        let (queue, task): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
        let state = state_name(i64::from(row.try_get::<_, i16>(2)?));
        Ok(Count { queue: queue.into(), task: task.into(), state, n: key(row.try_get(3)?) })
    };
    let mut counts: Vec<Count> = rows.iter().map(number).collect::<Result<_>>()?;
    counts.sort();
    Ok(counts)
}

const NODES: &str = "SELECT id, name, pid, started, heartbeat, tasks FROM nodes ORDER BY id";

pub(super) async fn nodes(reader: &Reader) -> Result<Vec<NodeView>> {
    let rows = reader.session.query(NODES, &[]).await?;
    let node = |row: &Row| -> Result<NodeView> {
        let tasks: Vec<Arc<str>> = parse(row.try_get(5)?)?;
        Ok(NodeView {
            id: NodeId(key(row.try_get(0)?)),
            name: row.try_get(1)?,
            pid: u32::try_from(row.try_get::<_, i64>(2)?).unwrap_or(0),
            started: Time::from_millis(row.try_get(3)?),
            heartbeat: Time::from_millis(row.try_get(4)?),
            tasks,
        })
    };
    rows.iter().map(node).collect()
}

const OLD_JOBS: &str = "SELECT old_jobs($1, $2, $3, $4)";

/// The keys of ended jobs in these parts that may be forgotten; found on a reader, so that the lane
/// only deletes.
pub(super) async fn prunable(reader: &Reader, prune: &Prune, parts: &[String]) -> Result<Vec<u64>> {
    let (succeeded, failed) = (prune.succeeded_before.as_millis(), prune.failed_before.as_millis());
    let mut keys = Vec::new();
    for part in parts {
        let room = big(prune.limit.saturating_sub(keys.len()) as u64);
        if room == 0 {
            break;
        }
        for row in reader.session.query(OLD_JOBS, &[part, &succeeded, &failed, &room]).await? {
            keys.push(key(row.try_get(0)?));
        }
    }
    keys.sort_unstable();
    Ok(keys)
}
