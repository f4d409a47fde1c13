//! The steps of nodes: they come, give signs of life, give jobs back, die, and go.

use taskloom_model::{Command, Fence, JobId, NodeId, Outcome, Roll, Time};

use super::compare::same;
use super::play::Play;
use super::{LEASE, draw, said};
use crate::{Beat, Clock, Judge, NewNode, ProgressView, Rescued, Sign};

type Played = Result<(), String>;

impl Play {
    pub(super) async fn release(&mut self) -> Played {
        let Some(first) = self.any_lease() else { return Ok(()) };
        let (node, id, fence) = first;
        self.store.release(node, vec![(id, fence)]).await.map_err(said)?;
        self.release_one(id, fence);
        Ok(())
    }

    fn release_one(&mut self, id: JobId, fence: Fence) {
        let command = Command::Finish { fence, outcome: Outcome::Interrupted, roll: Roll(0.0) };
        // A lease that was lost is nothing to give back.
        self.world.transition(id, command, None).ok();
    }

    pub(super) async fn beat(&mut self, node: NodeId) -> Played {
        let now = self.world.now;
        let mut signs = Vec::new();
        for (id, fence) in self.world.running(Some(node)) {
            if self.rng.bool() {
                let progress = (f64::from(self.rng.u8(..)) / 256.0, "on its way".to_owned());
                let logs = draw::logs(&mut self.rng, now);
                signs.push(Sign { id, fence, progress: Some(progress), logs });
            }
        }
        let beat = Beat { node, signs: signs.clone() };
        let mut answer = self.store.heartbeat(beat).await.map_err(said)?;
        let is_known = self.world.nodes.contains_key(&node);
        same("evicted", &answer.evicted, &!is_known)?;
        let mut asked = self.world.running(Some(node));
        asked.retain(|(id, _)| {
            self.world.jobs.get(id).is_some_and(|it| it.job.life.cancel_requested)
        });
        answer.cancel.sort();
        same("asked to end", &answer.cancel, &asked)?;
        if is_known {
            self.world.nodes.insert(node, now);
        }
        for Sign { id, fence, progress, logs } in signs {
            self.keep_logs(id, fence, &logs);
            self.world.touched.insert(id);
            if let (Some(known), Some((fraction, message))) =
                (self.world.jobs.get_mut(&id), progress)
            {
                known.progress = Some(ProgressView { fraction, message });
            }
        }
        Ok(())
    }

    /// A lease passes in which only some nodes give signs of life; then the dead are rescued.
    pub(super) async fn silence(&mut self) -> Played {
        for part in 0..2 {
            self.clock.advance(LEASE / 2);
            self.world.now = self.clock.now();
            let nodes: Vec<_> = self.world.nodes.keys().copied().collect();
            for node in nodes {
                if draw::chance(&mut self.rng, if part == 0 { 50 } else { 40 }) {
                    self.beat(node).await?;
                }
            }
        }
        let asking = self.rng.bool().then(|| self.any_node());
        let rescued = self.store.rescue(Judge::of_all(asking)).await.map_err(said)?;
        let is_late = |at: Time| LEASE <= self.world.now.since(at);
        let dead: Vec<_> =
            self.world.nodes.iter().filter(|(_, at)| is_late(**at)).map(|(it, _)| *it).collect();
        let mut expected = Vec::new();
        for node in dead.into_iter().filter(|it| Some(*it) != asking) {
            let (n_ready, n_ended) = self.world.bury(node);
            self.summary.n_rescued += n_ready + n_ended;
            self.ghosts.push(node);
            expected.push(Rescued { node, name: "here".into(), n_ready, n_ended });
        }
        same("rescued", &rescued, &expected)
    }

    pub(super) async fn register(&mut self) -> Played {
        if 4 <= self.world.nodes.len() {
            return Ok(());
        }
        let node = NewNode { name: "here".into(), pid: 1, tasks: Vec::new() };
        let id = self.store.register(node).await.map_err(said)?;
        if self.ghosts.contains(&id) || self.world.nodes.insert(id, self.world.now).is_some() {
            return Err(format!("the id of node {id} was given before"));
        }
        Ok(())
    }

    /// A node goes. Mostly it gives everything back first; what it keeps is taken from it.
    pub(super) async fn retire(&mut self) -> Played {
        let node = self.any_node();
        let leases = self.world.running(Some(node));
        if draw::chance(&mut self.rng, 70) {
            self.store.release(node, leases.clone()).await.map_err(said)?;
            for (id, fence) in leases {
                self.release_one(id, fence);
            }
        }
        self.store.retire(node).await.map_err(said)?;
        self.world.bury(node);
        self.ghosts.push(node);
        Ok(())
    }
}
