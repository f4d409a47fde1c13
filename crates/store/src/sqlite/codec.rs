//! How states, outcomes, events and errors are written in the file.

use rusqlite::ErrorCode;
use taskloom_model::{EventKind, FailReason, Outcome, State, StateName};

use crate::StoreError;

/// How long a writer waits for another process before it gives up.
pub(super) const BUSY_TIMEOUT_SECS: u64 = 5;

pub(super) const OUTCOME_LOST: i64 = 6;

/// The code of a state in `counts` and `ended`. A failed one carries its reason in tens.
pub(super) fn state_code(state: StateName) -> i64 {
    let place = StateName::ALL.iter().position(|&it| it == state).unwrap_or(0);
    i64::try_from(place).unwrap_or(0)
}

pub(super) fn state_name(code: i64) -> StateName {
    let place = usize::try_from(code % 10).unwrap_or(0);
    StateName::ALL.get(place).copied().unwrap_or(StateName::Failed)
}

const REASONS: [FailReason; 4] =
    [FailReason::Exhausted, FailReason::Permanent, FailReason::Deadline, FailReason::Quarantined];

/// The code of an ended state with its reason.
pub(super) fn ended_code(state: &State) -> i64 {
    let base = state_code(state.name());
    let State::Failed { reason } = state else { return base };
    let place = REASONS.iter().position(|it| it == reason).unwrap_or(0);
    base + 10 * i64::try_from(place).unwrap_or(0)
}

/// The state of a row of `ended`.
pub(super) fn ended_state(code: i64) -> State {
    match state_name(code) {
        StateName::Succeeded => State::Succeeded,
        StateName::Cancelled => State::Cancelled,
        _ => {
            let place = usize::try_from(code / 10).unwrap_or(0);
            let reason = REASONS.get(place).copied().unwrap_or(FailReason::Exhausted);
            State::Failed { reason }
        }
    }
}

const OUTCOMES: [&str; 7] =
    ["succeeded", "errored", "timed_out", "snoozed", "interrupted", "cancelled", "lost"];

pub(super) fn outcome_code(outcome: Option<Outcome>) -> i64 {
    let Some(outcome) = outcome else { return OUTCOME_LOST };
    let place = OUTCOMES.iter().position(|&it| it == outcome.as_str()).unwrap_or(0);
    i64::try_from(place).unwrap_or(0)
}

pub(super) fn outcome_word(code: i64) -> &'static str {
    usize::try_from(code).ok().and_then(|it| OUTCOMES.get(it)).copied().unwrap_or("lost")
}

/// One event as it is packed: the time and the offset are the row's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackedEvent {
    pub(super) kind: EventKind,
    pub(super) job: u64,
    pub(super) created: u64,
    pub(super) lane: u64,
    pub(super) attempt: u64,
}

/// Packs an event: its kind in one byte, then four LEB128 numbers.
pub(super) fn pack(event: PackedEvent, body: &mut Vec<u8>) {
    let place = EventKind::ALL.iter().position(|&it| it == event.kind).unwrap_or(0);
    body.push(u8::try_from(place).unwrap_or(0));
    // Gathered in place: one growth of `body` an event.
    let (mut packed, mut len) = ([0; 4 * NUMBER_BYTES_MAX], 0);
    for mut number in [event.job, event.created, event.lane, event.attempt] {
        while 0x80 <= number {
            packed[len] = number.to_le_bytes()[0] | 0x80;
            number >>= 7;
            len += 1;
        }
        packed[len] = number.to_le_bytes()[0];
        len += 1;
    }
    body.extend_from_slice(&packed[..len]);
}

/// A number of 64 bits takes ten groups of seven at most.
const NUMBER_BYTES_MAX: usize = 10;

/// Takes the first event off `body`; `None` at its end, or when it is damaged.
pub(super) fn unpack(body: &mut &[u8]) -> Option<PackedEvent> {
    let (&place, rest) = body.split_first()?;
    *body = rest;
    let kind = *EventKind::ALL.get(usize::from(place))?;
    let mut number = || unpack_number(body);
    let (job, created, lane, attempt) = (number()?, number()?, number()?, number()?);
    Some(PackedEvent { kind, job, created, lane, attempt })
}

fn unpack_number(body: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = body.split_first()?;
        *body = rest;
        number |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// Says what an error of SQLite means for the caller.
impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => StoreError::DiskFull,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                StoreError::Corrupt { why: error.to_string() }
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                StoreError::Locked { waited_secs: BUSY_TIMEOUT_SECS }
            }
            Some(ErrorCode::ReadOnly) => StoreError::ReadOnly,
            Some(ErrorCode::OperationInterrupted) => {
                StoreError::ReadTimeout { max_secs: super::read::READ_MAX_SECS }
            }
            _ => StoreError::Database(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_unpack_as_they_were_packed() {
        let numbers = [0, 1, 127, 128, 300, 1 << 40, u64::MAX];
        let mut body = Vec::new();
        let mut events = Vec::new();
        for (n, kind) in EventKind::ALL.into_iter().enumerate() {
            let at = |shift: usize| numbers[(n + shift) % numbers.len()];
            let event =
                PackedEvent { kind, job: at(0), created: at(1), lane: at(2), attempt: at(3) };
            pack(event, &mut body);
            events.push(event);
        }
        let mut rest = &body[..];
        assert_eq!(std::iter::from_fn(|| unpack(&mut rest)).collect::<Vec<_>>(), events);
    }

    #[test]
    fn a_damaged_event_ends_the_reading() {
        let mut body = Vec::new();
        let kind = EventKind::JobReady;
        pack(PackedEvent { kind, job: 9, created: 1 << 41, lane: 1, attempt: 1 }, &mut body);
        for end in 0..body.len() {
            assert_eq!(unpack(&mut &body[..end]), None, "cut at {end}");
        }
        assert_eq!(unpack(&mut &[200, 1, 1, 1, 1][..]), None);
    }

    #[test]
    fn codes_of_states_turn_back() {
        for state in StateName::ALL {
            assert_eq!(state_name(state_code(state)), state);
        }
        for reason in REASONS {
            let state = State::Failed { reason };
            assert_eq!(ended_state(ended_code(&state)), state);
        }
        assert_eq!(state_code(StateName::Succeeded), 5, "as the index of `ended` says");
    }
}
