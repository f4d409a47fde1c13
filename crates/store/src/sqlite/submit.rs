//! Accepting jobs.

use rusqlite::{OptionalExtension, params};
use taskloom_model::{Command, Job, State, StateName, Time};

use super::engine::{Conn, Engine, Result};
use super::rows::Loaded;
use crate::codec::{Extra, Policy, is_plain};
use crate::{Accepted, NewJob, StoreError};

impl<C: Conn> Engine<C> {
    /// Accepts `jobs`. Everything that can be refused is refused before the first row is written.
    pub(super) fn submit(&mut self, jobs: &[NewJob]) -> Result<Vec<Accepted>> {
        for job in jobs {
            for &id in &job.after {
                if self.load_id(id)?.is_none() {
                    return Err(StoreError::UnknownDependency { id });
                }
            }
        }
        if jobs.iter().all(is_plain) {
            return self.submit_plain(jobs);
        }
        jobs.iter().map(|job| self.submit_one(job)).collect()
    }

    fn submit_one(&mut self, new: &NewJob) -> Result<Accepted> {
        if let Some(accepted) = self.taken(new)? {
            return Ok(accepted);
        }
        let mut rules = new.rules;
        if let Some(delay) = new.delay {
            rules.run_at = Some(self.now + delay);
        }
        let lane = self.lane_id(&new.queue, &new.task)?;
        let rank = 9 - i64::from(new.priority.level());
        let policy = self.policy_id(&Policy::of(new))?;
        let extra = Extra {
            run_at: rules.run_at,
            deadline: rules.deadline,
            key: new.key.clone(),
            unique: new.unique.clone(),
        };
        let key = self.next_job;
        self.next_job += 1;
        let created = self.now;
        self.conn
            .prepare_cached(
                "INSERT INTO jobs (id, created, lane, rank, policy, args, extra) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                key,
                created.as_millis(),
                lane,
                rank,
                policy,
                new.args,
                extra.to_json()
            ])?;
        if let Some(text) = &new.unique {
            let sql = "INSERT INTO uniques (text, job) VALUES (?1, ?2)";
            self.conn.prepare_cached(sql)?.execute(params![text, key])?;
        }
        if let Some(deadline) = rules.deadline {
            let sql = "INSERT INTO deadlines (at, job) VALUES (?1, ?2)";
            self.conn.prepare_cached(sql)?.execute(params![deadline.as_millis(), key])?;
            // A node may have to wake earlier than it meant to.
            self.tally.told.due = true;
        }
        self.submitted((key, created, lane));
        if new.after.is_empty() {
            self.enter(key, (lane, rank), &Job::submit(created, rules, 0))?;
        } else {
            let job = Job::submit(created, rules, u32::try_from(new.after.len()).unwrap_or(0));
            self.wait_for(new, Loaded { key, created, lane, rank, extra, job, started: created })?;
        }
        Ok(Accepted { id: self.job_id(key, created), duplicate: false })
    }

    /// The unfinished job that has the unique text already.
    fn taken(&mut self, new: &NewJob) -> Result<Option<Accepted>> {
        let Some(text) = &new.unique else { return Ok(None) };
        let mut find = self.conn.prepare_cached(
            "SELECT jobs.id, created FROM uniques JOIN jobs ON jobs.id = job WHERE text = ?1",
        )?;
        let found: Option<(u64, i64)> =
            find.query_row([text], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        Ok(found.map(|(key, created)| Accepted {
            id: self.job_id(key, Time::from_millis(created)),
            duplicate: true,
        }))
    }

    /// Blocks a new job on others. Those that have ended already are heard of at once.
    fn wait_for(&mut self, new: &NewJob, mut loaded: Loaded) -> Result<()> {
        let mut after: Vec<u64> = new.after.iter().map(|id| id.key()).collect();
        after.sort_unstable();
        after.dedup();
        let n_unfinished = u32::try_from(after.len()).unwrap_or(u32::MAX);
        loaded.job.state = State::Blocked { n_unfinished };
        self.enter(loaded.key, (loaded.lane, loaded.rank), &loaded.job)?;
        for on in after {
            let state = self.load(on)?.map_or(StateName::Cancelled, |it| it.job.state.name());
            if !state.is_ended() {
                let sql = "INSERT INTO dependencies (on_job, job) VALUES (?1, ?2)";
                self.conn.prepare_cached(sql)?.execute(params![on, loaded.key])?;
                continue;
            }
            let command = Command::DependencyEnded { succeeded: state == StateName::Succeeded };
            let Some(current) = self.load(loaded.key)? else { continue };
            if self.transition(&current, command, None)?.is_err() {
                break;
            }
        }
        Ok(())
    }
}
