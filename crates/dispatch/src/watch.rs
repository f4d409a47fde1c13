//! Which nodes have fallen silent before our eyes.
//!
//! The store tells when a node gave its last sign of life, and not whether it could have given one
//! since. A node that starts when the store is back after an outage, or that was without the store
//! itself, finds old signs of nodes that live. So only a sign that stands still while this node
//! looks again and again means anything, by this node's own clock.

use std::collections::BTreeMap;
use std::time::Duration;

use taskloom_model::{NodeId, Time};
use taskloom_store::NodeView;
use tokio::time::Instant;

/// How long a sign of life must stand still: over two beats, so that the third look a second after
/// the first one sees it, even when it comes a little early.
const STILL: Duration = Duration::from_millis(2_500);
/// The longest time between two looks: over it, something may have kept others from the store.
const GAP_MAX: Duration = Duration::from_secs(2);

/// The last signs of life that were seen.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Since when each node's last sign is the last.
    seen: BTreeMap<NodeId, (Time, Instant)>,
    looked: Option<Instant>,
}

impl Watch {
    /// Looks at the nodes that the store knows now, and tells who is silent.
    pub(crate) fn look(&mut self, nodes: &[NodeView], now: Instant) -> Vec<NodeId> {
        if self.looked.is_some_and(|it| GAP_MAX < now - it) {
            self.seen.clear();
        }
        self.looked = Some(now);
        let before = std::mem::take(&mut self.seen);
        for node in nodes {
            let known = before.get(&node.id).filter(|it| it.0 == node.heartbeat);
            self.seen.insert(node.id, *known.unwrap_or(&(node.heartbeat, now)));
        }
        let is_still = |it: &(&NodeId, &(Time, Instant))| STILL <= now - it.1.1;
        self.seen.iter().filter(is_still).map(|it| *it.0).collect()
    }

    /// Nothing could be seen: what was seen before means nothing.
    pub(crate) fn blind(&mut self) {
        self.seen.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn node(id: u64, heartbeat: i64) -> NodeView {
        NodeView {
            id: NodeId(id),
            name: String::new(),
            pid: 1,
            tasks: Vec::new(),
            started: Time::default(),
            heartbeat: Time::from_millis(heartbeat),
        }
    }

    #[test]
    fn a_sign_must_stand_still_for_three_seconds_before_our_eyes() {
        let (mut watch, mut now) = (Watch::default(), Instant::now());
        let nodes = [node(1, 7), node(2, 7)];
        for second in 0..3 {
            assert_eq!(watch.look(&nodes, now), [], "after {second} s");
            now += SECOND;
        }
        assert_eq!(watch.look(&[node(1, 7), node(2, 8)], now), [NodeId(1)]);
    }

    #[test]
    fn what_could_not_be_seen_is_not_held_against_anybody() {
        let (mut watch, mut now) = (Watch::default(), Instant::now());
        let nodes = [node(1, 7)];
        for _ in 0..3 {
            assert_eq!(watch.look(&nodes, now), []);
            now += SECOND;
        }
        watch.blind();
        assert_eq!(watch.look(&nodes, now), [], "a look failed");
        now += 2 * SECOND;
        assert_eq!(watch.look(&nodes, now), []);
        now += 9 * SECOND;
        assert_eq!(watch.look(&nodes, now), [], "there was no look for too long");
    }
}
