//! Taking in the jobs that came by `taskloom.submit` (submit.sql), in transactions of others.
//!
//! An arrival is a whole job but for what only the engine may write: its place among the numbers,
//! its event, and that others wait for it. It is taken in by whoever loads it first for a move,
//! which mostly is upkeep; from then on it is as if it had just been submitted.

use taskloom_model::{EventKind, Job};
use tokio_postgres::Row;

use super::Result;
use super::rows::{big, count, key};
use super::tx::Tx;
use crate::keys::KeyMap;

/// How many arrivals one transaction takes in at most.
pub(super) const ARRIVALS_MAX: i64 = 1_000;
/// And of how many dependencies, unless the first of them has more.
const AFTER_MAX: u32 = 20_000;

/// The oldest that nobody else takes in just now, with how many jobs they wait for. Their rows in
/// `hot` are what is locked, as for any move, and in the same order.
pub(super) const ARRIVALS: &str = "SELECT a.job, a.n_after FROM (SELECT job, \
     coalesce(cardinality(after), 0) AS n_after FROM arrivals WHERE job >= $2 ORDER BY job OFFSET 0) \
     AS a CROSS JOIN LATERAL (SELECT FROM hot WHERE job = a.job FOR UPDATE SKIP LOCKED) AS h \
     ORDER BY a.job LIMIT $1";
const LEAVE_ARRIVALS: &str = "DELETE FROM arrivals WHERE job = ANY($1) RETURNING job, after";

/// A job that has just arrived, and the jobs it must wait for.
pub(super) struct Arrival {
    pub(super) key: u64,
    pub(super) after: Vec<u64>,
}

/// Which of the rows of [`ARRIVALS`] one transaction takes in, and whether there may be more.
pub(super) fn batch(rows: &[Row]) -> Result<(Vec<u64>, bool)> {
    let (mut keys, mut n_after) = (Vec::with_capacity(rows.len()), 0_u32);
    for row in rows {
        n_after = n_after.saturating_add(count(row.try_get(1)?));
        if AFTER_MAX < n_after && !keys.is_empty() {
            return Ok((keys, true));
        }
        keys.push(key(row.try_get(0)?));
    }
    let has_more = big(rows.len() as u64) == ARRIVALS_MAX;
    Ok((keys, has_more))
}

impl Tx<'_> {
    /// Takes the rows of loaded jobs out of the arrivals.
    pub(super) async fn take_arrivals(&mut self, keys: Vec<u64>) -> Result<Vec<Arrival>> {
        let keys: Vec<i64> = keys.into_iter().map(big).collect();
        let rows = self.query(LEAVE_ARRIVALS, &[&keys]).await?;
        let mut after: KeyMap<Vec<u64>> = KeyMap::default();
        for row in rows {
            let waits_for: Option<Vec<i64>> = row.try_get(1)?;
            let waits_for = waits_for.unwrap_or_default().into_iter().map(key).collect();
            after.insert(key(row.try_get(0)?), waits_for);
        }
        let arrival =
            |it| Arrival { key: key(it), after: after.remove(&key(it)).unwrap_or_default() };
        Ok(keys.into_iter().map(arrival).collect())
    }

    /// Begins the life of loaded jobs, as that of jobs that are submitted now.
    pub(super) async fn enter_arrivals(&mut self, mut arrivals: Vec<Arrival>) -> Result<()> {
        // None waits for a younger one.
        arrivals.sort_unstable_by_key(|it| it.key);
        for Arrival { key, after } in arrivals {
            let Some(mut loaded) = self.jobs.remove(&key) else { continue };
            let n_unfinished = u32::try_from(after.len()).unwrap_or(u32::MAX);
            loaded.job = Job::submit(self.now, loaded.job.rules, n_unfinished);
            loaded.is_dirty = true;
            self.tally.told.due |= loaded.job.rules.deadline.is_some();
            let of = (key, loaded.created, loaded.lane);
            self.tally.event(EventKind::JobSubmitted, of, 0);
            self.enter(loaded);
            self.wait_for(key, &after).await?;
        }
        Ok(())
    }
}
