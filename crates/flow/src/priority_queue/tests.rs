//! Order, bounds, fairness, cancellation at every await point, and the end.

use std::time::Duration;

use futures::future::join_all;
use proptest::prelude::*;

use super::*;
use crate::TaskGroup;
use crate::testing::{at_every_await_point, cancel_after};

async fn filled(capacity: usize, items: &[u32]) -> PriorityQueue<u32, u32> {
    let queue = PriorityQueue::new(capacity);
    for item in items {
        queue.push(*item, *item / 10).await.unwrap();
    }
    queue
}

async fn drained(queue: &PriorityQueue<u32, u32>) -> Vec<u32> {
    queue.close();
    let mut items = Vec::new();
    while let Some(item) = queue.pop().await {
        items.push(item);
    }
    items
}

#[tokio::test]
async fn the_highest_goes_first_and_within_a_priority_the_oldest() {
    let queue = filled(9, &[12, 31, 11, 33, 21, 32]).await;
    assert_eq!(drained(&queue).await, [31, 33, 32, 21, 12, 11]);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_holds_up_those_who_push_in_their_order() {
    let queue = filled(1, &[50]).await;
    assert_eq!(queue.try_push(9, 9), Err(TryPushError::Full(9)));
    let pushes = join_all((1..=3).map(|it| queue.push(it, 0)));
    let pops = async {
        let mut popped = Vec::new();
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(queue.len(), 1);
            popped.extend(queue.pop().await);
        }
        popped
    };
    assert_eq!(tokio::join!(pushes, pops).1, [50, 1, 2, 3]);
}

#[tokio::test]
async fn those_who_pop_are_served_in_their_order() {
    let queue = filled(9, &[]).await;
    let pops = join_all((0..3).map(|_| queue.pop()));
    let pushes = async {
        for item in [10, 30, 20] {
            tokio::task::yield_now().await;
            queue.push(item, item).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(tokio::join!(pops, pushes).0, [Some(10), Some(30), Some(20)]);
}

#[tokio::test]
async fn a_closed_queue_gives_items_back_and_ends_when_it_is_empty() {
    let queue = filled(1, &[5]).await;
    let (pushed, ()) = tokio::join!(queue.push(7, 0), async { queue.close() });
    assert_eq!(pushed, Err(QueueClosed(7)));
    assert_eq!(queue.try_push(8, 0), Err(TryPushError::Closed(8)));
    assert_eq!(queue.push(9, 0).await.unwrap_err().0, 9);
    assert_eq!(queue.try_pop(), Some(5));
    assert_eq!(queue.try_pop(), None);
    assert_eq!(queue.pop().await, None);
}

#[tokio::test]
async fn closing_ends_those_who_wait_to_pop() {
    let queue = filled(1, &[]).await;
    let pops = join_all([queue.pop(), queue.pop()]);
    assert_eq!(tokio::join!(pops, async { queue.close() }).0, [None, None]);
}

#[tokio::test]
async fn a_cancelled_pop_takes_no_item() {
    at_every_await_point(async |n_polls| {
        let queue = filled(2, &[]).await;
        let pop = cancel_after(n_polls, queue.pop());
        let push = async {
            tokio::task::yield_now().await;
            queue.push(7, 0).await.unwrap();
        };
        let (popped, ()) = tokio::join!(pop, push);
        assert_eq!(queue.len(), usize::from(popped.is_none()));
        assert_eq!(queue.try_pop().xor(popped.flatten()), Some(7));
        assert_eq!([queue.try_push(1, 0), queue.try_push(2, 0)], [Ok(()), Ok(())], "a place leaks");
        popped.is_some()
    })
    .await;
}

/// The item was handed to a waiter that is then dropped without being polled again.
#[tokio::test]
async fn an_item_handed_to_a_dropped_pop_goes_to_the_next() {
    let queue = filled(1, &[]).await;
    let mut first = Box::pin(queue.pop());
    assert!(futures::poll!(first.as_mut()).is_pending());
    let mut second = Box::pin(queue.pop());
    assert!(futures::poll!(second.as_mut()).is_pending());
    queue.push(7, 0).await.unwrap();
    drop(first);
    assert_eq!(second.await, Some(7));
}

#[tokio::test]
async fn a_cancelled_push_leaves_no_item_and_no_gap() {
    at_every_await_point(async |n_polls| {
        let queue = filled(1, &[5]).await;
        let push = cancel_after(n_polls, queue.push(7, 0));
        let pop = async {
            tokio::task::yield_now().await;
            queue.pop().await
        };
        let (pushed, popped) = tokio::join!(push, pop);
        assert_eq!(popped, Some(5));
        assert_eq!(queue.try_pop().is_some(), pushed.is_some());
        assert_eq!(queue.try_push(8, 0), Ok(()), "a place leaks");
        pushed.is_some()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_producers_and_consumers_lose_and_double_nothing() {
    let queue = PriorityQueue::new(3);
    let popped = Arc::new(Mutex::new(Vec::new()));
    let (mut producers, mut consumers) = (TaskGroup::isolated(), TaskGroup::isolated());
    for producer in 0..4_u32 {
        let pushed_to = queue.clone();
        producers.spawn("producer", async move {
            for n in 0..500 {
                pushed_to.push(producer * 500 + n, n % 7).await.unwrap();
            }
        });
        let (queue, popped) = (queue.clone(), Arc::clone(&popped));
        consumers.spawn("consumer", async move {
            while let Some(item) = queue.pop().await {
                popped.lock().push(item);
            }
        });
    }
    while producers.join_next().await.is_some() {}
    queue.close();
    while consumers.join_next().await.is_some() {}
    let mut popped = std::mem::take(&mut *popped.lock());
    popped.sort_unstable();
    assert_eq!(popped, (0..2000).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_order_is_that_of_a_stable_sort(items in proptest::collection::vec(0_u32..60, 0..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let popped = runtime.block_on(async { drained(&filled(60, &items).await).await });
        let mut sorted = items;
        sorted.sort_by_key(|it| std::cmp::Reverse(it / 10));
        prop_assert_eq!(popped, sorted);
    }
}
