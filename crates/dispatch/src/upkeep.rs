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
