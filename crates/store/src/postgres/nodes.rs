//! Nodes: heartbeats, and the rescue of what dead nodes held.
//!
//! A node holds an advisory lock on a connection of its process, which the server frees when that
//! connection ends. A lock that can be taken and a heartbeat older than [`SILENCE`] are proof of
//! death, so its jobs are rescued at once, unless all had lost the server: therefore a node judges
//! only those whose silence it has seen itself ([`Judge`]). Without proof [`LEASE`] decides; the
//! fence keeps a node that was taken for dead from doing harm.

use std::time::Duration;

use taskloom_model::{Command, Fence, JobId, NodeId, StateName, Time};

use super::Result;
use super::lane::Ask;
use super::open::node_lock;
use super::rows::{big, clean, key};
use super::session::Params;
use super::tx::{Left, Tx};
use crate::{Answer, Beat, Judge, NewNode, ProgressView, Rescued};

/// How long a lease lasts without a heartbeat, when there is no proof of death.
pub const LEASE: Duration = Duration::from_secs(30);
/// How long a node without its lock must have been silent: its connection may only have been cut.
pub(super) const SILENCE: Duration = Duration::from_secs(3);

/// Asks for the id of a node that is to be registered: its lock comes before its row.
pub(super) struct NextNode;

impl Ask for NextNode {
    type Answer = NodeId;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<NodeId> {
        let sql = "SELECT nextval('nodes_id_seq')";
        let rows = tx.query(sql, &[]).await?;
        Ok(NodeId(rows.first().map_or(Ok(0), |row| row.try_get(0).map(key))?))
    }
}

pub(super) struct Register {
    pub(super) id: NodeId,
    pub(super) node: NewNode,
}

impl Ask for Register {
    type Answer = NodeId;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<NodeId> {
        let sql = "INSERT INTO nodes (id, name, pid, started, heartbeat, tasks, has_lock) \
             VALUES ($1, $2, $3, $4, $4, $5, $6)";
        let tasks = serde_json::to_string(&self.node.tasks).expect("names are plain data");
        let (id, now, pid) = (big(self.id.0), tx.now.as_millis(), i64::from(self.node.pid));
        let has_lock = !tx.session.is_pooled();
        tx.query(sql, &[&id, &clean(&self.node.name), &pid, &now, &tasks, &has_lock]).await?;
        tx.tally.told.changed = true;
        Ok(self.id)
    }
}

pub(super) struct Retire {
    pub(super) node: NodeId,
}

impl Ask for Retire {
    type Answer = ();

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<()> {
        // What it has not given back would have no owner.
        tx.bury(self.node, String::new()).await?;
        Ok(())
    }
}

pub(super) struct Heartbeat {
    pub(super) beat: Beat,
}

const BEAT: &str = "UPDATE nodes SET heartbeat = $2 WHERE id = $1 RETURNING id";
pub(super) const PUT_PROGRESS: &str = "UPDATE hot SET progress = u.progress \
     FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS u(job, fence, progress) \
     WHERE hot.job = ANY(ARRAY[u.job]) AND hot.fence = u.fence AND hot.state = 3";
/// By its index: once a second, whatever rows there are.
pub(super) const TO_CANCEL: &str = "SELECT h.job, j.created, h.fence FROM (SELECT job, fence \
     FROM hot WHERE node + 0 = $1 AND flags >= 8 OFFSET 0) AS h CROSS JOIN LATERAL \
     (SELECT created FROM jobs WHERE job = h.job OFFSET 0) AS j ORDER BY h.job";

impl Ask for Heartbeat {
    type Answer = Answer;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<Answer> {
        let (node, now) = (big(self.beat.node.0), tx.now.as_millis());
        tx.session.prepare(&[BEAT, TO_CANCEL]).await?;
        let begin = tx.begin();
        let (beat_params, node_params): (Params<'_>, Params<'_>) = (&[&node, &now], &[&node]);
        let ((), known, cancel) = futures::try_join!(
            begin,
            tx.session.query(BEAT, beat_params),
            tx.session.query(TO_CANCEL, node_params),
        )?;
        if known.is_empty() {
            return Ok(Answer { cancel: Vec::new(), evicted: true });
        }
        self.keep_signs(tx).await?;
        let mut answer = Answer::default();
        for row in &cancel {
            let created = Time::from_millis(row.try_get(1)?);
            let id: JobId = tx.job_id(key(row.try_get(0)?), created);
            answer.cancel.push((id, Fence(key(row.try_get(2)?))));
        }
        Ok(answer)
    }
}

impl Heartbeat {
    async fn keep_signs(&self, tx: &mut Tx<'_>) -> Result<()> {
        let (mut jobs, mut fences, mut texts) = (Vec::new(), Vec::new(), Vec::new());
        let mut signs: Vec<_> = self.beat.signs.iter().collect();
        signs.sort_by_key(|it| it.id.key());
        for sign in signs {
            tx.log(sign.id.key(), sign.fence, &sign.logs);
            if let Some((fraction, message)) = &sign.progress {
                let progress = ProgressView { fraction: *fraction, message: message.clone() };
                jobs.push(big(sign.id.key()));
                fences.push(big(sign.fence.0));
                texts.push(serde_json::to_string(&progress).expect("progress is plain data"));
            }
        }
        if !jobs.is_empty() {
            tx.query(PUT_PROGRESS, &[&jobs, &fences, &texts]).await?;
        }
        Ok(())
    }
}

pub(super) struct Rescue {
    pub(super) judge: Judge,
}

const ALL_NODES: &str = "SELECT id, name, heartbeat, has_lock FROM nodes ORDER BY id";
/// Locks a node whose heartbeat is still the one that was read; another rescuer has it otherwise.
const LOCK_NODE: &str = "SELECT id FROM nodes WHERE id = $1 AND heartbeat = $2 \
     FOR UPDATE SKIP LOCKED";
const TAKE_NODE_LOCK: &str = "SELECT pg_try_advisory_xact_lock($1)";

impl Ask for Rescue {
    type Answer = Vec<Rescued>;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<Vec<Rescued>> {
        let mut rescued = Vec::new();
        for row in tx.query(ALL_NODES, &[]).await? {
            let (id, heartbeat): (i64, i64) = (row.try_get(0)?, row.try_get(2)?);
            let node = NodeId(key(id));
            let silent = tx.now.since(Time::from_millis(heartbeat));
            if !self.judge.suspects(node) || silent < SILENCE {
                continue;
            }
            let has_lock: bool = row.try_get(3)?;
            if silent < LEASE && !has_lock {
                continue;
            }
            if silent < LEASE {
                let taken = tx.query(TAKE_NODE_LOCK, &[&node_lock(node)]).await?;
                if !taken.first().map_or(Ok(false), |row| row.try_get(0))? {
                    continue;
                }
            }
            if tx.query(LOCK_NODE, &[&id, &heartbeat]).await?.is_empty() {
                continue;
            }
            rescued.push(tx.bury(node, row.try_get(1)?).await?);
        }
        Ok(rescued)
    }
}

pub(super) const LEASES_OF: &str = "SELECT job FROM (SELECT job FROM hot WHERE node = $1 OFFSET 0) AS leases \
     ORDER BY job";
const DROP_NODE: &str = "DELETE FROM nodes WHERE id = $1";

impl Tx<'_> {
    /// Takes its jobs from a node, and forgets it.
    async fn bury(&mut self, node: NodeId, name: String) -> Result<Rescued> {
        let id = big(node.0);
        // First, so that no claim of the node comes in between.
        self.query(DROP_NODE, &[&id]).await?;
        self.write_moves().await?;
        let rows = self.query(LEASES_OF, &[&id]).await?;
        let keys: Vec<u64> =
            rows.iter().map(|row| Ok(key(row.try_get(0)?))).collect::<Result<_>>()?;
        self.load(keys.iter().copied()).await?;
        let mut rescued = Rescued { node, name, n_ready: 0, n_ended: 0 };
        for key in keys {
            let Some(started) = self.jobs.get(&key).map(|it| it.started) else { continue };
            let left = Left { node, started, result: None, error: None };
            match self.transition(key, Command::OwnerLost, Some(left)).await? {
                Ok(StateName::Ready) => rescued.n_ready += 1,
                Ok(_) => rescued.n_ended += 1,
                Err(_) => {}
            }
        }
        self.tally.told.changed = true;
        Ok(rescued)
    }
}
