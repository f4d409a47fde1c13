//! Taking ready jobs: from the front of each lane, by priority, then age. Rows that another
//! process is taking are passed over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use futures::future::try_join_all;
use taskloom_model::{
    Command, Effect, Fence, Job, Life, NodeId, Priority, State, StateName, Time, apply,
};
use tokio_postgres::Row;

use super::Result;
use super::front::{RANKS_END, Ranges};
use super::lane::Ask;
use super::names::NEW_LANES;
use super::rows::{self, AWAITED, Loaded, Stored, big, count, key};
use super::session::Params;
use super::tx::Tx;
use crate::codec::Extra;
use crate::{Claimed, Demand, StoreError};

/// Demands of a node.
pub(super) struct Claim {
    pub(super) node: NodeId,
    pub(super) demands: Vec<Demand>,
}

impl Ask for Claim {
    type Answer = Vec<Claimed>;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<Vec<Claimed>> {
        tx.claim(self.node, &self.demands).await
    }
}

/// A node that is being rescued is locked, so a lease can't be given to it.
pub(super) const KNOWN_NODE: &str = "SELECT 1 FROM nodes WHERE id = $1 FOR KEY SHARE";
/// How many of the first ready jobs are in each lane.
pub(super) const FRONT: &str = "SELECT lane, count(*) FROM (SELECT l.lane, f.rank, f.job \
     FROM unnest($1::int[]) AS l(lane) CROSS JOIN LATERAL (SELECT rank, job FROM hot \
     WHERE state = 2 AND lane = l.lane ORDER BY rank, job + 0 LIMIT $2) AS f \
     ORDER BY f.rank, f.job LIMIT $2) AS front GROUP BY lane";
/// The same of ranges, and the first job of each that has one.
pub(super) const FRONT_RANGES: &str = "SELECT lane, rank, min(job), \
     count(*) FILTER (WHERE place <= $2) FROM (SELECT l.lane, l.rank, f.job, \
     row_number() OVER (ORDER BY l.rank, f.job) AS place \
     FROM unnest($1::int[], $3::smallint[], $4::bigint[], $5::bigint[]) \
     AS l(lane, rank, low, high) CROSS JOIN LATERAL (SELECT job FROM hot \
     WHERE state = 2 AND lane = l.lane AND rank = l.rank AND job + 0 >= l.low \
     AND job + 0 < l.high ORDER BY job + 0 LIMIT $2) AS f) AS front \
     GROUP BY lane, rank";
/// The newest key that was given to a job.
pub(super) const NEWEST_KEY: &str = "SELECT last_value FROM job_key";

/// A statement that gives a node the leases of the jobs that `$of` finds and locks.
macro_rules! claim {
    ($of:literal) => {
        concat!(
            "WITH taken AS (UPDATE hot SET state = 3, node = $3, started = $4, \
             fence = fence + 1, attempts = attempts + 1 WHERE job = ANY(ARRAY(",
            $of,
            ")) RETURNING job, fence, lane, rank, attempts, crashes, snoozes, flags) \
             SELECT t.job, t.fence, t.lane, t.rank, t.attempts, t.crashes, t.snoozes, t.flags, \
             j.created, j.policy, j.extra, j.args FROM taken t CROSS JOIN LATERAL \
             (SELECT created, policy, extra, args FROM jobs WHERE job = t.job OFFSET 0) AS j"
        )
    };
}
pub(super) const CLAIM: &str = claim!(
    "SELECT job FROM hot WHERE state = 2 AND lane = $1 \
     ORDER BY rank, job + 0 LIMIT $2 FOR UPDATE SKIP LOCKED"
);
/// From ranges, one after the other: what is behind the limit is neither read nor locked.
pub(super) const CLAIM_RANGES: &str = claim!(
    "SELECT f.job FROM unnest($1::int[], $5::smallint[], $6::bigint[], $7::bigint[]) \
     AS l(lane, rank, low, high) CROSS JOIN LATERAL (SELECT job FROM hot \
     WHERE state = 2 AND lane = l.lane AND rank = l.rank AND job + 0 >= l.low \
     AND job + 0 < l.high ORDER BY job + 0 FOR UPDATE SKIP LOCKED) AS f LIMIT $2"
);

/// By priority, then age: what RETURNING gives has no order of its own.
fn in_order(mut taken: Vec<Row>) -> Vec<Row> {
    taken.sort_unstable_by_key(|row| (row.get::<_, i16>(3), row.get::<_, i64>(0)));
    taken
}

/// The first job of each lane and rank, of rows that are in order.
fn first_of_ranks(rows: &[Row]) -> Result<BTreeMap<(i32, i16), i64>> {
    let mut firsts = BTreeMap::new();
    for row in rows {
        let (job, lane, rank): (i64, i32, i16) =
            (row.try_get(0)?, row.try_get(2)?, row.try_get(3)?);
        firsts.entry((lane, rank)).or_insert(job);
    }
    Ok(firsts)
}

impl Tx<'_> {
    pub(super) async fn claim(&mut self, node: NodeId, demands: &[Demand]) -> Result<Vec<Claimed>> {
        let mut claimed = Vec::new();
        if demands.iter().all(|it| it.n == 0) {
            return Ok(claimed);
        }
        let known = match self.met {
            Some((met, known)) if met == node => known,
            _ => self.meet(node, async { Ok(()) }).await?.0,
        };
        // A lease of a node that was taken for dead would have no owner.
        if !known {
            return Ok(claimed);
        }
        for (place, demand) in demands.iter().enumerate() {
            if 0 < demand.n {
                self.claim_one((node, place), demand, &mut claimed).await?;
            }
        }
        Ok(claimed)
    }

    /// Learns of new lanes and whether the node is known, in the round trip of `with`.
    pub(super) async fn meet<T>(
        &mut self,
        node: NodeId,
        with: impl Future<Output = Result<T>>,
    ) -> Result<(bool, T)> {
        self.session.prepare(&[NEW_LANES, KNOWN_NODE, CLAIM]).await?;
        let begin = self.begin();
        let (known_lanes, node_id) = (self.names.n_lanes(), big(node.0));
        let (lanes_params, node_params): (Params<'_>, Params<'_>) = (&[&known_lanes], &[&node_id]);
        // The node before the jobs, as a rescue locks them.
        let ((), lanes, known, with) = futures::try_join!(
            begin,
            self.session.query(NEW_LANES, lanes_params),
            self.session.query(KNOWN_NODE, node_params),
            with,
        )?;
        self.names.add_lanes(&lanes)?;
        self.met = Some((node, !known.is_empty()));
        Ok((!known.is_empty(), with))
    }

    async fn claim_one(
        &mut self,
        (node, place): (NodeId, usize),
        demand: &Demand,
        claimed: &mut Vec<Claimed>,
    ) -> Result<()> {
        let lanes = self.names.fitting(demand);
        let mut room = demand.n;
        while 0 < room && !lanes.is_empty() {
            // What ended in this transaction may have made others ready.
            self.write_moves().await?;
            let taken = match self.fronts.is_guarded() {
                true => self.take_guarded(node, &lanes, room).await?,
                false => self.take(node, &lanes, room).await?,
            };
            let n_before = claimed.len();
            let policies = taken.iter().map(|it| it.get(9));
            self.names.read_policies(self.session, policies).await?;
            for row in &taken {
                claimed.extend(self.lease((node, place), row).await?);
            }
            let n_claimed = claimed.len() - n_before;
            room -= n_claimed;
            // Those past their deadline failed instead; others may take their room.
            if n_claimed == taken.len() {
                break;
            }
        }
        Ok(())
    }

    /// Takes the first `n` jobs of `lanes`, in their order.
    async fn take(&mut self, node: NodeId, lanes: &[i32], n: usize) -> Result<Vec<Row>> {
        let n = big(n as u64);
        let fronts: Vec<(i32, i64)> = if let [only] = lanes {
            vec![(*only, n)]
        } else {
            let rows = self.query(FRONT, &[&lanes, &n]).await?;
            rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_>>()?
        };
        let (node, now) = (big(node.0), self.now.as_millis());
        let session = self.session;
        let begin = self.begin();
        let taking = fronts
            .iter()
            .map(|(lane, n)| async move { session.query(CLAIM, &[lane, n, &node, &now]).await });
        let ((), taken) = futures::try_join!(begin, try_join_all(taking))?;
        Ok(in_order(taken.into_iter().flatten().collect()))
    }

    /// The same where many dead rows lie before the first ready ones.
    async fn take_guarded(&mut self, node: NodeId, lanes: &[i32], n: usize) -> Result<Vec<Row>> {
        self.session.prepare(&[CLAIM_RANGES, FRONT_RANGES, NEWEST_KEY]).await?;
        let now = Instant::now();
        let mut taken = Vec::new();
        if let Some(window) = self.fronts.window(lanes, now) {
            taken = self.take_ranges(node, &window, n).await?;
            self.fronts.swept(now.elapsed(), taken.len());
        }
        let room = n - taken.len();
        if room == 0 {
            return Ok(in_order(taken));
        }
        let newest = match self.fronts.asks_for_newest(now) {
            true => {
                self.query(NEWEST_KEY, &[]).await?.first().map(|it| it.try_get(0)).transpose()?
            }
            false => None,
        };
        if let [only] = lanes {
            let rows = in_order(self.take_ahead(node, *only, room).await?);
            let firsts = first_of_ranks(&rows)?;
            // Ranks behind the last job were not looked at.
            let end = rows
                .last()
                .filter(|_| rows.len() == room)
                .map_or(Ok(RANKS_END), |it| it.try_get(3))?;
            self.fronts.saw((lanes, end), &firsts, (newest, now));
            taken.extend(rows);
            return Ok(in_order(taken));
        }
        let limit = big(room as u64);
        let Ranges { lanes: of, ranks, low, high } = self.fronts.ahead(lanes);
        let (mut firsts, mut fronts) = (BTreeMap::new(), BTreeMap::<i32, i64>::new());
        for row in self.query(FRONT_RANGES, &[&of, &limit, &ranks, &low, &high]).await? {
            let lane: i32 = row.try_get(0)?;
            firsts.insert((lane, row.try_get(1)?), row.try_get(2)?);
            *fronts.entry(lane).or_default() += row.try_get::<_, i64>(3)?;
        }
        self.fronts.saw((lanes, RANKS_END), &firsts, (newest, now));
        for (lane, n) in fronts.into_iter().filter(|it| 0 < it.1) {
            taken.extend(self.take_ahead(node, lane, usize::try_from(n).unwrap_or(0)).await?);
        }
        Ok(in_order(taken))
    }

    /// Takes the first `n` jobs of a lane that are at its front or ahead.
    async fn take_ahead(&mut self, node: NodeId, lane: i32, n: usize) -> Result<Vec<Row>> {
        let ahead = self.fronts.ahead(&[lane]);
        self.take_ranges(node, &ahead, n).await
    }

    async fn take_ranges(&mut self, node: NodeId, from: &Ranges, n: usize) -> Result<Vec<Row>> {
        let (n, node, now) = (big(n as u64), big(node.0), self.now.as_millis());
        let Ranges { lanes, ranks, low, high } = from;
        self.query(CLAIM_RANGES, &[lanes, &n, &node, &now, ranks, low, high]).await
    }

    /// Gives `node` the lease of a job that was taken, or fails the job when its deadline has
    /// passed.
    async fn lease(
        &mut self,
        (node, demand): (NodeId, usize),
        row: &Row,
    ) -> Result<Option<Claimed>> {
        let (job_key, rank): (u64, i16) = (key(row.try_get(0)?), row.try_get(3)?);
        let (lane, created): (i32, Time) = (row.try_get(2)?, Time::from_millis(row.try_get(8)?));
        let extra = rows::extra(row, 10)?;
        let policy = self.names.policy(row.try_get(9)?)?;
        // As it was before it was taken.
        let life = Life {
            attempts: count(row.try_get(4)?) - 1,
            crashes: count(row.try_get(5)?),
            snoozes: count(row.try_get(6)?),
            fence: Fence(key(row.try_get(1)?) - 1),
            cancel_requested: false,
        };
        let job = Job { state: State::Ready, rules: policy.rules(&extra), life };
        let flags: i16 = row.try_get(7)?;
        let Ok((leased, effects)) = apply(self.now, &job, Command::Claim { node }) else {
            self.expire((job_key, created, lane, rank), extra, (job, flags)).await?;
            return Ok(None);
        };
        self.tally.count((job_key, lane), StateName::Ready, -1);
        self.tally.count((job_key, lane), StateName::Running, 1);
        let Life { attempts, fence, .. } = leased.life;
        for effect in effects {
            if let Effect::Event(kind) = effect {
                self.tally.event(kind, (job_key, created, lane), attempts);
            }
        }
        let names = self.names.lane(lane)?;
        let level = u8::try_from(9 - rank).ok().and_then(|level| Priority::new(level).ok());
        let args: &str = row.try_get(11)?;
        Ok(Some(Claimed {
            id: self.job_id(job_key, created),
            demand,
            task: Arc::clone(&names.task),
            queue: Arc::clone(&names.queue),
            priority: level.ok_or_else(|| StoreError::Corrupt {
                why: format!("rank {rank} of job {job_key}"),
            })?,
            args: args.into(),
            fence,
            attempt: attempts,
            max_attempts: leased.rules.retry.max_attempts,
            timeout: policy.timeout(),
            deadline: leased.rules.deadline,
        }))
    }

    /// Fails a job that was taken too late, as it stood before.
    async fn expire(
        &mut self,
        (key, created, lane, rank): (u64, Time, i32, i16),
        extra: Extra,
        (job, flags): (Job, i16),
    ) -> Result<()> {
        let loaded = Loaded {
            key,
            created,
            lane,
            rank,
            extra,
            job,
            started: self.now,
            is_awaited: flags & AWAITED != 0,
            stored: Stored::Hot,
            // Its row says that it runs.
            is_dirty: true,
            last: None,
            ended_here: false,
        };
        self.jobs.insert(key, loaded);
        self.transition(key, Command::Expire, None).await?.ok();
        Ok(())
    }
}
