//! Upkeep: due jobs become ready, dead nodes lose their jobs, old things are forgotten.

use std::sync::Arc;
use std::time::Duration;

use taskloom_flow::{Cancellation, Every};
use taskloom_store::{Clock, NodeView, PROMOTE_MAX, Prune, Store};

use crate::Retention;
use crate::board::Board;

/// How often dead nodes are looked for.
const RESCUE_EVERY: Duration = Duration::from_secs(1);
/// How often old things are forgotten.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
/// How many jobs one prune forgets; short, so that it holds up nobody.
const PRUNE_BATCH: usize = 1_000;
/// The longest sleep before a due time is looked at again: the wall clock may have jumped.
const NAP_MAX: Duration = Duration::from_secs(1);

/// Makes due jobs ready, each at its time.
pub(crate) async fn promote_loop(store: Arc<dyn Store>, clock: Arc<dyn Clock>, stop: Cancellation) {
    let mut due = store.notices().due;
    loop {
        due.borrow_and_update();
        let nap = match store.promote().await {
            Ok(promoted) if PROMOTE_MAX <= promoted.n_moved => Some(Duration::ZERO),
            Ok(promoted) => promoted.next_due.map(|at| at.since(clock.now()).min(NAP_MAX)),
            Err(error) => {
                tracing::warn!(%error, code = error.code(), "due jobs could not be made ready");
                Some(NAP_MAX)
            }
        };
        let napped = async {
            match nap {
                Some(nap) => tokio::time::sleep(nap).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = stop.cancelled() => return,
            () = napped => {}
            changed = due.changed() => if changed.is_err() { return },
        }
    }
}

/// Takes their jobs from dead nodes, again and again.
pub(crate) async fn rescue_loop(store: Arc<dyn Store>, board: Arc<Board>, stop: Cancellation) {
    let mut every = Every::new(RESCUE_EVERY).first_after(RESCUE_EVERY);
    while stop.run(every.tick()).await.is_ok() {
        rescue(&*store, &board).await;
    }
}

/// Takes their jobs from dead nodes, once.
pub(crate) async fn rescue(store: &dyn Store, board: &Board) {
    if !board.may_judge() {
        return;
    }
    // A look costs no commit, and most nodes are alone.
    let is_alone = |nodes: Vec<NodeView>| nodes.iter().all(|it| it.id == board.node());
    if store.nodes().await.is_ok_and(is_alone) {
        return;
    }
    match store.rescue(Some(board.node())).await {
        Ok(rescued) => {
            for it in rescued {
                let (node, name) = (it.node.0, &*it.name);
                let (n_ready, n_ended) = (it.n_ready, it.n_ended);
                tracing::warn!(node, name, n_ready, n_ended, "rescued the jobs of a dead node");
            }
        }
        Err(error) => {
            tracing::warn!(%error, code = error.code(), "dead nodes could not be looked for");
        }
    }
}

/// Forgets what is older than the retention allows.
pub(crate) async fn prune_loop(
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    retention: Retention,
    stop: Cancellation,
) {
    let mut every = Every::new(PRUNE_EVERY).first_after(PRUNE_EVERY);
    while stop.run(every.tick()).await.is_ok() {
        loop {
            let now = clock.now();
            let pruned = store.prune(Prune {
                succeeded_before: now - retention.succeeded,
                failed_before: now - retention.failed,
                events_before: now - retention.events,
                limit: PRUNE_BATCH,
            });
            match pruned.await {
                Ok(pruned) if PRUNE_BATCH <= pruned.n_jobs && !stop.is_cancelled() => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, code = error.code(), "old jobs could not be forgotten");
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use taskloom_model::{NodeId, Time};
    use taskloom_store::sqlite::{SqliteOptions, SqliteStore};
    use taskloom_store::{Beat, ManualClock, NewNode};

    use super::*;
    use crate::heartbeat::Heart;

    /// Two nodes in one store, and the time of both.
    struct World {
        clock: Arc<ManualClock>,
        store: Arc<SqliteStore>,
        heart: Heart,
        other: NodeId,
    }

    impl World {
        async fn new() -> World {
            let clock = Arc::new(ManualClock::at(Time::from_millis(1_700_000_000_000)));
            let as_clock: Arc<dyn Clock> = Arc::clone(&clock) as Arc<dyn Clock>;
            let store = SqliteStore::in_memory(SqliteOptions::default(), as_clock);
            let store = Arc::new(store.expect("memory opens"));
            let node = NewNode { name: "it".into(), pid: 1, tasks: vec![] };
            let own = store.register(node.clone()).await.expect("it registers");
            let other = store.register(node.clone()).await.expect("it registers");
            let board = Arc::new(Board::new(own));
            let heart = Heart { store: Arc::clone(&store) as Arc<dyn Store>, board, node };
            World { clock, store, heart, other }
        }

        async fn pass(&self, time: Duration) {
            self.clock.advance(time);
            tokio::time::advance(time).await;
        }

        /// How many nodes there are after a rescue.
        async fn rescued(&self) -> usize {
            rescue(&*self.store, &self.heart.board).await;
            self.store.nodes().await.expect("it reads").len()
        }
    }

    const OUTAGE: Duration = Duration::from_secs(36);
    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn an_outage_over_the_lease_makes_nobody_look_dead() {
        let world = World::new().await;
        world.pass(OUTAGE).await;
        assert_eq!(world.rescued().await, 2, "it could not be heard itself");
        world.heart.beat().await;
        assert_eq!(world.rescued().await, 2, "the other had no time yet");
        world.pass(SECOND).await;
        world.heart.beat().await;
        assert_eq!(world.rescued().await, 2, "the other had no time yet");
        let signs = Vec::new();
        world.store.heartbeat(Beat { node: world.other, signs }).await.expect("it is heard");
        world.pass(3 * SECOND).await;
        assert_eq!(world.rescued().await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_stays_silent_is_rescued_after_the_lease() {
        let world = World::new().await;
        for _ in 0..29 {
            world.pass(SECOND).await;
            world.heart.beat().await;
            assert_eq!(world.rescued().await, 2);
        }
        world.pass(SECOND).await;
        assert_eq!(world.rescued().await, 1);
    }
}
