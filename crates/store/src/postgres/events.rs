//! Reading the log of events, so that a cursor misses none although several processes commit.
//!
//! The offset of an event is the id of its transaction times 2^20, and more. Ids are given when a
//! transaction begins to write and become visible when it commits, so a later id may be seen
//! before an earlier one. A reader therefore stops at the horizon: the oldest id that is still
//! under way.
//!
//! The price: a transaction that writes and is held open delays events. First the horizon of the
//! whole server is asked for, which costs nothing; when that is behind what this process has
//! committed, only the writers of Taskloom in this database count, so that others' transactions
//! delay nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use taskloom_model::{JobId, Time};
use tokio::time::Instant;
use tokio_postgres::Row;

use super::Result;
use super::open::LOCK_WRITER;
use super::readers::Reader;
use super::rows::{big, key};
use super::session::Params;
use super::tally::EVENTS_MAX;
use crate::codec::unpack;
use crate::tells::Told;
use crate::{Event, EventCursor, Events};

const HORIZON: &str = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint";
/// The next id, the ids under way of our writers, and whether there are writers of which nothing
/// is shown. The snapshot is taken before the activity is looked at.
const OUR_HORIZON: &str = "WITH writers AS MATERIALIZED (\
     SELECT a.backend_xid::text::bigint AS id, a.query = '<insufficient privilege>' AS hidden \
     FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid \
     WHERE l.locktype = 'advisory' AND l.classid::bigint = $1 AND l.objsubid = 1 \
     AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())) \
     SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint, \
     (SELECT array_agg(id) FROM writers WHERE id IS NOT NULL), \
     coalesce((SELECT bool_or(hidden) FROM writers), false)";
const ROWS: &str = "SELECT first, at, body FROM events WHERE first >= $1 ORDER BY first LIMIT $2";
const EVENTS_FROM: &str = "SELECT value FROM meta WHERE name = 'events_from'";
/// How long to wait for the horizon to pass what is committed, and how long in all.
const WAIT: Duration = Duration::from_millis(1);
const WAIT_MAX: Duration = Duration::from_secs(1);

pub(super) async fn events(reader: &Reader, cursor: EventCursor, limit: usize) -> Result<Events> {
    let (rows, kept, horizon) = read(reader, cursor, limit).await?;
    let from = if cursor == EventCursor::END { horizon } else { cursor.0 };
    let kept_from: i64 = kept.first().map_or(Ok(0), |row| row.try_get(0))?;
    let gap = from < key(kept_from);
    let mut found = Events { events: Vec::new(), next: EventCursor(from), gap };
    for row in &rows {
        let mut offset = key(row.try_get(0)?);
        if horizon <= offset {
            break;
        }
        let at = Time::from_millis(row.try_get(1)?);
        let mut body: &[u8] = row.try_get(2)?;
        while let Some(packed) = unpack(&mut body) {
            if limit <= found.events.len() {
                return Ok(found);
            }
            if from <= offset {
                let lane = i32::try_from(packed.lane).unwrap_or(0);
                let names = reader.lane(lane).await?;
                let (queue, task) = (Arc::clone(&names.queue), Arc::clone(&names.task));
                let created = Time::from_millis(big(packed.created));
                let id = JobId::compose(created, reader.salt, packed.job);
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

/// Reads rows, and how far they may be told of. Waits a little for what is committed and may not
/// be told yet.
async fn read(
    reader: &Reader,
    cursor: EventCursor,
    limit: usize,
) -> Result<(Vec<Row>, Vec<Row>, u64)> {
    let newest = reader.hearing.newest_event.load(Ordering::SeqCst);
    let deadline = Instant::now() + WAIT_MAX;
    // The row that an offset stands in begins at a multiple.
    let first = big(cursor.0 & !(EVENTS_MAX - 1));
    // Each has an event at least, but the first may be read already.
    let n_rows = big((limit as u64).saturating_add(1));
    let (params, none): (Params<'_>, Params<'_>) = (&[&first, &n_rows], &[]);
    reader.session.prepare(&[HORIZON, ROWS, EVENTS_FROM]).await?;
    let mut ours = 0;
    loop {
        // The horizon first: what ended before it was read is in the rows.
        let (horizon, rows, kept) = futures::try_join!(
            server_horizon(reader),
            reader.session.query(ROWS, params),
            reader.session.query(EVENTS_FROM, none),
        )?;
        let horizon = horizon.max(ours);
        let last = rows.last().map_or(Ok(0), |row| row.try_get(0).map(key))?;
        if last.max(newest) < horizon {
            return Ok((rows, kept, horizon));
        }
        if deadline < Instant::now() {
            // Whoever follows the log must look again.
            reader.hearing.tells.tell(Told { changed: true, ..Told::default() });
            return Ok((rows, kept, horizon));
        }
        let before = std::mem::replace(&mut ours, our_horizon(reader).await?);
        if ours <= before.max(newest) {
            tokio::time::sleep(WAIT).await;
        }
    }
}

/// The offset below which nothing can appear any more, whoever is under way on the server.
async fn server_horizon(reader: &Reader) -> Result<u64> {
    let rows = reader.session.query(HORIZON, &[]).await?;
    let id: i64 = rows.first().map_or(Ok(0), |row| row.try_get(0))?;
    Ok(key(id) * EVENTS_MAX)
}

/// The same, as far as our writers are under way.
async fn our_horizon(reader: &Reader) -> Result<u64> {
    let rows = reader.session.query(OUR_HORIZON, &[&(LOCK_WRITER >> 32)]).await?;
    let Some(row) = rows.first() else { return Ok(0) };
    let next: i64 = row.try_get(0)?;
    let under_way: Option<Vec<i64>> = row.try_get(1)?;
    if row.try_get(2)? {
        return server_horizon(reader).await;
    }
    let oldest = under_way.unwrap_or_default().into_iter().map(|id| widen(id, next)).min();
    Ok(key(oldest.map_or(next, |it| it.min(next))) * EVENTS_MAX)
}

/// The whole id whose lower half is `id`, not far from `next`.
fn widen(id: i64, next: i64) -> i64 {
    let (half, around) = (1_i64 << 31, 1_i64 << 32);
    let wide = (next & !(around - 1)) | id;
    if next + half < wide {
        return wide - around;
    }
    if wide + half < next { wide + around } else { wide }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_widened_to_the_nearest() {
        let around = 1_i64 << 32;
        assert_eq!(widen(7, 9), 7);
        assert_eq!(widen(7, around + 9), around + 7);
        assert_eq!(widen(around - 3, around + 9), around - 3, "from before the turn");
        assert_eq!(widen(2, around - 3), around + 2, "from after the turn");
    }
}
