//! Whether a system can do its work, and what keeps it from it.

use std::time::Duration;

use serde::Serialize;
use taskloom_store::{PartHealth, STALL, ServerHealth, StoreHealth};

/// How a system fares. Made of what its parts have noted, without asking anybody.
#[derive(Debug, Clone, Serialize)]
pub struct Health {
    /// Whether the system can do its work: a load balancer may send it some.
    pub ready: bool,
    /// Why it can't.
    pub reasons: Vec<Reason>,
    /// Every part that works by itself.
    pub parts: Vec<PartHealth>,
    /// What the database server told when it was last asked: PostgreSQL only.
    pub server: Option<ServerHealth>,
}

/// Why a system is not ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// The part that can't go on.
    pub part: &'static str,
    /// The code of its error; `health.stalled` when it has been at one thing for too long.
    pub code: &'static str,
    /// What it says.
    pub message: String,
}

/// The parts without which nothing goes on. The others work now and then, so an error of theirs
/// may be an old one.
const NEEDED: [&str; 4] = ["heartbeat", "dispatcher", "promote", "listener"];

impl Health {
    pub(crate) fn of(store: StoreHealth, node: Option<Vec<PartHealth>>) -> Health {
        let parts: Vec<PartHealth> =
            store.parts.into_iter().chain(node.into_iter().flatten()).collect();
        let needed = parts.iter().filter(|it| NEEDED.contains(&it.part));
        let reasons: Vec<Reason> = needed.filter_map(reason).collect();
        Health { ready: reasons.is_empty(), reasons, parts, server: store.server }
    }
}

fn reason(part: &PartHealth) -> Option<Reason> {
    if let Some(error) = &part.error {
        let (code, message) = (error.code, error.message.clone());
        return Some(Reason { part: part.part, code, message });
    }
    let busy = Duration::from_millis(part.busy_ms?);
    let message = || format!("it has been at one thing for {} s", busy.as_secs());
    (STALL <= busy).then(|| Reason { part: part.part, code: "health.stalled", message: message() })
}

#[cfg(test)]
mod tests {
    use taskloom_store::PartError;

    use super::*;

    fn part(part: &'static str, busy_ms: Option<u64>, code: Option<&'static str>) -> PartHealth {
        let since = taskloom_model::Time::default();
        let error = code.map(|code| PartError { code, message: String::new(), since });
        PartHealth { part, progress: None, busy_ms, error }
    }

    #[track_caller]
    fn check_reasons(parts: Vec<PartHealth>, expected: &[(&str, &str)]) {
        let health = Health::of(StoreHealth::default(), Some(parts));
        let actual: Vec<_> = health.reasons.iter().map(|it| (it.part, it.code)).collect();
        assert_eq!(actual, expected);
        assert_eq!(health.ready, expected.is_empty());
    }

    #[test]
    fn a_system_is_ready_when_nothing_it_needs_is_stuck() {
        check_reasons(vec![part("heartbeat", Some(900), None)], &[]);
        let stuck = part("heartbeat", Some(2_500), None);
        check_reasons(vec![stuck], &[("heartbeat", "health.stalled")]);
        let read_only = part("promote", None, Some("store.read_only"));
        check_reasons(vec![read_only], &[("promote", "store.read_only")]);
        check_reasons(vec![part("prune", Some(9_000), Some("store.locked"))], &[]);
    }
}
