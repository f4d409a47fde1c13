//! The names of lanes and the words of policies, with their ids: small tables that only grow, so
//! what was read once stays true. New ones are committed before the jobs that need them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::Result;
use super::session::Session;
use crate::codec::{Policy, parse};
use crate::keys::KeyMap;
use crate::{Demand, NewJob, StoreError};

/// A queue and a task.
#[derive(Debug, Clone)]
pub(super) struct Lane {
    pub(super) queue: Arc<str>,
    pub(super) task: Arc<str>,
}

/// Where a new job belongs: its lane and its policy.
pub(super) type Place = (i32, i32);

#[derive(Debug, Default)]
pub(super) struct Names {
    /// By id; the ids are 1, 2, 3, …
    lanes: Vec<Lane>,
    lane_ids: HashMap<Arc<str>, HashMap<Arc<str>, i32>>,
    policies: KeyMap<Policy>,
    /// Newest first, at most [`POLICIES_RECENT`]: what submitters use again and again.
    recent: VecDeque<(Policy, i32)>,
}

const POLICIES_RECENT: usize = 16;
/// A bound: retry policies computed for each job must not fill the memory.
const POLICIES_KEPT: usize = 1_000;

pub(super) const NEW_LANES: &str = "SELECT id, queue, task FROM lanes WHERE id > $1 ORDER BY id";
const LOCK_LANES: &str = "LOCK TABLE lanes IN SHARE ROW EXCLUSIVE MODE";
const ADD_LANES: &str = "INSERT INTO lanes (id, queue, task) \
     SELECT (SELECT coalesce(max(id), 0) FROM lanes) + (row_number() OVER (ORDER BY queue, task))::int, \
     queue, task FROM (SELECT DISTINCT queue, task FROM unnest($1::text[], $2::text[]) \
     AS u(queue, task)) AS new \
     WHERE NOT EXISTS (SELECT FROM lanes l WHERE l.queue = new.queue AND l.task = new.task)";
const ADD_POLICIES: &str = "INSERT INTO policies (body) SELECT DISTINCT body \
     FROM unnest($1::text[]) AS new(body) \
     WHERE NOT EXISTS (SELECT FROM policies p WHERE p.body = new.body) \
     ORDER BY body ON CONFLICT DO NOTHING";
const FIND_POLICIES: &str = "SELECT id, body FROM policies WHERE body = ANY($1)";
const GET_POLICIES: &str = "SELECT id, body FROM policies WHERE id = ANY($1)";

impl Names {
    pub(super) fn lane(&self, id: i32) -> Result<&Lane> {
        let place = usize::try_from(id - 1).ok();
        place
            .and_then(|place| self.lanes.get(place))
            .ok_or_else(|| StoreError::Corrupt { why: format!("no lane {id}") })
    }

    /// The lanes a demand fits.
    pub(super) fn fitting(&self, demand: &Demand) -> Vec<i32> {
        let fits = |it: &Lane| demand.queues.has(&it.queue) && demand.tasks.contains(&it.task);
        let lanes = (1..).zip(&self.lanes);
        lanes.filter(|(_, it)| fits(it)).map(|(id, _)| id).collect()
    }

    /// Reads the lanes that others have added.
    pub(super) async fn read_lanes(&mut self, session: &Session) -> Result<()> {
        let known = self.n_lanes();
        let rows = session.query(NEW_LANES, &[&known]).await?;
        self.add_lanes(&rows)
    }

    pub(super) fn n_lanes(&self) -> i32 {
        i32::try_from(self.lanes.len()).unwrap_or(i32::MAX)
    }

    pub(super) fn add_lanes(&mut self, rows: &[tokio_postgres::Row]) -> Result<()> {
        for row in rows {
            let id: i32 = row.try_get(0)?;
            if id != self.n_lanes() + 1 {
                return Err(StoreError::Corrupt { why: format!("lane {id} is out of order") });
            }
            let (queue, task): (&str, &str) = (row.try_get(1)?, row.try_get(2)?);
            let (queue, task): (Arc<str>, Arc<str>) = (queue.into(), task.into());
            self.lanes.push(Lane { queue: Arc::clone(&queue), task: Arc::clone(&task) });
            self.lane_ids.entry(queue).or_default().insert(task, id);
        }
        Ok(())
    }

    fn lane_id(&self, job: &NewJob) -> Option<i32> {
        self.lane_ids.get(&job.queue)?.get(&job.task).copied()
    }

    fn policy_id(&self, policy: &Policy) -> Option<i32> {
        self.recent.iter().find(|(it, _)| it == policy).map(|(_, id)| *id)
    }

    /// Where new jobs belong. Lanes and policies that are new are committed.
    pub(super) async fn places(
        &mut self,
        session: &Session,
        jobs: &[NewJob],
    ) -> Result<Vec<Place>> {
        if jobs.iter().any(|it| self.lane_id(it).is_none()) {
            self.make_lanes(session, jobs).await?;
        }
        // Looked up before new ones push the old ones out.
        let known: Vec<Option<i32>> =
            jobs.iter().map(|job| self.policy_id(&Policy::of(job))).collect();
        let mut strange: HashMap<String, Option<i32>> = HashMap::new();
        for (job, _) in jobs.iter().zip(&known).filter(|it| it.1.is_none()) {
            strange.insert(Policy::of(job).to_json(), None);
        }
        if !strange.is_empty() {
            self.make_policies(session, &mut strange).await?;
        }
        let mut places: Vec<Place> = Vec::with_capacity(jobs.len());
        for (job, known) in jobs.iter().zip(known) {
            let found = || strange.get(&Policy::of(job).to_json()).copied().flatten();
            let (Some(lane), Some(policy)) = (self.lane_id(job), known.or_else(found)) else {
                return Err(StoreError::Corrupt { why: "a name was not kept".into() });
            };
            places.push((lane, policy));
        }
        Ok(places)
    }

    async fn make_lanes(&mut self, session: &Session, jobs: &[NewJob]) -> Result<()> {
        self.read_lanes(session).await?;
        let new: Vec<&NewJob> = jobs.iter().filter(|it| self.lane_id(it).is_none()).collect();
        if new.is_empty() {
            return Ok(());
        }
        let queues: Vec<&str> = new.iter().map(|it| &*it.queue).collect();
        let tasks: Vec<&str> = new.iter().map(|it| &*it.task).collect();
        session.prepare(&[ADD_LANES]).await?;
        session.begin().await?;
        session.batch(LOCK_LANES).await?;
        session.execute(ADD_LANES, &[&queues, &tasks]).await?;
        session.end("COMMIT").await?;
        self.read_lanes(session).await
    }

    async fn make_policies(
        &mut self,
        session: &Session,
        strange: &mut HashMap<String, Option<i32>>,
    ) -> Result<()> {
        let bodies: Vec<&str> = strange.keys().map(String::as_str).collect();
        session.execute(ADD_POLICIES, &[&bodies]).await?;
        let rows = session.query(FIND_POLICIES, &[&bodies]).await?;
        for row in rows {
            let (id, body): (i32, String) = (row.try_get(0)?, row.try_get(1)?);
            self.recent.truncate(POLICIES_RECENT - 1);
            self.recent.push_front((parse(&body)?, id));
            strange.insert(body, Some(id));
        }
        Ok(())
    }

    /// Makes sure that [`Names::policy`] knows all of `ids`.
    pub(super) async fn read_policies(
        &mut self,
        session: &Session,
        ids: impl Iterator<Item = i32>,
    ) -> Result<()> {
        if POLICIES_KEPT < self.policies.len() {
            self.policies.clear();
        }
        let mut missing: Vec<i32> =
            ids.filter(|it| !self.policies.contains_key(&u64::from(it.unsigned_abs()))).collect();
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            return Ok(());
        }
        for row in session.query(GET_POLICIES, &[&missing]).await? {
            let (id, body): (i32, &str) = (row.try_get(0)?, row.try_get(1)?);
            self.policies.insert(u64::from(id.unsigned_abs()), parse(body)?);
        }
        Ok(())
    }

    pub(super) fn policy(&self, id: i32) -> Result<Policy> {
        let policy = self.policies.get(&u64::from(id.unsigned_abs()));
        policy.copied().ok_or_else(|| StoreError::Corrupt { why: format!("no policy {id}") })
    }
}
