//! Forgetting what is old.

use rusqlite::params;
use taskloom_model::State;

use super::engine::{Engine, Result};
use crate::{Prune, Pruned};

/// How many commits' events one call forgets at most.
const EVENT_BATCHES_MAX: usize = 10_000;

impl Engine {
    /// Forgets the ended jobs among `keys` (one may have been retried since they were found).
    pub(super) fn prune(&mut self, keys: &[u64], prune: &Prune) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        for &key in keys {
            let Some(loaded) = self.load(key)? else { continue };
            if !loaded.job.state.name().is_ended() {
                continue;
            }
            debug_assert!(!matches!(loaded.job.state, State::Running { .. }));
            self.leave(&loaded)?;
            for sql in [
                "DELETE FROM jobs WHERE id = ?1",
                "DELETE FROM attempts WHERE job = ?1",
                "DELETE FROM logs WHERE job = ?1",
                // Left by dependents that ended before it did.
                "DELETE FROM dependencies WHERE on_job = ?1",
            ] {
                self.conn.prepare_cached(sql)?.execute([key])?;
            }
            pruned.n_jobs += 1;
        }
        pruned.n_event_batches = self
            .conn
            .prepare_cached(
                "DELETE FROM events WHERE first IN \
                 (SELECT first FROM events WHERE at < ?1 ORDER BY first LIMIT ?2)",
            )?
            .execute(params![prune.events_before.as_millis(), EVENT_BATCHES_MAX])?;
        Ok(pruned)
    }
}
