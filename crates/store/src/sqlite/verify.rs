//! Checking a store: what must hold after every commit, asked of the whole file in one snapshot.

use std::collections::BTreeMap;

use rusqlite::Connection;
use taskloom_model::{JobId, StateName, Time};

use super::engine::Result;
use crate::codec::{state_code, unpack};
use crate::{Breach, StoreError};

/// How many jobs of a breach are named.
const NAMED_MAX: usize = 20;

/// What must not be found, and the query that finds it: keys of jobs. A dependency of a job that
/// ended early stays until the other one ends.
const RULES: &[(&str, &str)] = &[
    (
        "a job stands nowhere",
        "SELECT id FROM jobs WHERE NOT EXISTS (SELECT 1 FROM ready WHERE job = id AND \
         ready.lane = jobs.lane AND ready.rank = jobs.rank) \
         AND id NOT IN (SELECT job FROM waiting) AND id NOT IN (SELECT job FROM blocked) \
         AND id NOT IN (SELECT job FROM running) AND id NOT IN (SELECT job FROM ended)",
    ),
    (
        "a job stands in two places",
        "SELECT job FROM (SELECT job FROM ready UNION ALL SELECT job FROM waiting \
         UNION ALL SELECT job FROM blocked UNION ALL SELECT job FROM running \
         UNION ALL SELECT job FROM ended) GROUP BY job HAVING 1 < count(*)",
    ),
    (
        "something belongs to a job that was never submitted",
        "SELECT job FROM (SELECT job FROM ready UNION ALL SELECT job FROM waiting \
         UNION ALL SELECT job FROM blocked UNION ALL SELECT job FROM running \
         UNION ALL SELECT job FROM ended UNION ALL SELECT job FROM attempts \
         UNION ALL SELECT job FROM logs UNION ALL SELECT job FROM uniques UNION ALL SELECT job FROM deadlines) \
         WHERE job NOT IN (SELECT id FROM jobs)",
    ),
    (
        "a ready job is in another lane than it was submitted to",
        "SELECT job FROM ready JOIN jobs ON jobs.id = job \
         WHERE ready.lane <> jobs.lane OR ready.rank <> jobs.rank",
    ),
    (
        "a blocked job counts other dependencies than it has",
        "SELECT job FROM blocked WHERE n_unfinished <> \
         (SELECT count(*) FROM dependencies WHERE dependencies.job = blocked.job)",
    ),
    (
        "a job is blocked by one that has ended",
        "SELECT job FROM dependencies WHERE job IN (SELECT job FROM blocked) \
         AND (on_job IN (SELECT job FROM ended) OR on_job NOT IN (SELECT id FROM jobs))",
    ),
    (
        "an ended job keeps its unique text or its deadline",
        "SELECT job FROM ended WHERE job IN (SELECT job FROM uniques) \
         OR job IN (SELECT job FROM deadlines)",
    ),
    (
        "a running job is held by a node that is not registered",
        "SELECT job FROM running WHERE node NOT IN (SELECT id FROM nodes)",
    ),
    (
        "an attempt has a later fence than its job",
        "SELECT attempts.job FROM attempts JOIN (SELECT job, fence FROM ready \
         UNION ALL SELECT job, fence FROM waiting UNION ALL SELECT job, fence FROM blocked \
         UNION ALL SELECT job, fence FROM running UNION ALL SELECT job, fence FROM ended) \
         AS stands ON stands.job = attempts.job WHERE stands.fence < attempts.fence",
    ),
];

/// The jobs of each lane and state, counted one by one.
const COUNTED: &str = "\
    SELECT lane, ?1, count(*) FROM ready GROUP BY lane \
    UNION ALL SELECT lane, CASE retrying WHEN 0 THEN ?2 ELSE ?3 END, count(*) FROM waiting \
        JOIN jobs ON id = job GROUP BY lane, retrying <> 0 \
    UNION ALL SELECT lane, ?4, count(*) FROM blocked JOIN jobs ON id = job GROUP BY lane \
    UNION ALL SELECT lane, ?5, count(*) FROM running JOIN jobs ON id = job GROUP BY lane \
    UNION ALL SELECT lane, state % 10, count(*) FROM ended JOIN jobs ON id = job \
        GROUP BY lane, state % 10";

pub(super) fn verify(conn: &Connection) -> Result<Vec<Breach>> {
    conn.execute_batch("BEGIN")?;
    let found = in_snapshot(conn);
    conn.execute_batch("ROLLBACK").ok();
    found
}

fn in_snapshot(conn: &Connection) -> Result<Vec<Breach>> {
    let mut breaches = Vec::new();
    let said: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if said != "ok" {
        return Err(StoreError::Corrupt { why: said });
    }
    for (what, sql) in RULES {
        let mut find = conn.prepare(sql)?;
        let keys = find.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<u64>>>()?;
        if !keys.is_empty() {
            let named = keys.iter().take(NAMED_MAX).map(|it| name(conn, *it));
            let jobs = named.collect::<Result<Vec<_>>>()?;
            breaches.push(Breach { what: (*what).to_owned(), n: keys.len(), jobs });
        }
    }
    breaches.extend(wrong_counts(conn)?);
    breaches.extend(wrong_events(conn)?);
    Ok(breaches)
}

/// The public id of a key; without a job of that key, one of time zero.
fn name(conn: &Connection, key: u64) -> Result<JobId> {
    let salt =
        conn.query_row("SELECT value FROM meta WHERE name = 'salt'", [], |row| row.get(0))?;
    let created: Option<i64> =
        conn.query_row("SELECT max(created) FROM jobs WHERE id = ?1", [key], |row| row.get(0))?;
    Ok(JobId::compose(Time::from_millis(created.unwrap_or_default()), salt, key))
}

type Counts = BTreeMap<(i64, i64), i64>;

fn wrong_counts(conn: &Connection) -> Result<Option<Breach>> {
    let read = |sql: &str, params: &[i64]| -> Result<Counts> {
        let mut find = conn.prepare(sql)?;
        let params = rusqlite::params_from_iter(params);
        let rows = find.query_map(params, |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)))?;
        Ok(rows.collect::<rusqlite::Result<Counts>>()?)
    };
    let codes = [
        StateName::Ready,
        StateName::Delayed,
        StateName::Retrying,
        StateName::Blocked,
        StateName::Running,
    ];
    let counted = read(COUNTED, &codes.map(state_code))?;
    let kept = read("SELECT lane, state, n FROM counts WHERE n <> 0", &[])?;
    let differs = |it: &&(i64, i64)| counted.get(it) != kept.get(it);
    let n = counted.keys().filter(differs).count()
        + kept.keys().filter(|it| !counted.contains_key(it)).count();
    let what = "a lane counts other jobs than it has".to_owned();
    Ok((0 < n).then_some(Breach { what, n, jobs: Vec::new() }))
}

/// Offsets only grow, and every event can be read.
fn wrong_events(conn: &Connection) -> Result<Option<Breach>> {
    let mut find = conn.prepare("SELECT first, body FROM events ORDER BY first")?;
    let mut rows = find.query([])?;
    let (mut n, mut next) = (0, 0_u64);
    while let Some(row) = rows.next()? {
        let (first, body): (u64, Vec<u8>) = (row.get(0)?, row.get(1)?);
        let (mut left, mut n_events) = (body.as_slice(), 0);
        while unpack(&mut left).is_some() {
            n_events += 1;
        }
        n += usize::from(first < next || !left.is_empty());
        next = first + n_events;
    }
    let what = "events overlap or can't be read".to_owned();
    Ok((0 < n).then_some(Breach { what, n, jobs: Vec::new() }))
}
