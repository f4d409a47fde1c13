//! How the parts of a program fare: what each has last done, and what keeps it from doing more.
//! Kept by those who work, read without asking anybody.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use taskloom_model::Time;

use crate::StoreError;

/// A part that works again and again. Cheap to clone; the clones are one part.
#[derive(Debug, Clone)]
pub struct Part(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: &'static str,
    /// Written by whoever does the work, read by whoever asks for health.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    progress: Option<Time>,
    busy: Option<Instant>,
    error: Option<PartError>,
}

/// What keeps a part from its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartError {
    /// The stable code of the last error.
    pub code: &'static str,
    /// What it says.
    pub message: String,
    /// Since when nothing went well.
    pub since: Time,
}

/// How a part fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartHealth {
    /// Which part: `store`, `heartbeat`, `dispatcher`, `promote`, `rescue`, `prune`, `listener`.
    pub part: &'static str,
    /// When something last went well.
    pub progress: Option<Time>,
    /// How long it has been at what it does now, in milliseconds; `None` while it waits for work.
    pub busy_ms: Option<u64>,
    /// The error it had last, if nothing went well since.
    pub error: Option<PartError>,
}

impl Part {
    /// A part that has done nothing yet.
    #[must_use]
    pub fn new(name: &'static str) -> Part {
        Part(Arc::new(Inner { name, state: Mutex::default() }))
    }

    /// It begins a piece of work.
    pub fn begins(&self) {
        self.0.state.lock().busy.get_or_insert_with(Instant::now);
    }

    /// Its piece of work has ended.
    pub fn went<T>(&self, now: Time, went: &Result<T, StoreError>) {
        let mut state = self.0.state.lock();
        state.busy = None;
        match went {
            Ok(_) => (state.progress, state.error) = (Some(now), None),
            Err(error) => {
                let since = state.error.as_ref().map_or(now, |it| it.since);
                let (code, message) = (error.code(), error.to_string());
                state.error = Some(PartError { code, message, since });
            }
        }
    }

    /// How it fares.
    #[must_use]
    pub fn health(&self) -> PartHealth {
        let state = self.0.state.lock();
        let millis = |it: Instant| u64::try_from(it.elapsed().as_millis()).unwrap_or(u64::MAX);
        PartHealth {
            part: self.0.name,
            progress: state.progress,
            busy_ms: state.busy.map(millis),
            error: state.error.clone(),
        }
    }
}

/// What a store says of itself.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StoreHealth {
    /// Its parts that work by themselves.
    pub parts: Vec<PartHealth>,
    /// What the server told when it was last asked, each ten seconds: PostgreSQL only.
    pub server: Option<ServerHealth>,
}

/// What a database server tells about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerHealth {
    /// When it was asked.
    pub at: Time,
    /// Dead rows of the table of unfinished jobs: many of them make claims slow, and stay as long
    /// as an old snapshot may look at them.
    pub dead_rows: u64,
    /// How many transactions have begun since the oldest snapshot, as far as this role may see.
    pub snapshot_age: u64,
    /// How long ago the transaction with that snapshot began, in seconds.
    pub snapshot_age_secs: u64,
    /// How many connections clients have.
    pub n_connections: u32,
    /// How many they may have, without those kept for superusers.
    pub connections_max: u32,
}

/// A part is stalled when it has been at one piece of work for so long.
pub const STALL: Duration = Duration::from_millis(2500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_since_when_and_goes_with_the_next_success() {
        let (part, at) = (Part::new("it"), Time::from_millis);
        part.went(at(1), &Ok(()));
        part.went(at(2), &Err::<(), _>(StoreError::ReadOnly));
        part.begins();
        part.went(at(3), &Err::<(), _>(StoreError::DiskFull));
        let health = part.health();
        let error = health.error.unwrap();
        assert_eq!((error.code, error.since), ("store.disk_full", at(2)));
        assert_eq!((health.progress, health.busy_ms), (Some(at(1)), None));
        part.went(at(4), &Ok(()));
        assert_eq!((part.health().progress, part.health().error), (Some(at(4)), None));
    }
}
