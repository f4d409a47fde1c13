//! A store that goes wrong by the seed: errors before the commit, answers lost after it, slow
//! calls, and the gate of the program that calls.
//!
//! Each program has its own, around one SQLite store in memory. What is committed is told to the
//! book in the same breath, before anybody else can commit.

use std::sync::Arc;

use futures::FutureExt;
use taskloom_model::{Fence, JobId, NodeId};
use taskloom_store::{
    Accepted, Answer, AttemptView, Beat, Breach, Changed, Claimed, Clock, Count, Demand,
    EventCursor, Events, Filter, Finish, Finished, JobView, Judge, Listed, LogView, NewJob,
    NewNode, NodeView, Notices, Page, Promoted, Prune, Pruned, Rescued, Store, StoreError,
    StoreInfo, Verb,
};

use crate::book::SharedBook;
use crate::deed::{Deed, Work};
use crate::gate::Gate;
use crate::relay::Relay;
use crate::weather::Weather;

#[derive(Debug)]
pub(crate) struct FaultyStore {
    pub(crate) inner: Arc<dyn Store>,
    pub(crate) relay: Arc<Relay>,
    pub(crate) weather: Arc<Weather>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) book: SharedBook,
    /// Whose calls these are; 0 is the operator.
    pub(crate) view: usize,
}

/// What every call of a simulated fault says.
fn fault() -> StoreError {
    StoreError::Database("a fault of the simulation".into())
}

/// A call that panics ends the routine that made it, which no group would tell us of.
struct NoPanic<'a>(&'a FaultyStore, &'static str);

impl Drop for NoPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.book.lock().promise(false, || format!("{} panics", self.1));
        }
    }
}

impl FaultyStore {
    /// Makes a call, with whatever goes wrong. `note` takes note of what was committed.
    async fn call<T>(
        &self,
        verb: &'static str,
        call: impl Future<Output = Result<T, StoreError>>,
        note: impl FnOnce(&T),
    ) -> Result<T, StoreError> {
        let _no_panic = NoPanic(self, verb);
        self.gate.pass().await;
        let is_over = self.book.lock().broken().is_some();
        if is_over {
            // Programs that would go round for ever stand still, and the history can end.
            std::future::pending::<()>().await;
        }
        let fate = self.weather.fate();
        let is_slow = !(fate.before.is_zero() && fate.after.is_zero());
        self.book.lock().summary.n_slow_calls += u64::from(is_slow);
        self.weather.delay(fate.before).await;
        self.gate.pass().await;
        if fate.is_refused {
            self.trouble(verb, "is refused");
            self.book.lock().summary.n_errors += 1;
            return Err(fault());
        }
        let answer = at_once(call);
        self.relay.pass_on();
        match &answer {
            Ok(answer) => note(answer),
            Err(error) => self.trouble(verb, error.code()),
        }
        self.weather.delay(fate.after).await;
        self.gate.pass().await;
        if fate.is_answer_lost {
            self.trouble(verb, "loses its answer");
            self.book.lock().summary.n_lost_answers += 1;
            return Err(fault());
        }
        answer
    }

    fn trouble(&self, verb: &str, what: &str) {
        let mut book = self.book.lock();
        book.tell(&format!("program {}: {verb} {what}", self.view));
        book.views.entry(self.view).or_default().is_troubled = true;
    }

    fn committed(&self, verb: &str, deed: &Deed<'_>) {
        let cursor = EventCursor(self.book.lock().n_events + 1);
        let events = at_once(self.inner.events(cursor, usize::MAX));
        let mut book = self.book.lock();
        match events {
            Ok(events) => {
                let is_quiet = matches!(deed, Deed::Heartbeat { .. } | Deed::Promote | Deed::Prune);
                if !is_quiet || !events.events.is_empty() {
                    book.tell(&format!("program {}: {verb}", self.view));
                }
                book.promise(!events.gap, || "events are gone".into());
                book.commit(deed, &events.events);
            }
            Err(error) => book.promise(false, || format!("the events can't be read: {error}")),
        }
    }

    async fn work(
        &self,
        node: NodeId,
        ended: Vec<Finish>,
        demands: Vec<Demand>,
    ) -> Result<Finished, StoreError> {
        let verb = if ended.is_empty() { "claim" } else { "finish" };
        let view = self.view;
        let asks = demands.iter().any(|it| 0 < it.n);
        {
            let mut book = self.book.lock();
            let drains = book.views.get(&view).is_some_and(|it| it.is_draining);
            book.promise(!(asks && drains), || format!("program {view} drains and asks for jobs"));
        }
        let call = self.inner.finish(node, ended.clone(), demands.clone());
        let note = |finished: &Finished| {
            let (outcomes, claimed) = (&finished.outcomes, &finished.claimed);
            let (ended, demands) = (&ended, &demands);
            let work = Work { view, node, ended, outcomes, demands, claimed };
            self.committed(verb, &Deed::Work(work));
        };
        let mut finished = self.call(verb, call, note).await?;
        for it in &mut finished.claimed {
            // The only way to tell a body which lease it runs under.
            it.args = Arc::from(format!("{{\"fence\":{}}}", it.fence.0));
        }
        self.book.lock().deliver(view, &finished.claimed);
        Ok(finished)
    }
}

/// Has a store in memory do what it is asked: it never waits, so nobody comes in between.
fn at_once<T>(call: impl Future<Output = T>) -> T {
    let done = tokio::task::unconstrained(call).now_or_never();
    done.expect("a store in memory does not wait")
}

/// Calls that only read.
macro_rules! reads {
    ($($verb:ident($($arg:ident: $kind:ty),*) -> $answer:ty;)*) => {
        $(fn $verb(&self, $($arg: $kind),*) -> Verb<'_, $answer> {
            Box::pin(self.call(stringify!($verb), self.inner.$verb($($arg),*), |_| {}))
        })*
    };
}

impl Store for FaultyStore {
    fn submit(&self, jobs: Vec<NewJob>) -> Verb<'_, Vec<Accepted>> {
        Box::pin(async move {
            let note = |accepted: &Vec<Accepted>| {
                self.committed("submit", &Deed::Submit { jobs: &jobs, accepted });
            };
            self.call("submit", self.inner.submit(jobs.clone()), note).await
        })
    }

    fn claim(&self, node: NodeId, demands: Vec<Demand>) -> Verb<'_, Vec<Claimed>> {
        Box::pin(async move { Ok(self.work(node, Vec::new(), demands).await?.claimed) })
    }

    fn finish(&self, node: NodeId, ended: Vec<Finish>, demands: Vec<Demand>) -> Verb<'_, Finished> {
        Box::pin(self.work(node, ended, demands))
    }

    fn release(&self, node: NodeId, leases: Vec<(JobId, Fence)>) -> Verb<'_, ()> {
        let call = self.inner.release(node, leases);
        Box::pin(self.call("release", call, |()| self.committed("release", &Deed::Release)))
    }

    fn register(&self, node: NewNode) -> Verb<'_, NodeId> {
        let view = self.view;
        Box::pin(async move {
            let note = |&node: &NodeId| self.committed("register", &Deed::Register { node });
            let node = self.call("register", self.inner.register(node), note).await?;
            self.book.lock().hear_registered(view, node);
            Ok(node)
        })
    }

    fn retire(&self, node: NodeId) -> Verb<'_, ()> {
        let note = move |(): &()| self.committed("retire", &Deed::Retire { node });
        Box::pin(self.call("retire", self.inner.retire(node), note))
    }

    fn heartbeat(&self, beat: Beat) -> Verb<'_, Answer> {
        Box::pin(async move {
            let node = beat.node;
            let note = |answer: &Answer| {
                self.committed("heartbeat", &Deed::Heartbeat { node, answer });
            };
            let answer = self.call("heartbeat", self.inner.heartbeat(beat), note).await?;
            if answer.evicted {
                self.book.lock().hear_evicted(self.view, node);
            }
            Ok(answer)
        })
    }

    fn promote(&self) -> Verb<'_, Promoted> {
        let note = |_: &Promoted| self.committed("promote", &Deed::Promote);
        Box::pin(self.call("promote", self.inner.promote(), note))
    }

    fn rescue(&self, judge: Judge) -> Verb<'_, Vec<Rescued>> {
        let note = |rescued: &Vec<Rescued>| self.committed("rescue", &Deed::Rescue { rescued });
        Box::pin(self.call("rescue", self.inner.rescue(judge), note))
    }

    fn cancel(&self, ids: Vec<JobId>) -> Verb<'_, Vec<Changed>> {
        Box::pin(async move {
            let note = |changed: &Vec<Changed>| {
                self.committed("cancel", &Deed::Cancel { ids: &ids, changed });
            };
            self.call("cancel", self.inner.cancel(ids.clone()), note).await
        })
    }

    fn retry(&self, ids: Vec<JobId>) -> Verb<'_, Vec<Changed>> {
        Box::pin(async move {
            let note = |changed: &Vec<Changed>| {
                self.committed("retry", &Deed::Retry { ids: &ids, changed });
            };
            self.call("retry", self.inner.retry(ids.clone()), note).await
        })
    }

    fn prune(&self, prune: Prune) -> Verb<'_, Pruned> {
        let note = |_: &Pruned| self.committed("prune", &Deed::Prune);
        Box::pin(self.call("prune", self.inner.prune(prune), note))
    }

    reads! {
        get(ids: Vec<JobId>) -> Vec<Option<JobView>>;
        list(filter: Filter, page: Page) -> Listed;
        attempts(id: JobId) -> Vec<AttemptView>;
        logs(id: JobId, limit: usize) -> Vec<LogView>;
        events(cursor: EventCursor, limit: usize) -> Events;
        counts() -> Vec<Count>;
        nodes() -> Vec<NodeView>;
    }

    fn verify(&self) -> Verb<'_, Vec<Breach>> {
        self.inner.verify()
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.inner.clock()
    }

    fn notices(&self) -> Notices {
        self.relay.notices()
    }

    fn info(&self) -> StoreInfo {
        self.inner.info()
    }
}
