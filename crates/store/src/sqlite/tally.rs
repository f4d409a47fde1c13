//! What a transaction gathers and writes once at its end: counts, events, and what to tell.

use rusqlite::{Connection, params};
use taskloom_model::{EventKind, StateName, Time};

use super::engine::Result;
use crate::codec::{PackedEvent, pack, state_code};
use crate::tells::Told;

const N_STATES: usize = StateName::ALL.len();

/// How many jobs of a lane are in each state, and which of these numbers have changed.
#[derive(Debug, Clone, Copy, Default)]
struct LaneCounts {
    n: [i64; N_STATES],
    touched: [bool; N_STATES],
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    /// By lane; lanes are numbered from 1.
    lanes: Vec<LaneCounts>,
    /// Over all lanes.
    total: [i64; N_STATES],
    /// The offset of the first event of the transaction under way.
    next_event: u64,
    body: Vec<u8>,
    n_events: u64,
    pub(super) told: Told,
}

fn place(lane: i64, state: StateName) -> (usize, usize) {
    let state = usize::try_from(state_code(state)).unwrap_or(0);
    (usize::try_from(lane - 1).unwrap_or(0), state)
}

impl Tally {
    /// Forgets everything: the file is about to be read anew.
    pub(super) fn clear(&mut self, next_event: u64) {
        let told = self.told;
        *self = Tally { next_event, told, ..Tally::default() };
    }

    /// Sets a number as the file has it.
    pub(super) fn set(&mut self, lane: i64, code: i64, n: i64) {
        let state = crate::codec::state_name(code);
        self.add(lane, state, n);
    }

    fn add(&mut self, lane: i64, state: StateName, difference: i64) -> &mut LaneCounts {
        let (lane, state) = place(lane, state);
        if self.lanes.len() <= lane {
            self.lanes.resize(lane + 1, LaneCounts::default());
        }
        self.total[state] += difference;
        let counts = &mut self.lanes[lane];
        counts.n[state] += difference;
        counts
    }

    pub(super) fn count(&mut self, lane: i64, state: StateName, difference: i64) {
        let code = place(lane, state).1;
        self.add(lane, state, difference).touched[code] = true;
    }

    /// How many jobs of a lane are in `state`.
    pub(super) fn n_of(&self, lane: i64, state: StateName) -> i64 {
        let (lane, state) = place(lane, state);
        self.lanes.get(lane).map_or(0, |it| it.n[state])
    }

    /// How many jobs are in `state`, over all lanes.
    pub(super) fn n_in(&self, state: StateName) -> i64 {
        self.total[place(1, state).1]
    }

    pub(super) fn event(&mut self, kind: EventKind, of: (u64, Time, i64), attempt: u32) {
        let (job, created, lane) = of;
        let event = PackedEvent {
            kind,
            job,
            created: u64::try_from(created.as_millis()).unwrap_or(0),
            lane: u64::try_from(lane).unwrap_or(0),
            attempt: u64::from(attempt),
        };
        pack(event, &mut self.body);
        self.n_events += 1;
        self.told.changed = true;
    }

    /// Writes what was gathered. Returns the offset of the next event when there were some.
    pub(super) fn flush(&mut self, conn: &Connection, now: Time) -> Result<Option<u64>> {
        let mut put = conn
            .prepare_cached("INSERT OR REPLACE INTO counts (lane, state, n) VALUES (?1, ?2, ?3)")?;
        for (lane, counts) in self.lanes.iter_mut().enumerate() {
            for state in 0..N_STATES {
                if std::mem::take(&mut counts.touched[state]) {
                    put.execute(params![lane + 1, state, counts.n[state]])?;
                }
            }
        }
        if self.n_events == 0 {
            return Ok(None);
        }
        let mut put =
            conn.prepare_cached("INSERT INTO events (first, at, body) VALUES (?1, ?2, ?3)")?;
        put.execute(params![self.next_event, now.as_millis(), self.body])?;
        self.next_event += std::mem::take(&mut self.n_events);
        self.body.clear();
        Ok(Some(self.next_event))
    }
}
