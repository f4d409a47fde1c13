//! What a transaction gathers and writes once at its end: counts, events, and what to tell.

use std::collections::BTreeMap;

use taskloom_model::{EventKind, StateName, Time};

use super::parts::part_of;
use super::rows::code;
use crate::codec::{PackedEvent, pack, state_code};
use crate::tells::Told;

/// How many events one commit may have: their places in it take this many offsets.
pub(super) const EVENTS_MAX: u64 = 1 << 20;

/// By lane, part and state, how many jobs came or went.
pub(super) type Counts = BTreeMap<(i32, i32, i16), i64>;

/// The rows of `counts` that a connection adds to. An update of a row walks over its dead versions,
/// and while somebody holds a transaction open these stay; so there are new rows now and then.
#[derive(Debug)]
pub(super) struct Writer {
    number: i16,
    n_commits: u32,
}

/// Which rows of `counts` a commit adds to, and whether it brings earlier ones into them.
#[derive(Debug, Clone, Copy)]
pub(super) struct WriterRow {
    pub(super) row: i32,
    pub(super) folds: bool,
}

impl WriterRow {
    /// The same row of another writer.
    pub(super) fn of(self, number: i16) -> WriterRow {
        WriterRow { row: self.row & !NUMBER | i32::from(number), ..self }
    }
}

/// The bits of a row that are the number of its writer.
const NUMBER: i32 = (1 << NUMBER_BITS) - 1;
const NUMBER_BITS: u32 = 15;
/// How many commits add to the same rows.
const COMMITS_A_ROW: u32 = 128;
/// How many rows of the same number there are before they become one.
const ROWS_A_FOLD: u32 = 16;
/// As many as there is room for above the number of the connection.
const ROWS: u32 = 1 << 16;

impl Writer {
    pub(super) fn new(number: i16) -> Writer {
        // Whoever had the number before has left rows.
        Writer { number, n_commits: COMMITS_A_ROW * ROWS_A_FOLD }
    }

    pub(super) fn row(&self) -> WriterRow {
        let row = self.n_commits / COMMITS_A_ROW;
        let row_number = i32::try_from(row % ROWS).unwrap_or(0);
        let is_first = self.n_commits.is_multiple_of(COMMITS_A_ROW);
        WriterRow {
            row: row_number << NUMBER_BITS | i32::from(self.number),
            folds: is_first && row.is_multiple_of(ROWS_A_FOLD),
        }
    }

    pub(super) fn has_committed(&mut self) {
        self.n_commits = self.n_commits.wrapping_add(1);
    }
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) counts: Counts,
    pub(super) body: Vec<u8>,
    pub(super) n_events: u64,
    pub(super) told: Told,
}

impl Tally {
    /// Counts the job with this key, in its lane, as one that came (1) or went (-1).
    pub(super) fn count(&mut self, (key, lane): (u64, i32), state: StateName, difference: i64) {
        let place = (lane, part_of(key), code(state_code(state)));
        *self.counts.entry(place).or_default() += difference;
    }

    pub(super) fn event(&mut self, kind: EventKind, of: (u64, Time, i32), attempt: u32) {
        pack(packed(kind, of, attempt), &mut self.body);
        self.n_events += 1;
        self.told.changed = true;
    }
}

/// An event of the job with this key, made then, in this lane.
pub(super) fn packed(
    kind: EventKind,
    (job, created, lane): (u64, Time, i32),
    attempt: u32,
) -> PackedEvent {
    PackedEvent {
        kind,
        job,
        created: u64::try_from(created.as_millis()).unwrap_or(0),
        lane: u64::try_from(lane).unwrap_or(0),
        attempt: u64::from(attempt),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_begins_new_rows_and_folds_the_old_ones_now_and_then() {
        let mut writer = Writer::new(7);
        let mut rows = std::collections::BTreeSet::new();
        let mut n_folds = 0;
        for _ in 0..COMMITS_A_ROW * ROWS_A_FOLD {
            let WriterRow { row, folds } = writer.row();
            assert_eq!(row & NUMBER, 7);
            rows.insert(row);
            n_folds += u32::from(folds);
            writer.has_committed();
        }
        assert_eq!((rows.len(), n_folds), (ROWS_A_FOLD as usize, 1));
        assert!(Writer::new(7).row().folds, "whoever had the number before has left rows");
    }
}
