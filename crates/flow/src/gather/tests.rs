//! Tests of gathering, racing and waiting.

use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::*;
use crate::testing::{at_every_await_point, cancel_after};
use crate::{BoxError, TaskGroup};

const SECOND: Duration = Duration::from_secs(1);

/// `n` after `secs` seconds; an error when `n` is negative.
async fn number(n: i32, secs: u64) -> Result<i32, i32> {
    sleep(SECOND * u32::try_from(secs).unwrap()).await;
    if n < 0 { Err(n) } else { Ok(n) }
}

#[tokio::test(start_paused = true)]
async fn values_keep_the_order_of_the_inputs() {
    let many: Vec<_> = (0..100).map(|n| number(n, 100 - n as u64)).collect();
    let began = Instant::now();
    assert_eq!(gather(many).await, Ok((0..100).collect::<Vec<_>>()));
    assert_eq!(began.elapsed(), SECOND * 100);
    assert_eq!(gather([number(1, 2), number(2, 1)]).await, Ok([1, 2]));
    let mixed = gather((number(1, 2), async { Ok::<_, i32>("two") }));
    assert_eq!(mixed.await, Ok((1, "two")));
    assert_eq!(gather(Vec::<std::future::Ready<Result<(), ()>>>::new()).await, Ok(vec![]));
}

#[tokio::test(start_paused = true)]
async fn the_first_error_ends_the_others() {
    for n_inputs in [3, 50] {
        let held = std::sync::Arc::new(());
        let began = Instant::now();
        let holds = |n: i32| {
            let held = std::sync::Arc::clone(&held);
            async move {
                let said = number(if n == 1 { -1 } else { n }, if n == 1 { 2 } else { 9 }).await;
                drop(held);
                said
            }
        };
        let inputs: Vec<_> = (0..n_inputs).map(holds).collect();
        assert_eq!(gather(inputs).await, Err(-1));
        assert_eq!(std::sync::Arc::strong_count(&held), 1, "they were dropped");
        assert_eq!(began.elapsed(), SECOND * 2);
    }
    assert_eq!(gather((number(-1, 1), pending::<Result<(), i32>>())).await, Err(-1));
}

#[tokio::test(start_paused = true)]
async fn a_settled_gather_keeps_every_end() {
    let broken = async { if true { panic!("no luck") } else { Err::<(), _>("unlikely") } };
    let settled = gather_settled((number(1, 3), number(-1, 1), broken)).await;
    let (good, bad, panicked) = settled;
    assert_eq!((good, bad), (Ok(1), Err(Failure::Error(-1))));
    let panicked = panicked.unwrap_err();
    assert!(panicked.to_string().ends_with("no luck"), "{panicked}");
    let settled = gather_settled(vec![number(1, 3), number(-1, 1)]).await;
    assert_eq!(settled, [Ok(1), Err(Failure::Error(-1))]);
}

#[tokio::test(start_paused = true)]
async fn a_race_has_one_winner() {
    let began = Instant::now();
    assert_eq!(race(vec![number(3, 3), number(-2, 2)]).await, Err(-2));
    assert_eq!(race_ok([number(-1, 1), number(3, 3), number(5, 5)]).await, Ok(3));
    assert_eq!(began.elapsed(), SECOND * 5);
    let error = race_ok([number(-2, 2), number(-1, 1)]).await.unwrap_err();
    assert_eq!(error.errors, [-1, -2]);
    assert_eq!(error.to_string(), "all 2 failed, the last with: -2");
}

#[tokio::test]
#[should_panic = "a race needs at least one future"]
async fn a_race_without_runners_is_refused() {
    race(Vec::<std::future::Ready<()>>::new()).await;
}

#[tokio::test(start_paused = true)]
async fn the_next_to_complete_can_be_waited_for_in_pieces() {
    let mut completed = as_completed([number(0, 3), number(-1, 1), number(2, 2)]);
    assert_eq!(completed.size_hint(), (3, Some(3)));
    let next = at_every_await_point(async |n_polls| {
        let Some(next) = cancel_after(n_polls, completed.next()).await else { return false };
        assert_eq!(next, Some((1, Err(-1))));
        true
    });
    next.await;
    assert_eq!(completed.next().await, Some((2, Ok(2))));
    assert_eq!(completed.next().await, Some((0, Ok(0))));
    assert_eq!(completed.next().await, None);
}

async fn check_wait(until: Until, limit: Duration, expected: (&[usize], u64)) {
    let group = TaskGroup::isolated();
    let ends = [(1, Ok(())), (2, Err("no luck")), (3, Ok(()))];
    let routines = ends.map(|(secs, end)| {
        group.spawn("ends", async move {
            sleep(SECOND * secs).await;
            end
        })
    });
    let began = Instant::now();
    let waited = wait_at_most(limit, routines, until).await;
    let done: Vec<usize> = waited.done.iter().map(|(index, _)| *index).collect();
    assert_eq!((done.as_slice(), began.elapsed().as_secs()), expected, "{until:?}");
    // What is pending went on, and can be waited for again.
    let rest = wait(waited.pending.into_iter().map(|(_, it)| it), Until::All).await;
    assert_eq!(rest.done.len(), 3 - done.len());
    assert_eq!(began.elapsed(), SECOND * 3);
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_when_what_it_waits_for_has_come() {
    check_wait(Until::FirstCompleted, SECOND * 9, (&[0], 1)).await;
    check_wait(Until::FirstError, SECOND * 9, (&[0, 1], 2)).await;
    check_wait(Until::All, SECOND * 9, (&[0, 1, 2], 3)).await;
    check_wait(Until::FirstError, SECOND * 3 / 2, (&[0], 1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_errors_ends_when_none_is_left_to_fail() {
    let group = TaskGroup::new();
    let fine = group.spawn("fine", async { Ok::<_, BoxError>(()) });
    let waited = wait([fine], Until::FirstError).await;
    assert!(waited.pending.is_empty());
    let none = wait(Vec::<crate::Routine<()>>::new(), Until::FirstCompleted).await;
    assert!(none.done.is_empty());
}

/// Futures of these must be `Send`, or they can't be spawned.
#[tokio::test(start_paused = true)]
async fn all_of_it_can_be_spawned() {
    let group = TaskGroup::new();
    group.spawn("all", async {
        gather((number(1, 1), number(2, 1))).await.unwrap();
        gather(vec![number(1, 1)]).await.unwrap();
        let [settled] = gather_settled([number(1, 1)]).await;
        settled.unwrap();
        race((number(1, 1), number(2, 2))).await.unwrap();
        crate::timeout(SECOND * 9, race_ok(vec![number(1, 1)])).await.unwrap().unwrap();
        let scope = TaskGroup::scope(async |group| {
            group.spawn("inner", async { Ok::<_, BoxError>(()) }).await?;
            Ok::<_, BoxError>(())
        });
        scope.await
    });
    group.join().await.unwrap();
}
