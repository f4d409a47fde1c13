//! Upkeep: due jobs become ready, dead nodes lose their jobs, old things are forgotten.

use std::sync::Arc;
use std::time::Duration;

use taskloom_flow::{Cancellation, Every};
use taskloom_store::{Clock, Judge, PROMOTE_MAX, Prune, Store, StoreError};
use tokio::time::Instant;

use crate::Retention;
use crate::board::Board;
use crate::health::Watched;
use crate::watch::Watch;

/// How often dead nodes are looked for.
const RESCUE_EVERY: Duration = Duration::from_secs(1);
/// How often old things are forgotten.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
/// How many jobs one prune forgets; short, so that it holds up nobody.
const PRUNE_BATCH: usize = 1_000;
/// The longest sleep before a due time is looked at again: the wall clock may have jumped.
const NAP_MAX: Duration = Duration::from_secs(1);

/// Makes due jobs ready, each at its time.
pub(crate) async fn promote_loop(
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    part: Watched,
    stop: Cancellation,
) {
    let mut due = store.notices().due;
    loop {
        due.borrow_and_update();
        part.begins();
        let promoted = store.promote().await;
        part.went(&promoted);
        let nap = match promoted {
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
pub(crate) async fn rescue_loop(
    store: Arc<dyn Store>,
    board: Arc<Board>,
    mut watch: Watch,
    part: Watched,
    stop: Cancellation,
) {
    let mut every = Every::new(RESCUE_EVERY).first_after(RESCUE_EVERY);
    while stop.run(every.tick()).await.is_ok() {
        part.begins();
        part.went(&rescue(&*store, &board, &mut watch).await);
    }
}

/// Takes their jobs from dead nodes, once.
pub(crate) async fn rescue(
    store: &dyn Store,
    board: &Board,
    watch: &mut Watch,
) -> Result<(), StoreError> {
    let rescued = try_rescue(store, board, watch).await;
    if let Err(error) = &rescued {
        tracing::warn!(%error, code = error.code(), "dead nodes could not be looked for");
    }
    rescued
}

async fn try_rescue(store: &dyn Store, board: &Board, watch: &mut Watch) -> Result<(), StoreError> {
    if !board.may_judge() {
        watch.blind();
        return Ok(());
    }
    let nodes = store.nodes().await.inspect_err(|_| watch.blind())?;
    let silent = watch.look(&nodes, Instant::now());
    // A look costs no commit, and most nodes are alone.
    if nodes.iter().all(|it| it.id == board.node()) {
        return Ok(());
    }
    let judge = Judge { asking: Some(board.node()), silent: Some(silent) };
    for it in store.rescue(judge).await? {
        let (node, name) = (it.node.0, &*it.name);
        let (n_ready, n_ended) = (it.n_ready, it.n_ended);
        tracing::warn!(node, name, n_ready, n_ended, "rescued the jobs of a dead node");
    }
    Ok(())
}

/// Forgets what is older than the retention allows.
pub(crate) async fn prune_loop(
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    retention: Retention,
    part: Watched,
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
            part.begins();
            let pruned = pruned.await;
            part.went(&pruned);
            match pruned {
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
    use parking_lot::Mutex;
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
        watch: Mutex<Watch>,
    }

    impl World {
        async fn new() -> World {
            let clock = Arc::new(ManualClock::at(Time::from_millis(1_700_000_000_000)));
            let as_clock: Arc<dyn Clock> = Arc::clone(&clock) as Arc<dyn Clock>;
            let store = SqliteStore::in_memory(SqliteOptions::default(), Arc::clone(&as_clock));
            let store = Arc::new(store.expect("memory opens"));
            let node = NewNode { name: "it".into(), pid: 1, tasks: vec![] };
            let own = store.register(node.clone()).await.expect("it registers");
            let other = store.register(node.clone()).await.expect("it registers");
            let board = Arc::new(Board::new(own));
            let part = Watched::new("heartbeat", &as_clock);
            let heart = Heart { store: Arc::clone(&store) as Arc<dyn Store>, board, node, part };
            World { clock, store, heart, other, watch: Mutex::default() }
        }

        async fn pass(&self, time: Duration) {
            self.clock.advance(time);
            tokio::time::advance(time).await;
        }

        /// How many nodes there are after a rescue.
        async fn rescued(&self) -> usize {
            let mut watch = std::mem::take(&mut *self.watch.lock());
            rescue(&*self.store, &self.heart.board, &mut watch).await.expect("it looks");
            *self.watch.lock() = watch;
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

    #[tokio::test(start_paused = true)]
    async fn a_node_that_starts_after_an_outage_judges_nobody_whose_silence_it_has_not_seen() {
        let mut world = World::new().await;
        world.clock.advance(OUTAGE);
        let own = world.store.register(world.heart.node.clone()).await.expect("it registers");
        world.heart.board = Arc::new(Board::new(own));
        assert_eq!(world.rescued().await, 3, "the others had no time yet");
        let signs = Vec::new();
        world.store.heartbeat(Beat { node: world.other, signs }).await.expect("it is heard");
        for _ in 0..2 {
            world.pass(SECOND).await;
            world.heart.beat().await;
            assert_eq!(world.rescued().await, 3);
        }
        world.pass(SECOND).await;
        world.heart.beat().await;
        assert_eq!(world.rescued().await, 2, "only the one that was heard is left with it");
    }
}
