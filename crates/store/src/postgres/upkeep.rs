//! What time brings: jobs that have arrived, are due or too late, and what is old enough to be
//! forgotten.

use std::time::Instant;

use taskloom_model::{Command, Time};
use tokio_postgres::Row;

use super::Result;
use super::arrivals::{self, ARRIVALS, ARRIVALS_MAX};
use super::claim::NEWEST_KEY;
use super::lane::Ask;
use super::rows::{big, key};
use super::session::Params;
use super::tx::Tx;
use crate::{PROMOTE_MAX, Promoted, Prune, Pruned};

pub(super) struct Promote;

// Each begins to look at a floor (front.rs).
const DUE: &str = "SELECT at, job FROM hot WHERE at >= $3 AND at <= $1 AND at IS NOT NULL \
     ORDER BY at, job LIMIT $2";
const LATE: &str =
    "SELECT at, job FROM deadlines WHERE at >= $3 AND at <= $1 ORDER BY at, job LIMIT $2";
const NEXT_DUE: &str = "SELECT least((SELECT min(at) FROM hot WHERE at >= $1 AND at IS NOT NULL), \
     (SELECT min(at) FROM deadlines WHERE at >= $2))";

impl Ask for Promote {
    type Answer = Promoted;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<Promoted> {
        let (now, n) = (tx.now.as_millis(), big(PROMOTE_MAX as u64));
        tx.session.prepare(&[NEWEST_KEY, ARRIVALS, LATE, DUE]).await?;
        let begin = tx.begin();
        let (begun, is_guarded) = (Instant::now(), tx.fronts.is_guarded());
        let arrivals_from = tx.fronts.arrivals.begins(is_guarded, begun);
        let (due_from, late_from) =
            (tx.fronts.due.begins(is_guarded, begun), tx.fronts.late.begins(is_guarded, begun));
        let arrivals_params: Params<'_> = &[&ARRIVALS_MAX, &arrivals_from];
        let due_params: Params<'_> = &[&now, &n, &due_from];
        let late_params: Params<'_> = &[&now, &n, &late_from];
        let ((), newest, arrived, late, due) = futures::try_join!(
            begin,
            tx.session.query(NEWEST_KEY, &[]),
            tx.session.query(ARRIVALS, arrivals_params),
            tx.session.query(LATE, late_params),
            tx.session.query(DUE, due_params),
        )?;
        let (first, took) = (|rows: &[Row]| rows.first().map(|it| it.get(0)), Instant::now());
        let newest = first(&newest).unwrap_or(0);
        tx.fronts.arrivals.saw(arrivals_from, first(&arrived).unwrap_or(newest), (begun, took));
        tx.fronts.late.saw(late_from, first(&late).unwrap_or(now), (begun, took));
        tx.fronts.due.saw(due_from, first(&due).unwrap_or(now), (begun, took));
        let (arrived, has_more) = arrivals::batch(&arrived)?;
        tx.load(arrived.iter().copied()).await?;
        let pairs = |rows: &[Row]| -> Result<Vec<(i64, u64)>> {
            rows.iter().map(|row| Ok((row.try_get(0)?, key(row.try_get(1)?)))).collect()
        };
        let (late, due) = (pairs(&late)?, pairs(&due)?);
        tx.load(late.iter().chain(&due).map(|it| it.1)).await?;
        let mut n_moved = arrived.len();
        for (at, key) in late {
            if tx.jobs.contains_key(&key) {
                let moved = tx.transition(key, Command::Expire, None).await?;
                n_moved += usize::from(moved.is_ok());
            }
            // A running job outlives its deadline; when it comes back, it stands here again.
            tx.writes.deadlines.insert((at, big(key)), false);
        }
        for (_, key) in due {
            if tx.jobs.contains_key(&key) {
                let moved = tx.transition(key, Command::Due, None).await?;
                n_moved += usize::from(moved.is_ok());
            }
        }
        tx.write_moves().await?;
        let next = tx.query(NEXT_DUE, &[&due_from, &late_from]).await?;
        let next: Option<i64> = next.first().map_or(Ok(None), |row| row.try_get(0))?;
        let next = if has_more { Some(now) } else { next };
        Ok(Promoted { n_moved, next_due: next.map(Time::from_millis) })
    }
}

/// Jobs to be forgotten, in the order of their keys, if they have still ended (one may have been
/// retried since they were found), and events.
pub(super) struct Forget {
    pub(super) keys: Vec<u64>,
    pub(super) prune: Prune,
}

/// How many commits' events one call forgets at most.
const EVENT_BATCHES_MAX: i64 = 10_000;
/// The keys are sorted: no part is looked into that lies before the first or after the last.
macro_rules! forget {
    ($table:literal) => {
        concat!(
            "DELETE FROM ",
            $table,
            " WHERE job = ANY($1) AND job >= ($1::bigint[])[1] AND job <= ($1)[cardinality($1)]"
        )
    };
}
pub(super) const FORGET: [&str; 5] = [
    forget!("ended"),
    forget!("jobs"),
    forget!("attempts"),
    forget!("logs"),
    // Left by dependents that ended before it did.
    "DELETE FROM dependencies WHERE on_job = ANY($1)",
];
const FORGET_EVENTS: &str = "DELETE FROM events WHERE first = ANY(ARRAY(\
     SELECT first FROM events WHERE at < $1 ORDER BY first LIMIT $2)) RETURNING first + n";
const EVENTS_FROM: &str = "INSERT INTO meta (name, value) VALUES ('events_from', $1) \
     ON CONFLICT (name) DO UPDATE SET value = greatest(meta.value, excluded.value)";

impl Ask for Forget {
    type Answer = Pruned;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<Pruned> {
        tx.load(self.keys.iter().copied()).await?;
        let mut forgotten = Vec::new();
        for key in &self.keys {
            let Some(loaded) = tx.jobs.get(key) else { continue };
            let state = loaded.job.state.name();
            if state.is_ended() {
                let place = (*key, loaded.lane);
                tx.tally.count(place, state, -1);
                forgotten.push(big(*key));
            }
        }
        tx.jobs.clear();
        if !forgotten.is_empty() {
            let (session, params): (_, Params<'_>) = (tx.session, &[&forgotten]);
            session.prepare(&FORGET).await?;
            let deleting = FORGET.iter().map(|sql| session.execute(sql, params));
            futures::future::try_join_all(deleting).await?;
        }
        let before = self.prune.events_before.as_millis();
        let rows = tx.query(FORGET_EVENTS, &[&before, &EVENT_BATCHES_MAX]).await?;
        let mut last = None;
        for row in &rows {
            last = last.max(Some(row.try_get::<_, i64>(0)?));
        }
        if let Some(last) = last {
            tx.query(EVENTS_FROM, &[&last]).await?;
        }
        Ok(Pruned { n_jobs: forgotten.len(), n_event_batches: rows.len() })
    }
}
