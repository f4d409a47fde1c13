//! Tests of task groups.

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::{Instant, sleep};

use super::shared::ENDED_MAX;
use super::*;
use crate::testing::{at_every_await_point, cancel_after};
use crate::{remaining, timeout};

const SECOND: Duration = Duration::from_secs(1);

/// Counts how many futures that hold a clone of it have not been dropped.
#[derive(Clone, Default)]
struct Held(Arc<()>);

impl Held {
    fn n(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

async fn hold(held: Held) {
    pending::<()>().await;
    drop(held);
}

async fn fail_after(delay: Duration, words: &'static str) -> Result<(), String> {
    sleep(delay).await;
    Err(words.to_owned())
}

/// What a join says, as text; `ok` when all went well.
async fn say(group: TaskGroup) -> String {
    group.join().await.map_or_else(|it| it.to_string(), |()| "ok".to_owned())
}

#[tokio::test]
async fn values_are_there_after_the_join() {
    let group = TaskGroup::new();
    let number = group.spawn("number", async { Ok::<_, BoxError>(7) });
    let text = group.spawn(format!("text {}", 1), async { Ok::<_, BoxError>("seven") });
    assert_eq!(say(group).await, "ok");
    assert_eq!((number.await, text.await), (Ok(7), Ok("seven")));
}

#[tokio::test(start_paused = true)]
async fn the_first_failure_cancels_the_siblings_and_waits_for_them() {
    let (group, held) = (TaskGroup::new(), Held::default());
    let sibling = group.spawn("sibling", hold(held.clone()));
    group.spawn("fails", fail_after(SECOND, "no luck"));
    let began = Instant::now();
    assert_eq!(say(group).await, "1 routine failed: fails: no luck");
    assert_eq!((began.elapsed(), held.n()), (SECOND, 0));
    assert_eq!(sibling.await, Err(Unfinished::Cancelled));
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failure_like_an_error() {
    let (group, held) = (TaskGroup::new(), Held::default());
    group.spawn("sibling", hold(held.clone()));
    let broken = group.spawn("broken", async { panic!("no {}", "luck") });
    assert_eq!(say(group).await, "1 routine failed: broken: panicked: no luck");
    assert_eq!((broken.await, held.n()), (Err(Unfinished::Panicked), 0));
}

#[tokio::test(start_paused = true)]
async fn all_failures_are_told_in_their_order() {
    let group = TaskGroup::new();
    group.spawn("first", fail_after(SECOND, "a"));
    group.spawn_with("second", |cancel| async move {
        cancel.cancelled().await;
        sleep(SECOND).await;
        Err::<(), _>("b")
    });
    group.spawn_with("obedient", |cancel| async move {
        // It only repeats what the group knows, so it is no failure.
        cancel.run(pending::<()>()).await
    });
    let error = group.join().await.unwrap_err();
    assert_eq!(error.to_string(), "2 routines failed: first: a; second: b");
    assert_eq!(error.reason, Some(Reason::SiblingFailed("first".into())));
}

#[tokio::test(start_paused = true)]
async fn a_routine_that_holds_the_token_has_its_grace_and_no_more() {
    for (cleanup_secs, expected) in [(4, "ok"), (6, "cancelled: enough")] {
        let group = TaskGroup::new().grace(SECOND * 5);
        let held = Held::default();
        let inside = held.clone();
        group.spawn_with("careful", |cancel| async move {
            cancel.cancelled().await;
            sleep(SECOND * cleanup_secs).await;
            drop(inside);
        });
        group.cancel("enough");
        let began = Instant::now();
        assert_eq!(say(group).await, expected);
        assert_eq!(began.elapsed(), SECOND * cleanup_secs.min(5));
        assert_eq!(held.n(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_routine_that_swallows_its_cancellation_is_aborted_after_the_grace() {
    let group = TaskGroup::new().grace(SECOND * 5);
    group.spawn_with("deaf", |cancel| async move {
        loop {
            cancel.run(pending::<()>()).await.ok();
        }
    });
    tokio::task::yield_now().await;
    let cancelled = group.cancellation().clone();
    group.cancel("enough");
    // Its loop is always ready, so a paused clock would never move by itself.
    let tick = async {
        for _ in 0..6 {
            tokio::task::yield_now().await;
            tokio::time::advance(SECOND).await;
        }
    };
    let (said, ()) = tokio::join!(say(group), tick);
    assert_eq!((said.as_str(), cancelled.is_cancelled()), ("cancelled: enough", true));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_group_takes_no_more() {
    let group = TaskGroup::new();
    group.cancel("closed");
    let late = group.spawn("late", async { unreachable!("it never runs") });
    assert_eq!(late.await, Err(Unfinished::Cancelled));
    assert_eq!(say(group).await, "ok");
}

#[tokio::test(start_paused = true)]
async fn a_parent_cancels_what_its_child_joins() {
    let parent = Cancellation::new();
    let group = TaskGroup::new().under(&parent);
    let held = Held::default();
    group.spawn("sibling", hold(held.clone()));
    let cancel = async {
        sleep(SECOND).await;
        parent.cancel("the server stops");
    };
    let (said, ()) = tokio::join!(say(group), cancel);
    assert_eq!((said.as_str(), held.n()), ("cancelled: the server stops", 0));
}

#[tokio::test]
async fn dropping_a_group_aborts_its_routines_of_every_kind() {
    let held = Held::default();
    let group = TaskGroup::new();
    group.spawn("plain", hold(held.clone()));
    group.spawn_with("graceful", |_| hold(held.clone()));
    drop(group.shield("shielded", hold(held.clone()), drop));
    let spawner = group.spawner();
    tokio::task::yield_now().await;
    drop(group);
    assert_eq!(spawner.spawn("late", hold(held.clone())).await, Err(Unfinished::Cancelled));
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(held.n(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_routine_spawned_while_its_group_is_dropped_is_aborted_too() {
    for _ in 0..200 {
        let (group, held) = (TaskGroup::new(), Held::default());
        let (spawner, inside) = (group.spawner(), held.clone());
        let other = TaskGroup::new();
        other.spawn("spawns", async move {
            for _ in 0..20 {
                spawner.spawn_with("late", |_| hold(inside.clone()));
            }
        });
        tokio::task::yield_now().await;
        drop(group);
        assert_eq!(say(other).await, "ok");
        while 0 < held.n() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn children_of_children_belong_to_the_group() {
    fn grow(depth: u32, spawner: Spawner, n: Arc<AtomicUsize>) {
        if depth == 0 {
            return;
        }
        for _ in 0..2 {
            let (inner, n) = (spawner.clone(), Arc::clone(&n));
            spawner.spawn("branch", async move {
                sleep(SECOND).await;
                n.fetch_add(1, Ordering::Relaxed);
                grow(depth - 1, inner, n);
            });
        }
    }
    let (group, n) = (TaskGroup::new(), Arc::new(AtomicUsize::new(0)));
    grow(5, group.spawner(), Arc::clone(&n));
    assert_eq!(say(group).await, "ok");
    assert_eq!(n.load(Ordering::Relaxed), 62);
}

#[tokio::test(start_paused = true)]
async fn an_aborted_routine_is_no_failure() {
    let group = TaskGroup::new();
    let routine = group.spawn("one", pending::<()>());
    group.spawn("other", sleep(SECOND));
    routine.abort();
    assert_eq!(say(group).await, "ok");
    assert!(routine.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_group_shows_what_it_is_doing() {
    let group = TaskGroup::new();
    group.spawn("short", async {});
    group.spawn_with("careful", |_| pending::<()>());
    drop(group.shield("charge", pending::<()>(), drop));
    sleep(SECOND).await;
    let routines = group.routines();
    let seen: Vec<_> = routines.iter().map(|it| (it.name.as_ref(), it.kind)).collect();
    assert_eq!(seen, [("careful", RoutineKind::Graceful), ("charge", RoutineKind::Shielded)]);
    assert!(routines.iter().all(|it| it.id.is_some()));
    assert!(format!("{group:?}").contains(r#"["careful", "charge"]"#), "{group:?}");
}

#[tokio::test(start_paused = true)]
async fn routines_inherit_the_deadline_and_shielded_ones_do_not() {
    let group = TaskGroup::new();
    let (plain, shielded) = timeout(SECOND, async {
        let plain = group.spawn("plain", async { Ok::<_, BoxError>(remaining()) });
        let shielded = group.shield("shielded", async { remaining() }, drop);
        (plain.await.unwrap(), shielded.await.unwrap())
    })
    .await
    .unwrap();
    assert_eq!((plain, shielded), (Some(SECOND), None));
}

#[tokio::test(start_paused = true)]
async fn more_failures_than_it_keeps_are_counted() {
    let group = TaskGroup::isolated();
    for _ in 0..ENDED_MAX + 44 {
        group.spawn("fails", async { Err::<(), _>("again") });
    }
    sleep(SECOND).await;
    let error = group.join().await.unwrap_err();
    assert_eq!((error.failures.len(), error.n_more), (ENDED_MAX, 44));
    assert!(error.to_string().starts_with("300 routines failed: fails: again; fails"));
    assert!(error.to_string().ends_with("; and 44 more"));
}

mod isolated {
    use super::*;

    async fn next(group: &mut TaskGroup) -> Option<(String, Option<String>)> {
        let ended = group.join_next().await?;
        let failure = ended.failure().map(ToString::to_string);
        Some((ended.name.into_owned(), failure))
    }

    #[tokio::test]
    async fn every_end_is_told_with_its_name() {
        let mut group = TaskGroup::isolated();
        group.spawn("clean", async {});
        assert_eq!(next(&mut group).await, Some(("clean".into(), None)));
        group.spawn("broken", async { panic!("no {}", "luck") });
        assert_eq!(
            next(&mut group).await,
            Some(("broken".into(), Some("panicked: no luck".into())))
        );
        group.spawn("wrong", async { Err::<(), _>("bad input") });
        assert_eq!(next(&mut group).await, Some(("wrong".into(), Some("bad input".into()))));
        assert_eq!(next(&mut group).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_routines_and_aborts_the_rest() {
        let (group, held) = (TaskGroup::isolated(), Held::default());
        group.spawn_with("polite", |cancel| async move {
            assert_eq!(cancel.cancelled().await, Reason::Draining);
            sleep(SECOND * 5).await;
        });
        group.spawn("finishes", sleep(SECOND * 9));
        group.spawn("deaf", pending::<()>());
        group.spawn("broken", async { panic!("at once") });
        group.spawn("holder", hold(held.clone()));
        let began = Instant::now();
        let drained = group.drain(SECOND * 10).await;
        assert_eq!(began.elapsed(), SECOND * 10);
        assert_eq!(drained.n_aborted, 2);
        let names: Vec<_> = drained.failures.iter().map(|(name, _)| name.as_ref()).collect();
        assert_eq!(names, ["broken"]);
        assert_eq!(held.n(), 0, "an aborted routine let go of what it held");
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_as_soon_as_the_last_routine_does() {
        let group = TaskGroup::isolated();
        group.spawn_with("polite", |cancel| async move { drop(cancel.cancelled().await) });
        let began = Instant::now();
        let drained = group.drain(SECOND * 60).await;
        assert_eq!((began.elapsed(), drained.n_aborted), (Duration::ZERO, 0));
        assert!(drained.failures.is_empty());
    }

    #[tokio::test]
    async fn a_group_that_spawns_for_ever_stays_small() {
        let mut group = TaskGroup::isolated();
        for _ in 0..20_000 {
            group.spawn("short", async {});
            tokio::task::yield_now().await;
        }
        group.spawn("broken", async { panic!("told although it is the last") });
        while !group.is_empty() {
            tokio::task::yield_now().await;
        }
        let first = group.join_next().await.unwrap();
        assert_eq!(first.name, "broken");
        let mut n_told = 0;
        while group.join_next().await.is_some() {
            n_told += 1;
        }
        assert_eq!(n_told, ENDED_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_was_not_heard_stays_to_be_told() {
        let mut group = TaskGroup::isolated();
        group.spawn("short", sleep(SECOND));
        at_every_await_point(async |n_polls| {
            let Some(told) = cancel_after(n_polls, group.join_next()).await else { return false };
            assert_eq!(told.unwrap().name, "short");
            true
        })
        .await;
    }
}

mod scope {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_is_cancelled_by_a_routine() {
        let held = Held::default();
        let said = TaskGroup::scope(async |group| {
            group.spawn("fails", fail_after(SECOND, "no luck"));
            hold(held.clone()).await;
            Ok::<_, BoxError>(())
        });
        let error = said.await.unwrap_err();
        assert_eq!((error.to_string().as_str(), held.n()), ("1 routine failed: fails: no luck", 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_cancels_its_routines() {
        let held = Held::default();
        let said = TaskGroup::scope(async |group| {
            group.spawn("holds", hold(held.clone()));
            sleep(SECOND).await;
            Err::<(), _>("changed my mind")
        });
        let error = said.await.unwrap_err();
        assert_eq!(error.to_string(), "1 routine failed: body: changed my mind");
        assert_eq!(held.n(), 0);
    }

    #[tokio::test]
    async fn a_body_that_repeats_the_failure_of_its_routine_adds_none() {
        let said = TaskGroup::scope(async |group| {
            let parsed = group.spawn("parse", async { "x".parse::<u32>() });
            Ok::<_, BoxError>(parsed.await? + 1)
        });
        let error = said.await.unwrap_err();
        assert_eq!(error.failures.len(), 1, "{error}");
        assert!(error.find::<std::num::ParseIntError>().is_some());
    }

    #[tokio::test]
    async fn a_body_that_panics_is_told() {
        let said: Result<(), _> =
            TaskGroup::scope(async |_| -> Result<(), BoxError> { panic!("no luck") }).await;
        let said = said.unwrap_err().to_string();
        assert!(said.starts_with("1 routine failed: body: panicked at "), "{said}");
        assert!(said.ends_with(": no luck"), "{said}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_scope_leaves_nothing_at_any_point() {
        let n_points = at_every_await_point(async |n_polls| {
            let held = Held::default();
            let work = TaskGroup::scope(async |group| {
                for _ in 0..3 {
                    let held = held.clone();
                    group.spawn("naps", async move {
                        sleep(SECOND).await;
                        drop(held);
                    });
                    sleep(SECOND / 2).await;
                }
                Ok::<_, BoxError>(())
            });
            let ended = cancel_after(n_polls, work).await.is_some();
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            assert_eq!(held.n(), 0, "after {n_polls} polls");
            ended
        });
        assert!(3 < n_points.await);
    }
}

mod shielded {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test(start_paused = true)]
    async fn shielded_work_survives_a_cancelled_group() {
        let group = TaskGroup::new();
        let charge = group.shield("charge", async { sleep(SECOND * 60).await }, drop);
        group.spawn("fails", async { Err::<(), _>("no luck") });
        let began = Instant::now();
        assert_eq!(say(group).await, "1 routine failed: fails: no luck");
        assert_eq!(began.elapsed(), SECOND * 60);
        assert_eq!(charge.await, Ok(()));
    }

    /// The output reaches the caller or `unclaimed`, and never both, wherever the caller is cut.
    #[tokio::test(start_paused = true)]
    async fn an_output_is_never_lost() {
        let n_points = at_every_await_point(async |n_polls| {
            let (sender, receiver) = oneshot::channel();
            let group = TaskGroup::new();
            let caller = async {
                let work = async {
                    sleep(SECOND).await;
                    7
                };
                let mut charge =
                    group.shield("charge", work, |it| sender.send(it).expect("it is awaited"));
                sleep(SECOND / 2).await;
                let early = timeout(SECOND / 4, &mut charge).await;
                assert!(early.is_err());
                sleep(SECOND).await;
                charge.await.unwrap()
            };
            let claimed = cancel_after(n_polls, caller).await;
            assert_eq!(say(group).await, "ok");
            let is_claimed = claimed.is_some();
            assert_eq!(claimed.or(receiver.await.ok()), Some(7));
            is_claimed
        });
        assert!(2 < n_points.await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_aborts_it_at_the_deadline_only() {
        for (secs, n_aborted) in [(5, 0), (15, 1)] {
            let group = TaskGroup::isolated();
            let charge = group.shield("charge", sleep(SECOND * secs), drop);
            assert_eq!(group.drain(SECOND * 10).await.n_aborted, n_aborted);
            assert_eq!(charge.await.is_err(), n_aborted == 1);
        }
    }
}

mod bounded {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn at_most_so_many_run_at_a_time() {
        let (n_now, n_most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let group = BoundedTaskGroup::new(3);
        for _ in 0..10 {
            let (n_now, n_most) = (Arc::clone(&n_now), Arc::clone(&n_most));
            let work = async move {
                n_most.fetch_max(n_now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                sleep(SECOND).await;
                n_now.fetch_sub(1, Ordering::Relaxed);
            };
            group.spawn("nap", work).await;
        }
        group.join().await.unwrap();
        assert_eq!(n_most.load(Ordering::Relaxed), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_for_a_slot_ends_with_the_group() {
        let group = BoundedTaskGroup::new(1);
        group.spawn("fails", fail_after(SECOND, "no luck")).await;
        let late = group.spawn("late", async { unreachable!("it never runs") }).await;
        assert_eq!(late.await, Err(Unfinished::Cancelled));
        let error = group.join().await.unwrap_err();
        assert_eq!(error.to_string(), "1 routine failed: fails: no luck");
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_spawn_holds_no_slot() {
        at_every_await_point(async |n_polls| {
            let group = BoundedTaskGroup::new(2);
            for _ in 0..2 {
                group.spawn("nap", sleep(SECOND)).await;
            }
            let spawned = cancel_after(n_polls, group.spawn("third", async {})).await.is_some();
            sleep(SECOND * 2).await;
            assert_eq!(group.n_free(), 2);
            spawned
        })
        .await;
    }

    #[cfg(debug_assertions)]
    #[tokio::test(start_paused = true)]
    async fn routines_that_wait_for_each_others_slots_are_told_so() {
        let group = BoundedTaskGroup::new(2);
        for _ in 0..2 {
            let spawner = group.spawner();
            let parent = async move {
                tokio::task::yield_now().await;
                let child = spawner.spawn("child", async { Ok::<_, BoxError>(1) }).await;
                child.await.map(|_| ())
            };
            group.spawn("parent", parent).await;
        }
        let error = group.join().await.unwrap_err().to_string();
        assert!(error.contains("deadlock: each of the 2 slots"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_routine_that_waits_for_two_slots_is_no_deadlock() {
        let group = BoundedTaskGroup::new(2);
        let spawner = group.spawner();
        // The other slot is free in a second, and then serves both children.
        group.spawn("nap", tokio::time::sleep(Duration::from_secs(1))).await;
        let parent = async move {
            let (one, two) =
                tokio::join!(spawner.spawn("one", async {}), spawner.spawn("two", async {}));
            drop((one, two));
        };
        group.spawn("parent", parent).await;
        group.join().await.unwrap();
    }
}
