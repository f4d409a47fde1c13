//! How states, outcomes, events and what was agreed are written, the same in every backend.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use taskloom_model::{
    DependencyPolicy, EventKind, FailReason, Outcome, RetryPolicy, Rules, State, StateName, Time,
};

use crate::{NewJob, StoreError};

type Result<T> = std::result::Result<T, StoreError>;

pub(crate) const OUTCOME_LOST: i64 = 6;

/// The code of a state in `counts` and `ended`. A failed one carries its reason in tens.
pub(crate) fn state_code(state: StateName) -> i64 {
    let place = StateName::ALL.iter().position(|&it| it == state).unwrap_or(0);
    i64::try_from(place).unwrap_or(0)
}

pub(crate) fn state_name(code: i64) -> StateName {
    let place = usize::try_from(code % 10).unwrap_or(0);
    StateName::ALL.get(place).copied().unwrap_or(StateName::Failed)
}

const REASONS: [FailReason; 4] =
    [FailReason::Exhausted, FailReason::Permanent, FailReason::Deadline, FailReason::Quarantined];

/// The code of an ended state with its reason.
pub(crate) fn ended_code(state: &State) -> i64 {
    let base = state_code(state.name());
    let State::Failed { reason } = state else { return base };
    let place = REASONS.iter().position(|it| it == reason).unwrap_or(0);
    base + 10 * i64::try_from(place).unwrap_or(0)
}

/// The state of a row of `ended`.
pub(crate) fn ended_state(code: i64) -> State {
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

pub(crate) fn outcome_code(outcome: Option<Outcome>) -> i64 {
    let Some(outcome) = outcome else { return OUTCOME_LOST };
    let place = OUTCOMES.iter().position(|&it| it == outcome.as_str()).unwrap_or(0);
    i64::try_from(place).unwrap_or(0)
}

pub(crate) fn outcome_word(code: i64) -> &'static str {
    usize::try_from(code).ok().and_then(|it| OUTCOMES.get(it)).copied().unwrap_or("lost")
}

/// One event as it is packed: the time and the offset are the row's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackedEvent {
    pub(crate) kind: EventKind,
    pub(crate) job: u64,
    pub(crate) created: u64,
    pub(crate) lane: u64,
    pub(crate) attempt: u64,
}

/// Packs an event: its kind in one byte, then four LEB128 numbers.
pub(crate) fn pack(event: PackedEvent, body: &mut Vec<u8>) {
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

/// What [`pack`] puts before and behind the key of the job, where that is not known yet.
#[cfg(feature = "postgres")]
pub(crate) fn pack_around_key(event: PackedEvent) -> (Vec<u8>, Vec<u8>) {
    let mut kind = Vec::new();
    pack(PackedEvent { job: 0, ..event }, &mut kind);
    // The kind and the key 0 take a byte each.
    let rest = kind.split_off(2);
    kind.truncate(1);
    (kind, rest)
}

/// A number of 64 bits takes ten groups of seven at most.
const NUMBER_BYTES_MAX: usize = 10;

/// Takes the first event off `body`; `None` at its end, or when it is damaged.
pub(crate) fn unpack(body: &mut &[u8]) -> Option<PackedEvent> {
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

/// What many jobs agreed on in the same words.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Policy {
    pub(crate) retry: RetryPolicy,
    pub(crate) timeout_ms: Option<u64>,
    pub(crate) on_dependency_failure: DependencyPolicy,
}

impl Policy {
    pub(crate) fn to_json(self) -> String {
        serde_json::to_string(&self).expect("a policy is plain data")
    }

    pub(crate) fn of(new: &NewJob) -> Policy {
        Policy {
            retry: new.rules.retry,
            timeout_ms: new.timeout.map(|it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX)),
            on_dependency_failure: new.rules.on_dependency_failure,
        }
    }

    /// The rules of a job that agreed on this, with what only few jobs have.
    pub(crate) fn rules(self, extra: &Extra) -> Rules {
        Rules {
            retry: self.retry,
            on_dependency_failure: self.on_dependency_failure,
            run_at: extra.run_at,
            deadline: extra.deadline,
        }
    }

    pub(crate) fn timeout(self) -> Option<Duration> {
        self.timeout_ms.map(Duration::from_millis)
    }
}

/// What few jobs have; NULL in the file when all of it is missing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Extra {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) run_at: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) deadline: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unique: Option<String>,
}

impl Extra {
    pub(crate) fn to_json(&self) -> Option<String> {
        if *self == Extra::default() {
            return None;
        }
        Some(serde_json::to_string(self).expect("an extra is plain data"))
    }

    pub(crate) fn from_json(text: Option<&str>) -> Result<Extra> {
        text.map_or(Ok(Extra::default()), parse)
    }
}

pub(crate) fn parse<T: for<'a> Deserialize<'a>>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| StoreError::Corrupt { why: error.to_string() })
}

/// Whether a new job has nothing that needs a row of its own.
pub(crate) fn is_plain(new: &NewJob) -> bool {
    new.unique.is_none()
        && new.key.is_none()
        && new.after.is_empty()
        && new.delay.is_none()
        && new.rules.run_at.is_none()
        && new.rules.deadline.is_none()
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

    #[cfg(feature = "postgres")]
    #[test]
    fn an_event_is_whole_when_its_key_comes_later_in_six_groups_of_seven_bits() {
        let kind = EventKind::JobSubmitted;
        for job in [1, 127, 128, 5_000_000_000, (1 << 40) - 1] {
            let event = PackedEvent { kind, job, created: 1 << 41, lane: 300, attempt: 0 };
            let (before, behind) = pack_around_key(event);
            let key = (0..6).map(|n| {
                let more = if n < 5 { 0x80 } else { 0 };
                u8::try_from(job >> (7 * n) & 0x7F).unwrap() | more
            });
            let body: Vec<u8> = before.into_iter().chain(key).chain(behind).collect();
            assert_eq!(unpack(&mut &body[..]), Some(event));
        }
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
