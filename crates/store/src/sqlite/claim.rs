//! Taking ready jobs: a merge over lanes, by priority, then age.
//!
//! Jobs are taken from the front of each lane and of nowhere else, so one range delete a lane
//! takes them all out of the claim index.

use std::collections::VecDeque;
use std::sync::Arc;

use rusqlite::params;
use taskloom_model::{Command, Job, Life, NodeId, State, StateName, Time, apply};

use super::engine::{Engine, Leased, Result};
use super::rows::Loaded;
use crate::codec::Extra;
use crate::{Claimed, Demand, StoreError};

/// How many rows a merge over several lanes reads from one of them at a time.
const CHUNK: usize = 64;

/// A job at the front of a lane.
#[derive(Debug, Clone, Copy)]
struct Front {
    rank: i64,
    key: u64,
    life: Life,
}

/// What was submitted, as a claim needs it.
#[derive(Debug)]
struct Body {
    created: Time,
    policy: i64,
    args: Arc<str>,
    extra: Option<Result<Extra>>,
}

/// The rest of a lane, read in chunks.
#[derive(Debug)]
struct LaneReader {
    lane: i64,
    chunk: usize,
    front: VecDeque<Front>,
    /// Where the last chunk ended.
    read_to: (i64, u64),
    at_end: bool,
    /// The last one taken.
    taken_to: Option<(i64, u64)>,
}

impl Engine {
    pub(super) fn claim(&mut self, node: NodeId, demands: &[Demand]) -> Result<Vec<Claimed>> {
        let mut claimed = Vec::new();
        // A lease of a node that was taken for dead would have no owner.
        let mut known = self.conn.prepare_cached("SELECT 1 FROM nodes WHERE id = ?1")?;
        let is_known = known.exists([node.0])?;
        drop(known);
        if !is_known {
            return Ok(claimed);
        }
        for (place, demand) in demands.iter().enumerate() {
            if 0 < demand.n {
                self.claim_one((node, place), demand, &mut claimed)?;
            }
        }
        Ok(claimed)
    }

    fn claim_one(
        &mut self,
        (node, place): (NodeId, usize),
        demand: &Demand,
        claimed: &mut Vec<Claimed>,
    ) -> Result<()> {
        let mut room = demand.n;
        loop {
            let taken = self.take(demand, room)?;
            let n_before = claimed.len();
            for (&(lane, front), body) in taken.iter().zip(self.bodies(&taken)?) {
                self.tally.count(lane, StateName::Ready, -1);
                claimed.extend(self.lease((node, place), (lane, front), body)?);
            }
            self.put_running(node, &claimed[n_before..])?;
            let n_claimed = claimed.len() - n_before;
            room -= n_claimed;
            // Those past their deadline failed instead; others may take their room.
            if n_claimed == taken.len() {
                return Ok(());
            }
        }
    }

    /// Takes the first `n` jobs that fit `demand` out of the ready ones, with their lanes.
    fn take(&mut self, demand: &Demand, n: usize) -> Result<Vec<(i64, Front)>> {
        let mut readers = self.readers(demand, n);
        let mut taken = Vec::with_capacity(n.min(4096));
        while taken.len() < n {
            let mut first: Option<(i64, u64, usize)> = None;
            for (at, reader) in readers.iter_mut().enumerate() {
                if let Some(front) = self.peek(reader)? {
                    let order = (front.rank, front.key, at);
                    first = Some(first.map_or(order, |it| it.min(order)));
                }
            }
            let Some((.., at)) = first else { break };
            let reader = &mut readers[at];
            let front = reader.front.pop_front().expect("it was peeked at");
            reader.taken_to = Some((front.rank, front.key));
            taken.push((reader.lane, front));
        }
        for reader in &readers {
            if let Some((rank, key)) = reader.taken_to {
                self.conn
                    .prepare_cached(
                        "DELETE FROM ready WHERE lane = ?1 AND (rank, job) <= (?2, ?3)",
                    )?
                    .execute(params![reader.lane, rank, key])?;
            }
        }
        Ok(taken)
    }

    /// A reader for each lane that the demand fits and that has ready jobs.
    fn readers(&self, demand: &Demand, n: usize) -> Vec<LaneReader> {
        let mut readers = Vec::new();
        for (place, lane) in self.lanes.iter().enumerate() {
            let id = i64::try_from(place + 1).unwrap_or(i64::MAX);
            let n_ready = self.tally.n_of(id, StateName::Ready);
            let fits = demand.queues.has(&lane.queue) && demand.tasks.contains(&lane.task);
            if 0 < n_ready && fits {
                readers.push(LaneReader {
                    lane: id,
                    chunk: CHUNK.min(n),
                    front: VecDeque::new(),
                    read_to: (-1, 0),
                    at_end: false,
                    taken_to: None,
                });
            }
        }
        if let [only] = &mut readers[..] {
            only.chunk = n;
        }
        readers
    }

    fn peek(&self, reader: &mut LaneReader) -> Result<Option<Front>> {
        if reader.front.is_empty() && !reader.at_end {
            let mut read = self.conn.prepare_cached(
                "SELECT rank, job, attempts, crashes, snoozes, fence FROM ready \
                 WHERE lane = ?1 AND (rank, job) > (?2, ?3) ORDER BY rank, job LIMIT ?4",
            )?;
            let (rank, key) = reader.read_to;
            let rows = read.query_map(params![reader.lane, rank, key, reader.chunk], |row| {
                Ok(Front { rank: row.get(0)?, key: row.get(1)?, life: super::rows::life(row, 2)? })
            })?;
            reader.front = rows.collect::<rusqlite::Result<_>>()?;
            reader.at_end = reader.front.len() < reader.chunk;
            if let Some(last) = reader.front.back() {
                reader.read_to = (last.rank, last.key);
            }
        }
        Ok(reader.front.front().copied())
    }

    /// Reads what was submitted, with the statement looked up once.
    fn bodies(&self, taken: &[(i64, Front)]) -> Result<Vec<Body>> {
        let mut get = self
            .conn
            .prepare_cached("SELECT created, policy, args, extra FROM jobs WHERE id = ?1")?;
        let mut bodies = Vec::with_capacity(taken.len());
        for (_, front) in taken {
            bodies.push(get.query_row([front.key], |row| {
                let extra = match row.get_ref(3)? {
                    rusqlite::types::ValueRef::Null => None,
                    text => Some(Extra::from_json(Some(text.as_str()?))),
                };
                let created = Time::from_millis(row.get(0)?);
                Ok(Body { created, policy: row.get(1)?, args: row.get(2)?, extra })
            })?);
        }
        Ok(bodies)
    }

    /// Writes the leases of jobs that were claimed just now.
    fn put_running(&mut self, node: NodeId, claimed: &[Claimed]) -> Result<()> {
        let mut put = self.conn.prepare_cached(
            "INSERT INTO running (job, node, started, attempts, crashes, snoozes, fence) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?;
        for it in claimed {
            let key = it.id.key();
            let Some(leased) = self.leased.get(&key) else { continue };
            let Life { attempts, crashes, snoozes, fence, .. } = leased.life;
            let (now, fence) = (self.now.as_millis(), Self::fence_number(fence));
            put.execute(params![key, node.0, now, attempts, crashes, snoozes, fence])?;
            self.tally.count(leased.lane, StateName::Running, 1);
        }
        Ok(())
    }

    /// Gives `node` the lease of a job that was taken from the ready ones, or fails the job when
    /// its deadline has passed. The row of the lease is the caller's to write.
    fn lease(
        &mut self,
        (node, demand): (NodeId, usize),
        (lane, front): (i64, Front),
        body: Body,
    ) -> Result<Option<Claimed>> {
        let Front { rank, key, life } = front;
        let Body { created, policy, args, extra } = body;
        let extra = extra.transpose()?.unwrap_or_default();
        let policy = self.policy(policy)?;
        let job = Job { state: State::Ready, rules: policy.rules(&extra), life };
        let Ok((leased, _)) = apply(self.now, &job, Command::Claim { node }) else {
            // Put it back where it stood, so that the move to `failed` is like any other.
            self.enter(key, (lane, rank), &job)?;
            let loaded = Loaded { key, created, lane, rank, extra, job, started: self.now };
            self.transition(&loaded, Command::Expire, None)?.ok();
            return Ok(None);
        };
        let Life { attempts, fence, .. } = leased.life;
        self.tally.event(taskloom_model::EventKind::JobClaimed, (key, created, lane), attempts);
        let unique = extra.unique;
        self.leased.insert(
            key,
            Leased { created, lane, rank, rules: leased.rules, life: leased.life, unique },
        );
        let names = self.lane(lane)?;
        Ok(Some(Claimed {
            id: self.job_id(key, created),
            demand,
            task: Arc::clone(&names.task),
            queue: Arc::clone(&names.queue),
            priority: u8::try_from(9 - rank)
                .ok()
                .and_then(|level| taskloom_model::Priority::new(level).ok())
                .ok_or_else(|| StoreError::Corrupt { why: format!("rank {rank} of job {key}") })?,
            args,
            fence,
            attempt: attempts,
            max_attempts: leased.rules.retry.max_attempts,
            timeout: policy.timeout(),
            deadline: leased.rules.deadline,
        }))
    }
}
