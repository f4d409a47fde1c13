//! The common ways of a batch, with each statement looked up once: plain submits, and
//! successes of jobs nobody waits for. What is not plain goes the general way, job by job; both
//! let the model decide and leave the same rows.

use rusqlite::params;
use taskloom_model::{Command, Effect, EventKind, Job, NodeId, Outcome, State, StateName, apply};

use super::engine::{Conn, Engine, Leased, Result};
use super::moves::Moved;
use crate::codec::Policy;
use crate::{Accepted, Finish, NewJob};

impl<C: Conn> Engine<C> {
    /// Accepts jobs that are all plain: they are ready at once.
    pub(super) fn submit_plain(&mut self, jobs: &[NewJob]) -> Result<Vec<Accepted>> {
        let mut places: Vec<(i64, i64)> = Vec::with_capacity(jobs.len());
        let mut last: Option<&NewJob> = None;
        for job in jobs {
            // A batch is mostly of one task: the place of the job before is the place of this one.
            let alike = last.filter(|it| it.task == job.task && it.queue == job.queue);
            let lane = match (alike, places.last()) {
                (Some(_), Some(&(lane, _))) => lane,
                _ => self.lane_id(&job.queue, &job.task)?,
            };
            places.push((lane, self.policy_id(&Policy::of(job))?));
            last = Some(job);
        }
        let created = self.now;
        let mut put_job = self.conn.prepare_cached(
            "INSERT INTO jobs (id, created, lane, rank, policy, args, extra) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, NULL)",
        )?;
        let mut put_ready = self.conn.prepare_cached(
            "INSERT INTO ready (lane, rank, job, attempts, crashes, snoozes, fence) \
             VALUES (?1, ?2, ?3, 0, 0, 0, 0)",
        )?;
        let mut accepted = Vec::with_capacity(jobs.len());
        for (new, (lane, policy)) in jobs.iter().zip(places) {
            let key = self.next_job;
            self.next_job += 1;
            let rank = 9 - new.priority.level();
            let millis = created.as_millis();
            put_job.execute(params![key, millis, lane, rank, policy, new.args])?;
            put_ready.execute(params![lane, rank, key])?;
            self.tally.count(lane, StateName::Ready, 1);
            self.tally.event(EventKind::JobSubmitted, (key, created, lane), 0);
            accepted.push(Accepted { id: self.job_id(key, created), duplicate: false });
        }
        self.tally.told.ready |= !jobs.is_empty();
        Ok(accepted)
    }

    /// Records the plain successes at the front of `ended`: their leases were taken by this
    /// process and still stand, and nobody waits for their jobs. Returns how many these were.
    pub(super) fn finish_plain(
        &mut self,
        node: NodeId,
        ended: &[Finish],
        moved: &mut Vec<Moved>,
    ) -> Result<usize> {
        if self.tally.n_in(StateName::Blocked) != 0 {
            return Ok(0);
        }
        // A wish to cancel changes what an outcome means, and a rescue takes the row away.
        let mut leave = self
            .conn
            .prepare_cached("DELETE FROM running WHERE job = ?1 AND fence = ?2 AND cancel = 0")?;
        let mut put = self.conn.prepare_cached(
            "INSERT INTO ended (job, state, at, attempts, crashes, snoozes, fence, node, started, \
             outcome, result, error) VALUES (?1, 5, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0, ?9, NULL)",
        )?;
        for (n, finish) in ended.iter().enumerate() {
            let key = finish.id.key();
            let Some(leased) = self.leased.get(&key) else { return Ok(n) };
            let is_plain = finish.outcome == Outcome::Succeeded
                && finish.logs.is_empty()
                && leased.unique.is_none()
                && leased.rules.deadline.is_none()
                && finish.id.created() == leased.created
                && finish.id.salt() == self.salt;
            let Leased { created, lane, rules, life, .. } = *leased;
            let job = Job { state: State::Running { node }, rules, life };
            let Finish { fence, outcome, roll, .. } = *finish;
            let command = Command::Finish { fence, outcome, roll };
            let applied = if is_plain { apply(self.now, &job, command).ok() } else { None };
            let Some((job, effects)) = applied else { return Ok(n) };
            if leave.execute(params![key, Self::fence_number(fence)])? == 0 {
                return Ok(n);
            }
            put.execute(params![
                key,
                self.now.as_millis(),
                job.life.attempts,
                job.life.crashes,
                job.life.snoozes,
                Self::fence_number(fence),
                node.0,
                finish.started.as_millis(),
                finish.result,
            ])?;
            self.tally.count(lane, StateName::Running, -1);
            self.tally.count(lane, StateName::Succeeded, 1);
            for effect in effects {
                if let Effect::Event(kind) = effect {
                    self.tally.event(kind, (key, created, lane), job.life.attempts);
                }
            }
            self.leased.remove(&key);
            moved.push(Ok(job.state.name()));
        }
        Ok(ended.len())
    }
}
