//! Giving back: what a node has claimed and does not run goes back to the store, so that no job
//! waits for a node that has forgotten it.

use std::collections::BTreeSet;
use std::time::Duration;

use taskloom_flow::TaskGroup;
use taskloom_model::{Fence, JobId, NodeId, StateName};
use taskloom_store::{Filter, Page, Store, StoreError};

use super::Dispatcher;
use crate::attempt::interrupted;
use crate::pool::Pool;

impl Dispatcher {
    /// The leases that this node knows of: under way, waiting for a slot, or not yet recorded.
    pub(super) fn known(&self) -> BTreeSet<(JobId, Fence)> {
        let ended = self.to_finish.iter().map(|it| (it.id, it.fence));
        let waiting = self.pools.iter().flat_map(Pool::waiting);
        self.board.ids().into_iter().chain(ended).chain(waiting).collect()
    }

    /// Gives back what was claimed and has not begun.
    pub(super) async fn give_back_waiting(&mut self) {
        let waiting: Vec<(JobId, Fence)> = self
            .pools
            .iter_mut()
            .flat_map(Pool::take_waiting)
            .map(|it| (it.id, it.fence))
            .collect();
        if waiting.is_empty() {
            return;
        }
        let node = self.board.node();
        if let Err(error) = self.store.release(node, waiting).await {
            // The rescue of this node gives them back, at the price of a crash.
            tracing::error!(%error, code = error.code(), "claimed jobs could not be given back");
        }
    }

    /// The last step of a drain: attempts that ignored the wish to end are given back.
    pub(super) async fn abandon(&mut self) {
        if let Some(call) = &mut self.call {
            // What it claims must be given back too, or it would count as a crash.
            let answer = (&mut call.answer).await;
            self.answered(answer);
        }
        self.give_back_waiting().await;
        // Whoever claims one of them next must find nobody at it: async bodies are dropped before
        // the store hears of it. A thread can't be.
        let attempts = std::mem::replace(&mut self.attempts, TaskGroup::isolated());
        attempts.drain(Duration::ZERO).await;
        let mut batch = Vec::new();
        while let Ok(ended) = self.ended_out.try_recv() {
            batch.push(ended);
        }
        self.ended(&mut batch);
        let left = self.board.ids();
        if left.is_empty() && self.to_finish.is_empty() {
            return;
        }
        tracing::warn!(n = left.len(), "attempts that still run are given back");
        let now = self.clock.now();
        let mut ended = std::mem::take(&mut self.to_finish);
        ended.extend(left.into_iter().map(|(id, fence)| interrupted(id, fence, now)));
        if let Err(error) = self.store.finish(self.board.node(), ended, Vec::new()).await {
            tracing::error!(%error, code = error.code(), "the last outcomes could not be recorded");
        }
    }
}

/// Gives back what the store holds as claimed by this node and the node has never heard of: the
/// answer of a claim was lost.
pub(super) async fn release_unknown(
    store: &dyn Store,
    node: NodeId,
    known: &BTreeSet<(JobId, Fence)>,
) -> Result<(), StoreError> {
    let filter = Filter { states: vec![StateName::Running], ..Filter::default() };
    let mut page = Page { before: None, limit: Page::LIMIT_MAX };
    let mut unknown = Vec::new();
    loop {
        let listed = store.list(filter.clone(), page).await?;
        let ours = listed.jobs.iter().filter(|it| it.node == Some(node));
        unknown.extend(ours.map(|it| (it.id, it.fence)).filter(|it| !known.contains(it)));
        let Some(next) = listed.next else { break };
        page.before = Some(next);
    }
    if unknown.is_empty() {
        return Ok(());
    }
    tracing::warn!(n = unknown.len(), "claimed jobs whose claim was lost are given back");
    store.release(node, unknown).await
}
