//! Task groups: every routine has an owner, which spawns it, hears how it ended, and drains it.
//!
//! # Invariants
//! - No routine outlives its group: dropping the group aborts what is left.
//! - A routine's panic ends that routine alone, and its owner hears of it.

use std::any::Any;
use std::collections::VecDeque;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How many ended routines a group remembers for an owner that spawns without listening. A group
/// of a component has a handful of routines; only those that spawn one per job come near it.
const ENDED_MAX: usize = 256;

/// How many ended routines one spawn takes off: more than it adds, so that they can't pile up.
const REAPED_PER_SPAWN: usize = 2;

/// How long an aborted routine has to let go of what it holds, before a drain stops waiting for
/// it. A future is dropped at its next `.await`; only one stuck in blocking code takes longer.
const ABORT_WAIT: Duration = Duration::from_secs(1);

/// How a routine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The name it was spawned with.
    pub name: &'static str,
    /// The message of its panic; `None` when it returned.
    pub panic: Option<String>,
}

/// What a drain met.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Drained {
    /// How many routines did not end before the deadline and were aborted.
    pub n_aborted: usize,
    /// The routines that panicked and that [`TaskGroup::join_next`] had not told of yet.
    pub panics: Vec<Ended>,
}

/// Owns every routine of one component; dropping it aborts what is left.
///
/// ```
/// use std::time::Duration;
/// use taskloom_flow::TaskGroup;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let mut group = TaskGroup::new();
/// let stop = group.stop_token();
/// group.spawn("ticker", async move { stop.cancelled().await });
/// group.spawn("short", async {});
///
/// assert_eq!(group.join_next().await.unwrap().name, "short");
/// let drained = group.drain(Duration::from_secs(5)).await;
/// assert_eq!(drained.n_aborted, 0);
/// # }
/// ```
#[derive(Debug, Default)]
pub struct TaskGroup {
    routines: JoinSet<Ended>,
    stop: CancellationToken,
    /// Reaped by `spawn`, told by `join_next` and `drain`; at most `ENDED_MAX`.
    ended: VecDeque<Ended>,
}

impl TaskGroup {
    /// A group without routines.
    #[must_use]
    pub fn new() -> Self {
        TaskGroup::default()
    }

    /// A group whose stop token also fires when `stop` does.
    #[must_use]
    pub fn child_of(stop: &CancellationToken) -> Self {
        TaskGroup { stop: stop.child_token(), ..TaskGroup::default() }
    }

    /// Starts a routine. `name` is for whoever hears of its end.
    ///
    /// Routines that ended are kept until [`TaskGroup::join_next`] tells of them. In a group with
    /// over 256 routines, spawning takes ended ones off too, so a group that spawns for ever needs
    /// no listener; it remembers the latest 256 ends and forgets older ones.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn spawn<F>(&mut self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if ENDED_MAX <= self.routines.len() {
            self.reap();
        }
        let routine = AssertUnwindSafe(future).catch_unwind();
        self.routines.spawn(routine.map(move |ended| Ended {
            name,
            panic: ended.err().map(|payload| message_of(payload.as_ref())),
        }));
    }

    fn reap(&mut self) {
        for _ in 0..REAPED_PER_SPAWN {
            let Some(joined) = self.routines.try_join_next() else { return };
            if self.ended.len() == ENDED_MAX {
                self.ended.pop_front();
            }
            self.ended.extend(joined.ok());
        }
    }

    /// The token that fires when the group drains. A routine waits for it and returns.
    #[must_use]
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// How many routines run, or ended without having been told of or taken off yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.routines.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.routines.is_empty()
    }

    /// Waits for a routine to end and tells how; `None` when the group has no routines.
    ///
    /// # Cancel safety
    /// Safe: an end that was not told stays to be told.
    pub async fn join_next(&mut self) -> Option<Ended> {
        if let Some(ended) = self.ended.pop_front() {
            return Some(ended);
        }
        loop {
            // An error here is an abort, by the runtime's own end: nobody is left to tell.
            if let Ok(ended) = self.routines.join_next().await? {
                return Some(ended);
            }
        }
    }

    /// Asks every routine to stop, waits up to `deadline`, then aborts and counts the rest.
    ///
    /// Aborted routines are given one more second to drop what they hold; one stuck in blocking
    /// code is then left to itself.
    ///
    /// # Cancel safety
    /// Dropping this future aborts every routine still running.
    pub async fn drain(mut self, deadline: Duration) -> Drained {
        self.stop.cancel();
        let mut drained = Drained::default();
        let all_ended = async {
            while let Some(ended) = self.join_next().await {
                if ended.panic.is_some() {
                    drained.panics.push(ended);
                }
            }
        };
        if tokio::time::timeout(deadline, all_ended).await.is_ok() {
            return drained;
        }
        self.routines.abort_all();
        let mut n_left = self.routines.len();
        let all_dropped = async {
            while let Some(joined) = self.routines.join_next().await {
                n_left -= 1;
                match joined {
                    Ok(ended) if ended.panic.is_some() => drained.panics.push(ended),
                    Ok(_) => {}
                    Err(_) => drained.n_aborted += 1,
                }
            }
        };
        tokio::time::timeout(ABORT_WAIT, all_dropped).await.ok();
        drained.n_aborted += n_left;
        drained
    }
}

/// The text of a panic, from what it carried.
pub(crate) fn message_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a text").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use std::sync::Arc;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn every_end_is_told_with_its_name() {
        let mut group = TaskGroup::new();
        group.spawn("clean", async {});
        assert_eq!(group.join_next().await, Some(Ended { name: "clean", panic: None }));
        group.spawn("broken", async { panic!("no {}", "luck") });
        let panic = Some("no luck".to_owned());
        assert_eq!(group.join_next().await, Some(Ended { name: "broken", panic }));
        assert_eq!(group.join_next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_routines_that_heed_the_stop_and_aborts_the_rest() {
        let mut group = TaskGroup::new();
        let stop = group.stop_token();
        group.spawn("polite", async move {
            stop.cancelled().await;
            tokio::time::sleep(Duration::from_secs(5)).await;
        });
        group.spawn("deaf", pending());
        group.spawn("broken", async { panic!("at once") });
        let held = Arc::new(());
        let in_routine = Arc::clone(&held);
        group.spawn("holder", async move {
            pending::<()>().await;
            drop(in_routine);
        });
        let began = tokio::time::Instant::now();
        let drained = group.drain(Duration::from_secs(10)).await;
        assert_eq!(began.elapsed(), Duration::from_secs(10));
        assert_eq!(drained.n_aborted, 2);
        assert_eq!(drained.panics.len(), 1);
        assert_eq!(drained.panics[0].name, "broken");
        assert_eq!(Arc::strong_count(&held), 1, "an aborted routine let go of what it held");
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_as_soon_as_the_last_routine_does() {
        let mut group = TaskGroup::new();
        let stop = group.stop_token();
        group.spawn("polite", async move { stop.cancelled().await });
        let began = tokio::time::Instant::now();
        assert_eq!(group.drain(LONG).await, Drained::default());
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn dropping_a_group_aborts_its_routines() {
        let mut group = TaskGroup::new();
        let (held, dropped) = tokio::sync::oneshot::channel::<()>();
        group.spawn("holder", async move {
            pending::<()>().await;
            drop(held);
        });
        drop(group);
        dropped.await.unwrap_err();
    }

    #[tokio::test]
    async fn a_group_that_spawns_for_ever_stays_small() {
        let mut group = TaskGroup::new();
        for _ in 0..20_000 {
            group.spawn("short", async {});
            tokio::task::yield_now().await;
        }
        assert!(group.len() <= ENDED_MAX, "{} routines are kept", group.len());
        assert!(group.ended.len() <= ENDED_MAX);
    }

    #[tokio::test]
    async fn ends_that_a_spawn_took_off_are_still_told() {
        let mut group = TaskGroup::new();
        for _ in 0..ENDED_MAX {
            group.spawn("short", async {});
        }
        tokio::task::yield_now().await;
        group.spawn("last", pending());
        assert_eq!(group.ended.len(), REAPED_PER_SPAWN);
        for _ in 0..ENDED_MAX {
            assert_eq!(group.join_next().await.unwrap().name, "short");
        }
        assert_eq!(group.len(), 1);
    }

    #[tokio::test]
    async fn a_child_group_stops_with_its_parent() {
        let parent = TaskGroup::new();
        let child = TaskGroup::child_of(&parent.stop_token());
        parent.stop_token().cancel();
        assert!(child.stop_token().is_cancelled());
    }
}
