//! Recording what became of attempts, and what people want of jobs.

use taskloom_model::{
    Command, Effect, Fence, Job, JobId, Life, NodeId, Outcome, Refusal, Roll, Rules, State,
    StateName, apply,
};

use super::Result;
use super::lane::Ask;
use super::rows::{big, count, key};
use super::session::Params;
use super::tx::{Left, Moved, Tx};
use crate::keys::KeyMap;
use crate::{Changed, Demand, Finish, Finished};

/// Ended attempts, and the demands for the next ones.
pub(super) struct FinishAndClaim {
    pub(super) node: NodeId,
    pub(super) ended: Vec<Finish>,
    pub(super) demands: Vec<Demand>,
}

impl Ask for FinishAndClaim {
    type Answer = Finished;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<Finished> {
        let outcomes = tx.finish(self.node, &self.ended).await?;
        let claimed = tx.claim(self.node, &self.demands).await?;
        Ok(Finished { outcomes, claimed })
    }
}

/// Leases of attempts that never began.
pub(super) struct Release {
    pub(super) leases: Vec<(JobId, Fence)>,
}

impl Ask for Release {
    type Answer = ();

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<()> {
        tx.load_ids(self.leases.iter().map(|it| it.0)).await?;
        for &(id, fence) in &self.leases {
            let Some(job) = tx.find(id).map(|it| it.key) else { continue };
            let command = Command::Finish { fence, outcome: Outcome::Interrupted, roll: Roll(0.0) };
            // No `Left`: an attempt that never began leaves no record.
            if let Err(refusal) = tx.transition(job, command, None).await? {
                tracing::debug!(%id, ?fence, %refusal, "released a lease that was lost");
            }
        }
        Ok(())
    }
}

/// A command on some jobs, by somebody.
pub(super) struct Change {
    pub(super) ids: Vec<JobId>,
    pub(super) command: Command,
}

impl Ask for Change {
    type Answer = Vec<Changed>;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<Vec<Changed>> {
        tx.load_ids(self.ids.iter().copied()).await?;
        let mut changed = Vec::with_capacity(self.ids.len());
        for &id in &self.ids {
            let Some(job) = tx.find(id).map(|it| it.key) else {
                changed.push(Changed::Unknown);
                continue;
            };
            changed.push(match tx.transition(job, self.command, None).await? {
                Ok(state) => Changed::Now(state),
                Err(refusal) => Changed::Refused(refusal),
            });
        }
        Ok(changed)
    }
}

/// Successes of jobs that hold nothing and that nobody waits for, in one statement. A job that
/// does, or whose lease was lost, stays.
pub(super) const FINISH: &str = "WITH gone AS (DELETE FROM hot h \
     USING unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[]) \
     AS e(job, fence, started, result) \
     WHERE h.job = ANY(ARRAY[e.job]) AND h.fence = e.fence AND h.state = 3 AND h.flags = 0 \
     RETURNING h.job, h.fence, h.lane, h.attempts, h.crashes, h.snoozes, e.started, e.result), \
     put AS (INSERT INTO ended (job, at, fence, node, started, attempts, crashes, snoozes, state, \
     outcome, result) SELECT job, $5::bigint, fence, $6::bigint, started, attempts, crashes, snoozes, 5, 0, \
     result FROM gone) \
     SELECT job, lane, attempts, crashes, snoozes FROM gone";

/// A job that has ended by [`FINISH`]: its lane, and its life until then.
type Plain = (i32, Life);

impl Tx<'_> {
    pub(super) async fn finish(&mut self, node: NodeId, ended: &[Finish]) -> Result<Vec<Moved>> {
        let mut seen: KeyMap<usize> = KeyMap::default();
        for (place, finish) in ended.iter().enumerate() {
            seen.entry(finish.id.key()).or_insert(place);
        }
        // Of an attempt that is told of twice, the second time is refused by what the first did.
        let is_plain = |(place, it): &(usize, &Finish)| {
            it.outcome == Outcome::Succeeded
                && it.logs.is_empty()
                && it.id.salt() == self.salt
                && seen.get(&it.id.key()) == Some(place)
        };
        let plain: Vec<&Finish> =
            ended.iter().enumerate().filter(is_plain).map(|it| it.1).collect();
        let done = self.finish_plain(node, plain).await?;
        let first = |(place, it): &(usize, &Finish)| seen.get(&it.id.key()) == Some(place);
        let rest = ended.iter().enumerate();
        let rest = rest.filter(|it| !(first(it) && done.contains_key(&it.1.id.key())));
        self.load_ids(rest.map(|it| it.1.id)).await?;
        let mut moved = Vec::with_capacity(ended.len());
        for (place, finish) in ended.iter().enumerate() {
            let plain = done.get(&finish.id.key()).filter(|_| first(&(place, finish)));
            moved.push(match plain {
                Some(&plain) => self.finished(node, finish, plain),
                None => self.finish_one(node, finish).await?,
            });
        }
        Ok(moved)
    }

    async fn finish_plain(
        &mut self,
        node: NodeId,
        mut plain: Vec<&Finish>,
    ) -> Result<KeyMap<Plain>> {
        let mut done = KeyMap::default();
        if plain.is_empty() {
            return Ok(done);
        }
        // What an earlier call of this transaction has done to them.
        self.write_moves().await?;
        // Everybody locks in the order of the keys.
        plain.sort_unstable_by_key(|it| it.id.key());
        let jobs: Vec<i64> = plain.iter().map(|it| big(it.id.key())).collect();
        let fences: Vec<i64> = plain.iter().map(|it| big(it.fence.0)).collect();
        let started: Vec<i64> = plain.iter().map(|it| it.started.as_millis()).collect();
        let results: Vec<Option<&str>> = plain.iter().map(|it| it.result.as_deref()).collect();
        let (now, by) = (self.now.as_millis(), big(node.0));
        self.session.prepare(&[FINISH]).await?;
        let session = self.session;
        let params: Params<'_> = &[&jobs, &fences, &started, &results, &now, &by];
        // A claim comes next, mostly.
        let (_, rows) = self.meet(node, session.query(FINISH, params)).await?;
        for row in &rows {
            let life = Life {
                attempts: count(row.try_get(2)?),
                crashes: count(row.try_get(3)?),
                snoozes: count(row.try_get(4)?),
                ..Life::default()
            };
            done.insert(key(row.try_get(0)?), (row.try_get(1)?, life));
        }
        Ok(done)
    }

    /// Notes what goes with a job that has ended by [`FINISH`].
    fn finished(&mut self, node: NodeId, finish: &Finish, (lane, life): Plain) -> Moved {
        let Finish { fence, outcome, roll, .. } = *finish;
        let life = Life { fence, ..life };
        let job = Job { state: State::Running { node }, rules: Rules::default(), life };
        let (job, effects) = apply(self.now, &job, Command::Finish { fence, outcome, roll })?;
        let (key, created) = (finish.id.key(), finish.id.created());
        self.tally.count((key, lane), StateName::Running, -1);
        self.tally.count((key, lane), job.state.name(), 1);
        for effect in effects {
            if let Effect::Event(kind) = effect {
                self.tally.event(kind, (key, created, lane), job.life.attempts);
            }
        }
        Ok(job.state.name())
    }

    async fn finish_one(&mut self, node: NodeId, finish: &Finish) -> Result<Moved> {
        let Some(key) = self.find(finish.id).map(|it| it.key) else {
            return Ok(Err(Refusal::AlreadyFinished));
        };
        let left = Left {
            node,
            started: finish.started,
            result: finish.result.as_deref(),
            error: finish.error.as_ref(),
        };
        let Finish { fence, outcome, roll, .. } = *finish;
        let command = Command::Finish { fence, outcome, roll };
        let moved = self.transition(key, command, Some(left)).await?;
        if moved.is_ok() {
            self.log(key, fence, &finish.logs);
        }
        Ok(moved)
    }
}
