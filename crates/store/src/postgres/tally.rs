//! What a transaction gathers and writes once at its end: counts, events, and what to tell.

use std::collections::BTreeMap;

use taskloom_model::{EventKind, StateName, Time};

use super::rows::code;
use crate::codec::{PackedEvent, pack, state_code};
use crate::tells::Told;

/// How many events one commit may have: their places in it take this many offsets.
pub(super) const EVENTS_MAX: u64 = 1 << 20;

#[derive(Debug, Default)]
pub(super) struct Tally {
    /// By lane and state, how many jobs came or went.
    pub(super) counts: BTreeMap<(i32, i16), i64>,
    pub(super) body: Vec<u8>,
    pub(super) n_events: u64,
    pub(super) told: Told,
}

impl Tally {
    pub(super) fn count(&mut self, lane: i32, state: StateName, difference: i64) {
        *self.counts.entry((lane, code(state_code(state)))).or_default() += difference;
    }

    pub(super) fn event(&mut self, kind: EventKind, of: (u64, Time, i32), attempt: u32) {
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
}
