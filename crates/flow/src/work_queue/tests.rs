//! Done by any way an item can end, places, `join`, putting back, and cancellation.

use std::time::Duration;

use futures::future::join_all;

use super::*;
use crate::TaskGroup;
use crate::testing::{at_every_await_point, cancel_after};

async fn filled(capacity: usize, items: &[u32]) -> WorkQueue<u32> {
    let queue = WorkQueue::new(capacity);
    for item in items {
        queue.push(*item).await.unwrap();
    }
    queue
}

#[track_caller]
fn check_counts(queue: &WorkQueue<u32>, n_waiting: usize, n_in_work: usize, n_done: u64) {
    let stats = queue.stats();
    let actual = (stats.n_waiting, stats.n_in_work, stats.n_done);
    assert_eq!(actual, (n_waiting, n_in_work, n_done), "waiting, in work, done");
}

/// Whether nothing is left to do: whether `join` ends at once.
async fn is_joined(queue: &WorkQueue<u32>) -> bool {
    cancel_after(1, queue.join()).await.is_some()
}

#[tokio::test]
async fn items_leave_in_the_order_they_came() {
    let queue = filled(5, &[3, 1, 2]).await;
    queue.close();
    let mut popped = Vec::new();
    while let Some(item) = queue.pop().await {
        popped.push(*item);
    }
    assert_eq!(popped, [3, 1, 2]);
}

#[tokio::test]
async fn an_item_keeps_its_place_until_it_is_done() {
    let queue = filled(2, &[1, 2]).await;
    let item = queue.pop().await.unwrap();
    assert_eq!(queue.try_push(3), Err(TryPushError::Full(3)));
    check_counts(&queue, 1, 1, 0);
    item.done();
    assert_eq!(queue.try_push(3), Ok(()));
    check_counts(&queue, 2, 0, 1);
}

#[tokio::test(start_paused = true)]
async fn join_waits_for_the_last_item_to_be_done_and_not_just_taken() {
    let queue = filled(3, &[1, 2]).await;
    let began = tokio::time::Instant::now();
    let work = async {
        while let Some(_item) = queue.try_pop() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::join!(queue.join(), queue.join(), work);
    assert_eq!(began.elapsed(), Duration::from_secs(2));
    assert!(is_joined(&queue).await, "an empty queue is done");
}

#[tokio::test]
async fn join_ends_at_the_first_moment_with_nothing_left_to_do() {
    let queue = filled(3, &[1]).await;
    let mut join = Box::pin(queue.join());
    assert!(futures::poll!(join.as_mut()).is_pending());
    queue.try_pop().unwrap().done();
    queue.try_push(2).unwrap();
    join.await;
    assert!(!is_joined(&queue).await);
}

#[tokio::test]
async fn an_item_is_done_by_a_panic_and_by_an_abort_too() {
    let queue = filled(3, &[1, 2]).await;
    let mut group = TaskGroup::isolated();
    let in_panic = queue.clone();
    group.spawn("panicking", async move {
        let _item = in_panic.pop().await.unwrap();
        std::panic::resume_unwind(Box::new("no luck"));
    });
    assert!(group.join_next().await.unwrap().panic().is_some());
    check_counts(&queue, 1, 0, 1);
    let in_abort = queue.clone();
    group.spawn("stuck", async move {
        let _item = in_abort.pop().await.unwrap();
        std::future::pending::<()>().await;
    });
    tokio::task::yield_now().await;
    check_counts(&queue, 0, 1, 1);
    drop(group);
    queue.join().await;
    check_counts(&queue, 0, 0, 2);
}

#[tokio::test]
async fn an_item_put_back_uses_its_own_place_and_is_never_counted_as_done() {
    let queue = filled(2, &[1, 2]).await;
    let mut join = Box::pin(queue.join());
    assert!(futures::poll!(join.as_mut()).is_pending());
    for n_requeues in 0..3 {
        for _ in 0..2 {
            let item = queue.pop().await.unwrap();
            assert_eq!(item.n_requeues(), n_requeues);
            item.requeue();
        }
    }
    assert!(futures::poll!(join.as_mut()).is_pending());
    check_counts(&queue, 2, 0, 0);
    assert_eq!(queue.stats().n_requeued, 6);
    assert_eq!(queue.try_push(3), Err(TryPushError::Full(3)), "no place came from nowhere");
    let (value, place) = queue.pop().await.unwrap().split();
    place.requeue(value + 10);
    assert_eq!([*queue.pop().await.unwrap(), *queue.pop().await.unwrap()], [2, 11]);
    join.await;
}

#[tokio::test]
async fn an_item_can_be_put_back_into_a_closed_queue() {
    let queue = filled(2, &[1]).await;
    let item = queue.pop().await.unwrap();
    queue.close();
    assert_eq!(queue.push(2).await, Err(QueueClosed(2)));
    assert!(queue.pop().await.is_none());
    item.requeue();
    assert_eq!(*queue.pop().await.unwrap(), 1);
    assert!(queue.pop().await.is_none());
}

#[tokio::test]
async fn closing_ends_those_who_wait() {
    let queue = filled(1, &[1]).await;
    let item = queue.pop().await.unwrap();
    let pops = join_all([queue.pop(), queue.pop()]);
    let (pops, pushed, ()) = tokio::join!(pops, queue.push(2), async { queue.close() });
    assert!(pops.iter().all(Option::is_none));
    assert_eq!(pushed, Err(QueueClosed(2)));
    drop(item);
}

#[tokio::test]
async fn a_cancelled_pop_takes_no_item_and_a_cancelled_push_leaves_none() {
    at_every_await_point(async |n_polls| {
        let queue = filled(1, &[]).await;
        let pop = cancel_after(n_polls, async { *queue.pop().await.unwrap() });
        let push = async {
            tokio::task::yield_now().await;
            queue.push(7).await.unwrap();
        };
        let (popped, ()) = tokio::join!(pop, push);
        assert_eq!(queue.len(), usize::from(popped.is_none()));
        popped.is_some()
    })
    .await;
    at_every_await_point(async |n_polls| {
        let queue = filled(1, &[5]).await;
        let push = cancel_after(n_polls, queue.push(7));
        let pop = async {
            tokio::task::yield_now().await;
            queue.pop().await.unwrap().done();
        };
        let (pushed, ()) = tokio::join!(push, pop);
        assert_eq!(queue.stats().n_pushed, 1 + u64::from(pushed.is_some()));
        assert_eq!(queue.try_push(8).is_ok(), pushed.is_none(), "a place leaks");
        pushed.is_some()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn join_under_load_finds_everything_done() {
    let queue: WorkQueue<u32> = WorkQueue::new(4);
    let workers = TaskGroup::isolated();
    for _ in 0..3 {
        let queue = queue.clone();
        workers.spawn("worker", async move {
            while let Some(item) = queue.pop().await {
                if item.n_requeues() < *item % 3 {
                    item.requeue();
                }
                tokio::task::yield_now().await;
            }
        });
    }
    for round in 1..=20_u64 {
        for item in 0..50 {
            queue.push(item).await.unwrap();
        }
        queue.join().await;
        check_counts(&queue, 0, 0, 50 * round);
    }
}
