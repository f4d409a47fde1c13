//! What a transaction writes: the rows of a batch as arrays, one statement for each table.
//!
//! Statements that are sent together arrive in their order, so rows are taken away before others
//! take their place.
//!
//! Rows of a table are joined by `= ANY(ARRAY[…])`: it allows a look into an index for each, and,
//! unlike `=`, never suggests to the planner to walk the whole index instead, which a table that was
//! small at the last ANALYZE would tempt it to.

use taskloom_model::{Fence, State, Time};
use tokio_postgres::types::ToSql;

use super::Result;
use super::rows::{LastAttempt, Loaded, Stored, big, code, int};
use super::session::Session;
use super::tally::{Counts, EVENTS_MAX, Tally, WriterRow};
use super::tx::Deadlines;
use crate::StoreError;
use crate::codec::{ended_code, state_code};
use crate::keys::KeyMap;

/// A statement with its parameters, which it owns.
pub(super) struct Write {
    pub(super) sql: &'static str,
    params: Vec<Box<dyn ToSql + Sync>>,
}

impl Write {
    fn new(sql: &'static str, params: Vec<Box<dyn ToSql + Sync>>) -> Write {
        Write { sql, params }
    }

    pub(super) fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.params.iter().map(|it| &**it).collect()
    }

    pub(super) async fn send(&self, session: &Session) -> Result<()> {
        session.execute(self.sql, &self.params()).await?;
        Ok(())
    }
}

macro_rules! params {
    ($($value:expr),* $(,)?) => {
        vec![$(Box::new($value) as Box<dyn ToSql + Sync>),*]
    };
}

/// New jobs, by column. Those in `ready` are plain: they stand in line from the start.
#[derive(Debug, Default)]
pub(super) struct NewRows {
    pub(super) job: Vec<i64>,
    pub(super) lane: Vec<i32>,
    pub(super) policy: Vec<i32>,
    pub(super) rank: Vec<i16>,
    pub(super) args: Vec<String>,
    pub(super) extra: Vec<Option<String>>,
    pub(super) ready: ReadyRows,
}

#[derive(Debug, Default)]
pub(super) struct ReadyRows {
    pub(super) job: Vec<i64>,
    pub(super) lane: Vec<i32>,
    pub(super) rank: Vec<i16>,
}

impl NewRows {
    pub(super) fn is_empty(&self) -> bool {
        self.job.is_empty()
    }
}

/// An attempt that ended while its job did not.
#[derive(Debug)]
pub(super) struct AttemptRow {
    job: i64,
    fence: i64,
    attempt: i32,
    node: i64,
    started: i64,
    ended: i64,
    outcome: i16,
    error: Option<String>,
}

impl AttemptRow {
    pub(super) fn new(
        key: u64,
        (fence, attempt): (Fence, i32),
        ended: Time,
        last: &LastAttempt,
    ) -> AttemptRow {
        AttemptRow {
            job: big(key),
            fence: big(fence.0),
            attempt,
            node: big(last.node.0),
            started: last.started.as_millis(),
            ended: ended.as_millis(),
            outcome: last.outcome,
            error: last.error.clone(),
        }
    }
}

/// A line of a log.
#[derive(Debug)]
pub(super) struct LogRow {
    pub(super) job: i64,
    pub(super) fence: i64,
    pub(super) at: i64,
    pub(super) level: &'static str,
    pub(super) text: String,
}

/// What goes with the moves of jobs.
#[derive(Debug, Default)]
pub(super) struct Writes {
    pub(super) attempts: Vec<AttemptRow>,
    /// Jobs whose last attempt moves from the ended row to the others.
    pub(super) keep_attempts: Vec<i64>,
    pub(super) logs: Vec<LogRow>,
    pub(super) deadlines: Deadlines,
    pub(super) extras: Vec<(i64, Option<String>)>,
    /// Which job waits for which: `(on, job)`.
    pub(super) dependencies: Vec<(i64, i64)>,
    frees: Vec<(String, i64)>,
    takes: Vec<(String, i64)>,
}

impl Writes {
    pub(super) fn is_empty(&self) -> bool {
        self.attempts.is_empty()
            && self.keep_attempts.is_empty()
            && self.logs.is_empty()
            && self.deadlines.is_empty()
            && self.extras.is_empty()
            && self.dependencies.is_empty()
            && self.frees.is_empty()
            && self.takes.is_empty()
    }

    /// The unique text is the job's, if it is free then.
    pub(super) fn take_unique(&mut self, text: &str, key: u64) {
        self.takes.push((text.to_owned(), big(key)));
    }

    /// The unique text is free, if it is the job's.
    pub(super) fn free_unique(&mut self, text: &str, key: u64) {
        let key = big(key);
        self.takes.retain(|(it, job)| !(it == text && *job == key));
        self.frees.push((text.to_owned(), key));
    }

    /// The statements for all this and for the moves of `jobs`, in their order.
    pub(super) fn statements(
        self,
        (jobs, new): (KeyMap<Loaded>, NewRows),
        now: Time,
    ) -> Vec<Write> {
        let mut dirty: Vec<Loaded> = jobs.into_values().filter(|it| it.is_dirty).collect();
        dirty.sort_unstable_by_key(|it| it.key);
        let mut writes = Vec::new();
        if !new.is_empty() {
            add_new(new, now, &mut writes);
        }
        if !self.keep_attempts.is_empty() {
            writes.push(Write::new(KEEP_ATTEMPTS, params![self.keep_attempts.clone()]));
        }
        move_jobs(&dirty, now, &mut writes);
        self.beside(&mut writes);
        writes
    }

    fn beside(self, writes: &mut Vec<Write>) {
        if !self.attempts.is_empty() {
            writes.push(add_attempts(self.attempts));
        }
        for (sql, pairs) in [(FREE_UNIQUES, self.frees), (TAKE_UNIQUES, self.takes)] {
            if !pairs.is_empty() {
                let (texts, jobs): (Vec<String>, Vec<i64>) = pairs.into_iter().unzip();
                writes.push(Write::new(sql, params![texts, jobs]));
            }
        }
        for (sql, is_kept) in [(DROP_DEADLINES, false), (ADD_DEADLINES, true)] {
            let places = self.deadlines.iter().filter(|it| *it.1 == is_kept).map(|it| *it.0);
            let (at, jobs): (Vec<i64>, Vec<i64>) = places.unzip();
            if !at.is_empty() {
                writes.push(Write::new(sql, params![at, jobs]));
            }
        }
        if !self.dependencies.is_empty() {
            let (on, jobs): (Vec<i64>, Vec<i64>) = self.dependencies.into_iter().unzip();
            writes.push(Write::new(ADD_DEPENDENCIES, params![on, jobs]));
        }
        if !self.extras.is_empty() {
            let (jobs, extras): (Vec<i64>, Vec<Option<String>>) = self.extras.into_iter().unzip();
            writes.push(Write::new(PUT_EXTRAS, params![jobs, extras]));
        }
        if !self.logs.is_empty() {
            writes.push(add_logs(self.logs));
        }
    }
}

pub(super) const ADD_JOBS: &str = "INSERT INTO jobs (job, created, lane, policy, rank, args) \
     SELECT job, $1::bigint, lane, policy, rank, args \
     FROM unnest($2::bigint[], $3::int[], $4::int[], $5::smallint[], $6::text[]) \
     AS u(job, lane, policy, rank, args)";
pub(super) const ADD_JOBS_EXTRA: &str = "INSERT INTO jobs (job, created, lane, policy, rank, args, extra) \
     SELECT job, $1::bigint, lane, policy, rank, args, extra \
     FROM unnest($2::bigint[], $3::int[], $4::int[], $5::smallint[], $6::text[], $7::text[]) \
     AS u(job, lane, policy, rank, args, extra)";
pub(super) const ADD_READY: &str = "INSERT INTO hot (job, fence, lane, attempts, crashes, snoozes, rank, state, flags) \
     SELECT job, 0, lane, 0, 0, 0, rank, 2, 0 \
     FROM unnest($1::bigint[], $2::int[], $3::smallint[]) AS u(job, lane, rank)";

fn add_new(new: NewRows, now: Time, writes: &mut Vec<Write>) {
    let NewRows { job, lane, policy, rank, args, extra, ready } = new;
    let now = now.as_millis();
    if extra.iter().all(Option::is_none) {
        writes.push(Write::new(ADD_JOBS, params![now, job, lane, policy, rank, args]));
    } else {
        let params = params![now, job, lane, policy, rank, args, extra];
        writes.push(Write::new(ADD_JOBS_EXTRA, params));
    }
    if !ready.job.is_empty() {
        writes.push(Write::new(ADD_READY, params![ready.job, ready.lane, ready.rank]));
    }
}

pub(super) const KEEP_ATTEMPTS: &str = "INSERT INTO attempts (job, fence, attempt, node, started, ended, outcome, error) \
     SELECT job, fence, attempts + (outcome = 6)::int, node, started, at, outcome, error \
     FROM unnest($1::bigint[]) AS u(key) CROSS JOIN LATERAL \
     (SELECT * FROM ended WHERE job = u.key OFFSET 0) AS e WHERE node IS NOT NULL";
/// The keys are sorted: no part is looked into that lies before the first or after the last.
pub(super) const LEAVE_ENDED: &str = "DELETE FROM ended WHERE job = ANY($1) \
     AND job >= ($1::bigint[])[1] AND job <= ($1)[cardinality($1)]";
const LEAVE_HOT: &str = "DELETE FROM hot WHERE job = ANY($1)";
const ADD_HOT: &str = "INSERT INTO hot (job, fence, at, node, started, lane, attempts, crashes, \
     snoozes, n_unfinished, rank, state, flags) \
     SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], \
     $6::int[], $7::int[], $8::int[], $9::int[], $10::int[], $11::smallint[], $12::smallint[], \
     $13::smallint[])";
pub(super) const PUT_HOT: &str = "UPDATE hot SET fence = u.fence, at = u.at, node = u.node, \
     started = u.started, attempts = u.attempts, crashes = u.crashes, snoozes = u.snoozes, \
     n_unfinished = u.n_unfinished, state = u.state, flags = u.flags, \
     progress = CASE WHEN hot.state = u.state THEN hot.progress END \
     FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], \
     $6::int[], $7::int[], $8::int[], $9::int[], $10::int[], $11::smallint[], $12::smallint[], \
     $13::smallint[]) AS u(job, fence, at, node, started, lane, attempts, crashes, snoozes, \
     n_unfinished, rank, state, flags) WHERE hot.job = ANY(ARRAY[u.job])";
const ADD_ENDED: &str = "INSERT INTO ended (job, at, fence, node, started, attempts, crashes, \
     snoozes, state, outcome, result, error) \
     SELECT job, $1::bigint, fence, node, started, attempts, crashes, snoozes, state, outcome, result, \
     error FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::int[], \
     $7::int[], $8::int[], $9::smallint[], $10::smallint[], $11::text[], $12::text[]) \
     AS u(job, fence, node, started, attempts, crashes, snoozes, state, outcome, result, error)";

fn move_jobs(dirty: &[Loaded], now: Time, writes: &mut Vec<Write>) {
    let ends = |it: &&Loaded| it.job.state.name().is_ended();
    let keys = |stored: Stored| move |it: &&Loaded| it.stored == stored;
    let of = |jobs: Vec<&Loaded>| jobs.iter().map(|it| big(it.key)).collect::<Vec<i64>>();
    let leave_ended = of(dirty.iter().filter(keys(Stored::Ended)).collect());
    if !leave_ended.is_empty() {
        writes.push(Write::new(LEAVE_ENDED, params![leave_ended]));
    }
    let leave_hot = of(dirty.iter().filter(keys(Stored::Hot)).filter(ends).collect());
    if !leave_hot.is_empty() {
        writes.push(Write::new(LEAVE_HOT, params![leave_hot]));
    }
    let unfinished = || dirty.iter().filter(|it| !ends(it));
    let add: Vec<&Loaded> = unfinished().filter(|it| it.stored != Stored::Hot).collect();
    let put: Vec<&Loaded> = unfinished().filter(keys(Stored::Hot)).collect();
    for (sql, jobs) in [(ADD_HOT, add), (PUT_HOT, put)] {
        if !jobs.is_empty() {
            writes.push(Write::new(sql, hot_columns(&jobs)));
        }
    }
    let ended: Vec<&Loaded> = dirty.iter().filter(ends).collect();
    if !ended.is_empty() {
        writes.push(Write::new(ADD_ENDED, ended_columns(&ended, now)));
    }
}

/// One value of each job.
fn column<T>(jobs: &[&Loaded], of: impl Fn(&Loaded) -> T) -> Vec<T> {
    jobs.iter().map(|it| of(it)).collect()
}

fn hot_columns(jobs: &[&Loaded]) -> Vec<Box<dyn ToSql + Sync>> {
    let running = |it: &Loaded| match it.job.state {
        State::Running { node } => Some(node),
        _ => None,
    };
    params![
        column(jobs, |it| big(it.key)),
        column(jobs, |it| big(it.job.life.fence.0)),
        column(jobs, |it| match it.job.state {
            State::Delayed { at } | State::Retrying { at } => Some(at.as_millis()),
            _ => None,
        }),
        column(jobs, |it| running(it).map(|node| big(node.0))),
        column(jobs, |it| running(it).map(|_| it.started.as_millis())),
        column(jobs, |it| it.lane),
        column(jobs, |it| int(it.job.life.attempts)),
        column(jobs, |it| int(it.job.life.crashes)),
        column(jobs, |it| int(it.job.life.snoozes)),
        column(jobs, |it| match it.job.state {
            State::Blocked { n_unfinished } => Some(int(n_unfinished)),
            _ => None,
        }),
        column(jobs, |it| it.rank),
        column(jobs, |it| code(state_code(it.job.state.name()))),
        column(jobs, Loaded::flags),
    ]
}

fn ended_columns(jobs: &[&Loaded], now: Time) -> Vec<Box<dyn ToSql + Sync>> {
    let last = |it: &Loaded| it.last.clone();
    params![
        now.as_millis(),
        column(jobs, |it| big(it.key)),
        column(jobs, |it| big(it.job.life.fence.0)),
        column(jobs, |it| last(it).map(|it| big(it.node.0))),
        column(jobs, |it| last(it).map(|it| it.started.as_millis())),
        column(jobs, |it| int(it.job.life.attempts)),
        column(jobs, |it| int(it.job.life.crashes)),
        column(jobs, |it| int(it.job.life.snoozes)),
        column(jobs, |it| code(ended_code(&it.job.state))),
        column(jobs, |it| last(it).map(|it| it.outcome)),
        column(jobs, |it| last(it).and_then(|it| it.result)),
        column(jobs, |it| last(it).and_then(|it| it.error)),
    ]
}

const ADD_ATTEMPTS: &str = "INSERT INTO attempts (job, fence, attempt, node, started, ended, outcome, error) \
     SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::int[], $4::bigint[], $5::bigint[], \
     $6::bigint[], $7::smallint[], $8::text[])";

fn add_attempts(rows: Vec<AttemptRow>) -> Write {
    fn column<T>(rows: &[AttemptRow], of: impl Fn(&AttemptRow) -> T) -> Vec<T> {
        rows.iter().map(of).collect()
    }
    let params = params![
        column(&rows, |it| it.job),
        column(&rows, |it| it.fence),
        column(&rows, |it| it.attempt),
        column(&rows, |it| it.node),
        column(&rows, |it| it.started),
        column(&rows, |it| it.ended),
        column(&rows, |it| it.outcome),
        rows.into_iter().map(|it| it.error).collect::<Vec<_>>(),
    ];
    Write::new(ADD_ATTEMPTS, params)
}

/// In the order they were written: each line gets the next number.
pub(super) const ADD_LOGS: &str = "INSERT INTO logs (job, fence, at, level, text) \
     SELECT job, fence, at, level, text FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], \
     $4::text[], $5::text[]) WITH ORDINALITY AS u(job, fence, at, level, text, place) \
     WHERE EXISTS (SELECT FROM jobs WHERE jobs.job = u.job OFFSET 0) ORDER BY place";

fn add_logs(rows: Vec<LogRow>) -> Write {
    let params = params![
        rows.iter().map(|it| it.job).collect::<Vec<_>>(),
        rows.iter().map(|it| it.fence).collect::<Vec<_>>(),
        rows.iter().map(|it| it.at).collect::<Vec<_>>(),
        rows.iter().map(|it| it.level).collect::<Vec<_>>(),
        rows.into_iter().map(|it| it.text).collect::<Vec<_>>(),
    ];
    Write::new(ADD_LOGS, params)
}

pub(super) const FREE_UNIQUES: &str = "DELETE FROM uniques USING \
     (SELECT * FROM unnest($1::text[], $2::bigint[]) AS v(text, job) ORDER BY text) AS u \
     WHERE uniques.text = ANY(ARRAY[u.text]) AND uniques.job = u.job";
const TAKE_UNIQUES: &str = "INSERT INTO uniques (text, job) \
     SELECT text, job FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS u(text, job, place) \
     ORDER BY text, place ON CONFLICT DO NOTHING";
pub(super) const DROP_DEADLINES: &str = "DELETE FROM deadlines USING unnest($1::bigint[], $2::bigint[]) \
     AS u(at, job) WHERE deadlines.at = ANY(ARRAY[u.at]) AND deadlines.job = ANY(ARRAY[u.job])";
const ADD_DEADLINES: &str = "INSERT INTO deadlines (at, job) \
     SELECT * FROM unnest($1::bigint[], $2::bigint[]) ON CONFLICT DO NOTHING";
const ADD_DEPENDENCIES: &str = "INSERT INTO dependencies (on_job, job) \
     SELECT * FROM unnest($1::bigint[], $2::bigint[])";
pub(super) const PUT_EXTRAS: &str = "UPDATE jobs SET extra = u.extra \
     FROM unnest($1::bigint[], $2::text[]) AS u(job, extra) WHERE jobs.job = ANY(ARRAY[u.job])";
pub(super) const ADD_COUNTS: &str = "INSERT INTO counts (lane, part, state, writer, n) \
     SELECT lane, part, state, $1::int, n \
     FROM unnest($2::int[], $3::int[], $4::smallint[], $5::bigint[]) AS u(lane, part, state, n) \
     ON CONFLICT (lane, part, state, writer) DO UPDATE SET n = counts.n + excluded.n";
/// Brings the rows that a writer has left behind into its newest ones.
const FOLD_COUNTS: &str = "WITH gone AS (DELETE FROM counts \
     WHERE writer & 32767 = $1::int & 32767 AND writer <> $1 RETURNING lane, part, state, n) \
     INSERT INTO counts (lane, part, state, writer, n) \
     SELECT lane, part, state, $1, sum(n) FROM gone GROUP BY lane, part, state \
     HAVING sum(n) <> 0 \
     ON CONFLICT (lane, part, state, writer) DO UPDATE SET n = counts.n + excluded.n";
pub(super) const ADD_EVENTS: &str = "INSERT INTO events (first, at, n, body) \
     VALUES (pg_current_xact_id()::text::bigint << 20, $1, $2, $3) RETURNING first";

/// The statements that add what has come and gone to the numbers of `writer`.
pub(super) fn counts(counts: &Counts, writer: WriterRow) -> Vec<Write> {
    let changed: Vec<_> = counts.iter().filter(|it| *it.1 != 0).collect();
    if changed.is_empty() {
        return Vec::new();
    }
    let lanes: Vec<i32> = changed.iter().map(|it| it.0.0).collect();
    let parts: Vec<i32> = changed.iter().map(|it| it.0.1).collect();
    let states: Vec<i16> = changed.iter().map(|it| it.0.2).collect();
    let n: Vec<i64> = changed.iter().map(|it| *it.1).collect();
    let add = Write::new(ADD_COUNTS, params![writer.row, lanes, parts, states, n]);
    let fold = writer.folds.then(|| Write::new(FOLD_COUNTS, params![writer.row]));
    std::iter::once(add).chain(fold).collect()
}

pub(super) fn events(tally: Tally, now: Time) -> Result<Option<Write>> {
    if tally.n_events == 0 {
        return Ok(None);
    }
    let n = i32::try_from(tally.n_events).ok().filter(|_| tally.n_events < EVENTS_MAX);
    let Some(n) = n else {
        let why = format!("one commit has {} events, over {EVENTS_MAX}", tally.n_events);
        return Err(StoreError::Database(why));
    };
    Ok(Some(Write::new(ADD_EVENTS, params![now.as_millis(), n, tally.body])))
}
