//! Moving a job: the model decides, this file keeps what it says.

use rusqlite::params;
use taskloom_model::{
    Command, Effect, EventKind, Fence, Job, JobId, NodeId, Outcome, Refusal, State, StateName,
    Time, apply,
};

use super::engine::{Conn, Engine, Leased, Result};
use super::rows::{LastAttempt, Loaded};
use crate::codec::{Extra, outcome_code};
use crate::{AttemptError, Changed, Finish, NewLog, PROMOTE_MAX, Promoted};

/// What an attempt left behind, beside its outcome.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) node: NodeId,
    pub(super) started: Time,
    pub(super) result: Option<&'a str>,
    pub(super) error: Option<&'a AttemptError>,
}

pub(super) type Moved = std::result::Result<StateName, Refusal>;

impl<C: Conn> Engine<C> {
    /// Applies `command` to a job and keeps what comes of it, for its dependents too.
    ///
    /// Dependents hear of it in the order of their age, and theirs after them: a loop, because a
    /// chain of jobs may be longer than the stack.
    pub(super) fn transition(
        &mut self,
        loaded: &Loaded,
        command: Command,
        left: Option<Left<'_>>,
    ) -> Result<Moved> {
        let moved = self.step(loaded, command, left)?;
        while let Some((key, succeeded)) = self.endings.pop_front() {
            for dependent in self.take_dependents(key)? {
                // A dependent that is gone or has ended already has nothing to learn.
                if let Some(loaded) = self.load(dependent)? {
                    self.step(&loaded, Command::DependencyEnded { succeeded }, None)?.ok();
                }
            }
        }
        Ok(moved)
    }

    fn step(&mut self, loaded: &Loaded, command: Command, left: Option<Left<'_>>) -> Result<Moved> {
        let (job, effects) = match apply(self.now, &loaded.job, command) {
            Ok(applied) => applied,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if job != loaded.job {
            if command == Command::Cancel && job.state == loaded.job.state {
                let sql = "UPDATE running SET cancel = 1 WHERE job = ?1";
                self.conn.prepare_cached(sql)?.execute([loaded.key])?;
            } else {
                if command == Command::Retry {
                    self.keep_last_attempt(loaded)?;
                }
                self.leave(loaded)?;
                self.arrive(loaded, &job, &effects, left)?;
            }
        }
        self.tell(loaded, &job, &effects)?;
        Ok(Ok(job.state.name()))
    }

    /// Puts a job that has left its old place into its new one, with the attempt that ended.
    fn arrive(
        &mut self,
        from: &Loaded,
        job: &Job,
        effects: &[Effect],
        left: Option<Left<'_>>,
    ) -> Result<()> {
        let attempt = effects.iter().find_map(|effect| match effect {
            Effect::AttemptEnded(outcome) => Some(*outcome),
            _ => None,
        });
        let last = attempt.zip(left).map(|(outcome, left)| LastAttempt {
            node: left.node,
            started: left.started,
            outcome: outcome_code(outcome),
            result: left.result,
            error: left.error.map(|it| {
                serde_json::to_string(it).expect("the error of an attempt is plain data")
            }),
        });
        if job.state.name().is_ended() {
            return self.enter_ended(from.key, from.lane, job, last.as_ref());
        }
        if let Some(last) = last {
            let mut put = self.conn.prepare_cached(
                "INSERT INTO attempts (job, fence, attempt, node, started, ended, outcome, error) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?;
            put.execute(params![
                from.key,
                Self::fence_number(from.job.life.fence),
                from.job.life.attempts,
                last.node.0,
                last.started.as_millis(),
                self.now.as_millis(),
                last.outcome,
                last.error,
            ])?;
        }
        if let (State::Running { .. }, Some(deadline)) = (&from.job.state, job.rules.deadline) {
            // It may have passed while the job was running.
            let sql = "INSERT OR IGNORE INTO deadlines (at, job) VALUES (?1, ?2)";
            self.conn.prepare_cached(sql)?.execute(params![deadline.as_millis(), from.key])?;
            self.tally.told.due = true;
        }
        self.enter(from.key, (from.lane, from.rank), job)
    }

    /// Before an operator's retry: the last attempt moves from the ended row to the others.
    fn keep_last_attempt(&mut self, loaded: &Loaded) -> Result<()> {
        let key = loaded.key;
        // A lost attempt was given back, so its number is one more than what is used.
        self.conn
            .prepare_cached(
                "INSERT INTO attempts (job, fence, attempt, node, started, ended, outcome, error) \
                 SELECT job, fence, attempts + (outcome = 6), node, started, at, outcome, error \
                 FROM ended WHERE job = ?1 AND node IS NOT NULL",
            )?
            .execute([key])?;
        if let Some(text) = &loaded.extra.unique {
            let sql = "INSERT OR IGNORE INTO uniques (text, job) VALUES (?1, ?2)";
            self.conn.prepare_cached(sql)?.execute(params![text, key])?;
        }
        if loaded.extra.deadline.is_some() {
            let extra = Extra { deadline: None, ..loaded.extra.clone() };
            let sql = "UPDATE jobs SET extra = ?2 WHERE id = ?1";
            self.conn.prepare_cached(sql)?.execute(params![key, extra.to_json()])?;
        }
        Ok(())
    }

    /// Writes the events, and lets the others know when the job has ended.
    fn tell(&mut self, from: &Loaded, job: &Job, effects: &[Effect]) -> Result<()> {
        let attempt = job.life.attempts.max(from.job.life.attempts);
        for effect in effects {
            match *effect {
                Effect::Event(kind) => {
                    self.tally.event(kind, (from.key, from.created, from.lane), attempt);
                }
                Effect::Ended { succeeded } => {
                    let unique = from.extra.unique.as_deref();
                    self.free(from.key, unique, from.job.rules.deadline)?;
                    self.endings.push_back((from.key, succeeded));
                }
                Effect::AttemptEnded(_) => {}
            }
        }
        Ok(())
    }

    /// Frees what an ended job held.
    fn free(&self, key: u64, unique: Option<&str>, deadline: Option<Time>) -> Result<()> {
        if let Some(text) = unique {
            let sql = "DELETE FROM uniques WHERE text = ?1 AND job = ?2";
            self.conn.prepare_cached(sql)?.execute(params![text, key])?;
        }
        if let Some(deadline) = deadline {
            let sql = "DELETE FROM deadlines WHERE at = ?1 AND job = ?2";
            self.conn.prepare_cached(sql)?.execute(params![deadline.as_millis(), key])?;
        }
        Ok(())
    }

    /// The jobs that wait for `key`, oldest first; they wait for it no more.
    fn take_dependents(&self, key: u64) -> Result<Vec<u64>> {
        if self.tally.n_in(StateName::Blocked) == 0 {
            return Ok(Vec::new());
        }
        let sql = "DELETE FROM dependencies WHERE on_job = ?1 RETURNING job";
        let mut take = self.conn.prepare_cached(sql)?;
        let mut dependents =
            take.query_map([key], |row| row.get(0))?.collect::<rusqlite::Result<Vec<u64>>>()?;
        // What RETURNING gives has no order of its own.
        dependents.sort_unstable();
        Ok(dependents)
    }

    pub(super) fn finish(&mut self, node: NodeId, ended: &[Finish]) -> Result<Vec<Moved>> {
        let mut moved = Vec::with_capacity(ended.len());
        let mut rest = ended;
        loop {
            let n_plain = self.finish_plain(node, rest, &mut moved)?;
            let Some((next, others)) = rest[n_plain..].split_first() else { return Ok(moved) };
            moved.push(self.finish_one(node, next)?);
            rest = others;
        }
    }

    fn finish_one(&mut self, node: NodeId, finish: &Finish) -> Result<Moved> {
        let Some(loaded) = self.load_leased(finish)? else {
            return Ok(Err(Refusal::AlreadyFinished));
        };
        let fence = finish.fence;
        let left = Left {
            node,
            started: finish.started,
            result: finish.result.as_deref(),
            error: finish.error.as_ref(),
        };
        let command = Command::Finish { fence, outcome: finish.outcome, roll: finish.roll };
        let moved = self.transition(&loaded, command, Some(left))?;
        if moved.is_ok() {
            self.leased.remove(&loaded.key);
            self.write_logs(loaded.key, fence, &finish.logs)?;
        }
        Ok(moved)
    }

    /// Reads the job of an attempt that ended. For a lease that this process took and still
    /// holds, one row is read; the rest is remembered from the claim.
    fn load_leased(&mut self, finish: &Finish) -> Result<Option<Loaded>> {
        let key = finish.id.key();
        let ours = self.leased.get(&key).filter(|it| self.job_id(key, it.created) == finish.id);
        let Some(leased) = ours else { return self.load_id(finish.id) };
        let mut get = self.conn.prepare_cached(
            "SELECT attempts, crashes, snoozes, fence, cancel, node, started FROM running \
             WHERE job = ?1",
        )?;
        let mut rows = get.query([key])?;
        let Some(row) = rows.next()? else {
            drop(rows);
            drop(get);
            return self.load_id(finish.id);
        };
        let life = super::rows::life(row, 0)?;
        let life = taskloom_model::Life { cancel_requested: row.get(4)?, ..life };
        let state = taskloom_model::State::Running { node: NodeId(row.get(5)?) };
        let Leased { created, lane, rank, rules, unique, .. } = leased;
        Ok(Some(Loaded {
            key,
            created: *created,
            lane: *lane,
            rank: *rank,
            extra: Extra { unique: unique.clone(), ..Extra::default() },
            job: Job { state, rules: *rules, life },
            started: Time::from_millis(row.get(6)?),
        }))
    }

    pub(super) fn write_logs(&mut self, key: u64, fence: Fence, logs: &[NewLog]) -> Result<()> {
        if logs.is_empty() {
            return Ok(());
        }
        let mut put = self.conn.prepare_cached(
            "INSERT INTO logs (job, n, fence, at, level, text) \
             SELECT ?1, (SELECT ifnull(max(n), 0) + 1 FROM logs WHERE job = ?1), ?2, ?3, ?4, ?5 \
             WHERE EXISTS (SELECT 1 FROM jobs WHERE id = ?1)",
        )?;
        for log in logs {
            let fence = Self::fence_number(fence);
            put.execute(params![key, fence, log.at.as_millis(), log.level, log.text])?;
        }
        Ok(())
    }

    /// Gives jobs back whose attempts never began.
    pub(super) fn release(&mut self, node: NodeId, leases: &[(JobId, Fence)]) -> Result<()> {
        for &(id, fence) in leases {
            let Some(loaded) = self.load_id(id)? else { continue };
            let command = Command::Finish {
                fence,
                outcome: Outcome::Interrupted,
                roll: taskloom_model::Roll(0.0),
            };
            // No `Left`: an attempt that never began leaves no record.
            if self.transition(&loaded, command, None)?.is_ok() {
                self.leased.remove(&loaded.key);
            } else {
                let current = loaded.job.life.fence;
                tracing::debug!(%id, ?fence, ?current, %node, "released a lease that was lost");
            }
        }
        Ok(())
    }

    pub(super) fn change(&mut self, ids: &[JobId], command: Command) -> Result<Vec<Changed>> {
        let mut changed = Vec::with_capacity(ids.len());
        for &id in ids {
            changed.push(match self.load_id(id)? {
                None => Changed::Unknown,
                Some(loaded) => match self.transition(&loaded, command, None)? {
                    Ok(state) => Changed::Now(state),
                    Err(refusal) => Changed::Refused(refusal),
                },
            });
        }
        Ok(changed)
    }

    pub(super) fn promote(&mut self) -> Result<Promoted> {
        let now = self.now.as_millis();
        let due = "SELECT job, at FROM waiting WHERE at <= ?1 ORDER BY at, job LIMIT ?2";
        let late = "SELECT job, at FROM deadlines WHERE at <= ?1 ORDER BY at, job LIMIT ?2";
        let (due, late) = (self.keys(due, now)?, self.keys(late, now)?);
        let mut n_moved = 0;
        for (key, at) in late {
            if let Some(loaded) = self.load(key)? {
                n_moved += usize::from(self.transition(&loaded, Command::Expire, None)?.is_ok());
            }
            // A running job outlives its deadline; when it comes back, it stands here again.
            let sql = "DELETE FROM deadlines WHERE at = ?1 AND job = ?2";
            self.conn.prepare_cached(sql)?.execute(params![at, key])?;
        }
        for (key, _) in due {
            if let Some(loaded) = self.load(key)? {
                n_moved += usize::from(self.transition(&loaded, Command::Due, None)?.is_ok());
            }
        }
        let next: Option<i64> = self
            .conn
            .prepare_cached(
                "SELECT min(at) FROM (SELECT min(at) AS at FROM waiting \
                 UNION ALL SELECT min(at) FROM deadlines)",
            )?
            .query_row([], |row| row.get(0))?;
        Ok(Promoted { n_moved, next_due: next.map(Time::from_millis) })
    }

    /// The first jobs of an index by time, with their times.
    fn keys(&self, sql: &str, now: i64) -> Result<Vec<(u64, i64)>> {
        let mut find = self.conn.prepare_cached(sql)?;
        let keys =
            find.query_map(params![now, PROMOTE_MAX], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(keys.collect::<rusqlite::Result<_>>()?)
    }

    /// Says that a new job was accepted.
    pub(super) fn submitted(&mut self, place: (u64, Time, i64)) {
        self.tally.event(EventKind::JobSubmitted, place, 0);
    }
}
