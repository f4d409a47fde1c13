//! What readers see after each step: jobs, counts, events, lists, attempts, logs; and what they
//! still see after a prune.

use taskloom_model::{JobId, StateName, Time};

use super::compare::{same, same_job};
use super::play::Play;
use super::world::{Known, Told};
use super::{draw, said};
use crate::{Event, EventCursor, Filter, Page, Prune};

type Compared = Result<(), String>;

fn told(it: &Event) -> Told {
    (it.kind, it.id, it.at, it.attempt)
}

impl Play {
    /// Compares what the last step touched and some more; with `everything`, all there is.
    pub(super) async fn compare(&mut self, everything: bool) -> Compared {
        let touched = std::mem::take(&mut self.world.touched);
        let known: Vec<JobId> = self.world.jobs.keys().copied().collect();
        let ids: Vec<JobId> = if everything {
            known
        } else {
            let others = (0..4).filter_map(|_| draw::one(&mut self.rng, &known));
            touched.iter().copied().chain(others.collect::<Vec<_>>()).collect()
        };
        self.compare_jobs(ids.clone()).await?;
        let counts = self.store.counts().await.map_err(said)?;
        same("counts", &counts, &self.world.counts())?;
        self.compare_events().await?;
        if everything {
            let breaches = self.store.verify().await.map_err(said)?;
            same("breaches", &breaches.as_slice(), &[].as_slice())?;
        }
        if everything || draw::chance(&mut self.rng, 20) {
            self.compare_list().await?;
        }
        let looked_at = if everything { ids } else { touched.into_iter().take(3).collect() };
        for id in looked_at {
            self.compare_history(id).await?;
        }
        let nodes = self.store.nodes().await.map_err(said)?;
        let beats: Vec<(_, Time)> = nodes.iter().map(|it| (it.id, it.heartbeat)).collect();
        let expected: Vec<_> = self.world.nodes.iter().map(|(id, at)| (*id, *at)).collect();
        same("heartbeats", &beats, &expected)
    }

    async fn compare_jobs(&self, ids: Vec<JobId>) -> Compared {
        let views = self.views(ids.clone()).await.map_err(said)?;
        for id in ids {
            match (views.get(&id), self.world.jobs.get(&id)) {
                (Some(view), Some(known)) => same_job(view, known)?,
                (view, known) => same(format!("job {id}"), &view.is_some(), &known.is_some())?,
            }
        }
        Ok(())
    }

    /// Reads on from the last event, in parts, to the end.
    async fn compare_events(&mut self) -> Compared {
        let mut heard = Vec::new();
        loop {
            let limit = self.rng.usize(1..=40);
            let read = self.store.events(self.cursor, limit).await.map_err(said)?;
            same("a gap in the events", &read.gap, &false)?;
            if limit < read.events.len() {
                return Err(format!("{} events, asked for {limit}", read.events.len()));
            }
            for event in &read.events {
                if event.offset < self.cursor.0 {
                    return Err(format!("{event:?} is before the cursor {:?}", self.cursor));
                }
                // An event that stands there twice is before this one.
                self.cursor = EventCursor(event.offset + 1);
                if let Some(known) = self.world.jobs.get(&event.id) {
                    same("the task of an event", &event.task, &known.new.task)?;
                    same("the queue of an event", &event.queue, &known.new.queue)?;
                }
            }
            if read.next < self.cursor {
                return Err(format!("{:?} goes back behind {:?}", read.next, self.cursor));
            }
            self.cursor = read.next;
            if read.events.is_empty() {
                break;
            }
            heard.extend(read.events.iter().map(told));
        }
        same("events", &heard.as_slice(), &&self.world.events[self.n_heard..])?;
        self.n_heard = self.world.events.len();
        self.summary.n_events += heard.len();
        Ok(())
    }

    /// Reads a filtered list page by page.
    async fn compare_list(&mut self) -> Compared {
        let rng = &mut self.rng;
        let n_states = rng.usize(..3);
        let states = (0..n_states).filter_map(|_| draw::one(rng, &StateName::ALL)).collect();
        let filter = Filter {
            states,
            queue: rng.bool().then(|| draw::queue(rng)),
            task: rng.bool().then(|| draw::task(rng)),
            key: draw::chance(rng, 20).then(|| draw::key(rng)),
        };
        let limit = rng.usize(1..=20);
        let fits = |it: &Known| {
            (filter.states.is_empty() || filter.states.contains(&it.job.state.name()))
                && filter.queue.as_deref().is_none_or(|queue| queue == &*it.new.queue)
                && filter.task.as_deref().is_none_or(|task| task == &*it.new.task)
                && filter.key.as_deref().is_none_or(|key| Some(key) == it.new.key.as_deref())
        };
        let fitting = self.world.jobs.iter().rev().filter(|(_, it)| fits(it));
        let expected: Vec<JobId> = fitting.map(|(id, _)| *id).collect();
        let mut listed = Vec::new();
        let mut before = None;
        loop {
            let page = Page { before, limit };
            let read = self.store.list(filter.clone(), page).await.map_err(said)?;
            if limit < read.jobs.len() {
                return Err(format!("a page of {}, asked for {limit}", read.jobs.len()));
            }
            listed.extend(read.jobs.iter().map(|it| it.id));
            match read.next {
                None => break,
                Some(next) if before.is_some_and(|it| it <= next) => {
                    return Err(format!("the list goes back to {next}"));
                }
                next => before = next,
            }
        }
        same(format!("the list by {filter:?}"), &listed, &expected)
    }

    async fn compare_history(&mut self, id: JobId) -> Compared {
        let attempts = self.store.attempts(id).await.map_err(said)?;
        let limit = self.rng.usize(1..=6);
        let logs = self.store.logs(id, limit).await.map_err(said)?;
        let Some(known) = self.world.jobs.get(&id) else {
            return same(format!("history of pruned {id}"), &(attempts, logs), &(vec![], vec![]));
        };
        same(format!("attempts of {id}"), &attempts, &known.attempts)?;
        let newest = known.logs.len().saturating_sub(limit);
        same(format!("logs of {id}"), &logs.as_slice(), &&known.logs[newest..])
    }

    /// Forgets what is old, on both sides.
    pub(super) async fn prune(&mut self) -> Compared {
        let now = self.world.now;
        let prune = Prune {
            succeeded_before: now - draw::secs(&mut self.rng, 100),
            failed_before: now - draw::secs(&mut self.rng, 100),
            events_before: now - draw::secs(&mut self.rng, 100),
            limit: self.rng.usize(1..=60),
        };
        let is_old = |it: &Known| {
            let failed = it.job.state.name() == StateName::Failed;
            let before = if failed { prune.failed_before } else { prune.succeeded_before };
            it.ended.is_some_and(|at| at < before)
        };
        let old: Vec<JobId> =
            self.world.jobs.iter().filter(|(_, it)| is_old(it)).map(|(id, _)| *id).collect();
        let pruned = self.store.prune(prune).await.map_err(said)?;
        same("pruned jobs", &pruned.n_jobs, &old.len().min(prune.limit))?;
        let left = self.views(old.clone()).await.map_err(said)?;
        same("old jobs that are left", &left.len(), &(old.len() - pruned.n_jobs))?;
        for id in old {
            if !left.contains_key(&id) {
                self.world.jobs.remove(&id);
                self.world.touched.insert(id);
            }
        }
        self.summary.n_pruned += pruned.n_jobs;
        self.young = self.young.max(prune.events_before);
        self.compare_kept_events().await
    }

    /// What is kept of the events is their end, with all that is young; and a gap is told.
    async fn compare_kept_events(&self) -> Compared {
        let read = self.store.events(EventCursor::START, usize::MAX >> 1).await.map_err(said)?;
        let all = &self.world.events;
        let Some(n_gone) = all.len().checked_sub(read.events.len()) else {
            return Err(format!("{} events, of {} there were", read.events.len(), all.len()));
        };
        let kept: Vec<_> = read.events.iter().map(told).collect();
        same("kept events", &kept.as_slice(), &&all[n_gone..])?;
        same("whether events are missing", &read.gap, &(0 < n_gone))?;
        let lost = all[..n_gone].iter().find(|(_, _, at, _)| self.young <= *at);
        same("young events that are lost", &lost, &None)
    }
}
