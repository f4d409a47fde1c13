//! Full backlogs: what is dropped and told, and who waits.

use proptest::prelude::*;

use super::*;

fn small(n: usize, overflow: Overflow) -> SubscriptionOptions {
    SubscriptionOptions::new().backlog_max(n).overflow(overflow)
}

#[tokio::test]
async fn a_full_backlog_drops_as_it_was_told_and_says_so() {
    let bus = EventBus::new();
    let mut oldest = bus.subscribe_with::<i64>(small(2, Overflow::DropOldest));
    let mut newest = bus.subscribe_with::<i64>(small(2, Overflow::DropNewest));
    let mut wait = bus.subscribe_with::<i64>(small(2, Overflow::Wait));
    let mut roomy = bus.subscribe::<i64>();
    let answers: Vec<_> = (1..=4).map(|n: i64| bus.publish(n)).collect();
    let (fits, full) = (published(4, 0), published(2, 3));
    assert_eq!(answers, [fits, fits, full, full]);
    assert_eq!(taken(&mut oldest), [-2, 3, 4]);
    assert_eq!(taken(&mut newest), [1, 2, -2]);
    wait.recv().await.unwrap().unwrap();
    bus.publish(5_i64);
    assert_eq!(taken(&mut newest), [5]);
    assert_eq!(taken(&mut wait), [2, -2, 5], "the gap is told in its place");
    assert_eq!(taken(&mut roomy), [1, 2, 3, 4, 5]);
    let stats = bus.stats().remove(0);
    let counts: Vec<_> = stats.subscribers.iter().map(|it| (it.delivered, it.missed)).collect();
    assert_eq!((stats.published, counts), (5, vec![(5, 2), (3, 2), (3, 2), (5, 0)]));
}

#[tokio::test]
async fn a_publisher_waits_for_the_slowest_that_wants_it() {
    let bus = EventBus::new();
    let mut slow = bus.subscribe_with::<i64>(small(1, Overflow::Wait));
    let mut fast = bus.subscribe_with::<i64>(small(9, Overflow::Wait));
    let mut careless = bus.subscribe_with::<i64>(small(1, Overflow::DropOldest));
    assert_eq!(bus.publish_wait(1_i64).now_or_never(), Some(published(3, 0)));
    let mut second = Box::pin(bus.publish_wait(2_i64));
    let mut third = Box::pin(bus.publish_wait(3_i64));
    assert_eq!(futures::poll!(&mut second), std::task::Poll::Pending);
    assert_eq!(futures::poll!(&mut third), std::task::Poll::Pending);
    assert_eq!(taken(&mut fast), [1], "nobody has what is waited with");
    assert_eq!(taken(&mut slow), [1]);
    assert_eq!(second.await, published(3, 1));
    assert_eq!(futures::poll!(&mut third), std::task::Poll::Pending);
    drop(slow);
    assert_eq!(third.await, published(2, 1));
    assert_eq!(taken(&mut fast), [2, 3]);
    assert_eq!(taken(&mut careless), [-2, 3]);
}

#[tokio::test]
async fn a_close_ends_the_wait_of_every_publisher() {
    let bus = EventBus::new();
    let mut slow = bus.subscribe_with::<i64>(small(1, Overflow::Wait));
    bus.publish(1_i64);
    let close = async {
        tokio::task::yield_now().await;
        bus.close();
    };
    let waits = futures::future::join_all((2..5).map(|n: i64| bus.publish_wait(n)));
    assert_eq!(tokio::join!(waits, close).0, [published(0, 0); 3]);
    assert_eq!(taken(&mut slow), [1]);
}

#[tokio::test]
async fn a_publisher_that_stops_waiting_reaches_nobody_and_holds_up_nobody() {
    let n_points = at_every_await_point(async |n_polls| {
        let bus = EventBus::new();
        let mut slow = bus.subscribe_with::<i64>(small(1, Overflow::Wait));
        let mut fast = bus.subscribe::<i64>();
        bus.publish(1_i64);
        let take = async {
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            slow.recv().await.unwrap().unwrap();
            futures::future::pending::<()>().await;
        };
        let work = async {
            tokio::select! {
                biased;
                it = bus.publish_wait(2_i64) => it,
                () = take => unreachable!("it never ends"),
            }
        };
        let ended = cancel_after(n_polls, work).await;
        let expected = if ended.is_some() { vec![1, 2] } else { vec![1] };
        assert_eq!(taken(&mut fast), expected);
        taken(&mut slow);
        assert_eq!(bus.publish_wait(3_i64).now_or_never(), Some(published(2, 0)));
        assert_eq!(taken(&mut slow), [3]);
        ended.is_some()
    });
    assert!(3 <= n_points.await);
}

proptest! {
    /// Whatever is published and taken in whatever order: what is taken, and how many are told
    /// to be missing in which place, makes up exactly what was published.
    #[test]
    fn every_event_is_met_or_told_as_missing_in_its_place(
        backlog_max in 1_usize..6,
        drops_oldest: bool,
        steps in proptest::collection::vec((0_i64..9, 0_usize..9), 1..40),
    ) {
        let policy = if drops_oldest { Overflow::DropOldest } else { Overflow::DropNewest };
        let bus = EventBus::new();
        let mut events = bus.subscribe_with::<i64>(small(backlog_max, policy));
        let (mut n_published, mut n_met) = (0, 0);
        let mut n_dropped = 0;
        for (n_new, n_taken) in steps {
            for _ in 0..n_new {
                n_dropped += bus.publish(n_published).dropped;
                n_published += 1;
            }
            prop_assert!(bus.stats()[0].subscribers[0].backlog <= backlog_max);
            for _ in 0..n_taken {
                match events.recv().now_or_never() {
                    Some(Some(Ok(event))) => {
                        prop_assert_eq!(*event, n_met);
                        n_met += 1;
                    }
                    Some(Some(Err(EventsMissed(n)))) => {
                        prop_assert!(0 < n);
                        n_met += i64::try_from(n).unwrap();
                    }
                    Some(None) => prop_assert!(false, "the bus is open"),
                    None => prop_assert_eq!(n_met, n_published),
                }
            }
        }
        let stats = bus.stats().remove(0).subscribers.remove(0);
        prop_assert_eq!(stats.missed, n_dropped as u64);
        let rest = taken(&mut events);
        n_met += rest.iter().map(|it| if *it < 0 { -it } else { 1 }).sum::<i64>();
        prop_assert_eq!(n_met, n_published);
    }
}
