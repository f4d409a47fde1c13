//! What the bus promises its publishers, subscribers and handlers.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{FutureExt as _, StreamExt as _};
use tokio::time::sleep;

use super::*;
use crate::testing::{at_every_await_point, cancel_after};

mod handlers;
mod overflow;

/// All that a subscription holds now; a gap of n events stands as -n.
fn taken(subscription: &mut Subscription<i64>) -> Vec<i64> {
    let mut taken = Vec::new();
    while let Some(Some(next)) = subscription.recv().now_or_never() {
        taken.push(match next {
            Ok(event) => *event,
            Err(EventsMissed(n)) => -i64::try_from(n).unwrap(),
        });
    }
    taken
}

fn published(delivered: usize, dropped: usize) -> Published {
    Published { delivered, dropped }
}

#[tokio::test]
async fn each_subscriber_gets_every_event_of_its_type() {
    let bus = EventBus::new();
    assert_eq!(bus.publish(1_i64), published(0, 0));
    let (mut first, mut second) = (bus.subscribe::<i64>(), bus.subscribe::<i64>());
    let mut texts = bus.subscribe::<String>();
    assert_eq!(bus.publish(2_i64), published(2, 0));
    assert_eq!(bus.publish("text".to_owned()), published(1, 0));
    drop(second);
    assert_eq!(bus.publisher().publish(3_i64), published(1, 0));
    second = bus.subscribe::<i64>();
    assert_eq!(bus.publish(4_i64), published(2, 0));
    assert_eq!(taken(&mut first), [2, 3, 4]);
    assert_eq!(taken(&mut second), [4]);
    assert_eq!(*texts.next().await.unwrap().unwrap(), "text");
}

#[tokio::test]
async fn the_last_event_is_replayed_on_demand() {
    let bus = EventBus::new();
    let mut early = bus.subscribe_with_last::<i64>();
    bus.publish(1_i64);
    bus.publish(2_i64);
    let mut late = bus.subscribe_with_last::<i64>();
    let mut plain = bus.subscribe::<i64>();
    bus.publish(3_i64);
    assert_eq!(taken(&mut early), [1, 2, 3]);
    assert_eq!(taken(&mut late), [2, 3]);
    assert_eq!(taken(&mut plain), [3]);
}

#[tokio::test]
async fn subscriptions_end_after_what_they_hold() {
    for dropped in [false, true] {
        let bus = EventBus::new();
        let publisher = bus.publisher();
        let (mut full, mut empty) = (bus.subscribe::<i64>(), bus.subscribe::<i64>());
        bus.publish(1_i64);
        taken(&mut empty);
        let waiting = async { assert_eq!(empty.recv().await, None) };
        let end = async {
            tokio::task::yield_now().await;
            if dropped {
                drop(bus);
            } else {
                bus.close();
                assert!(bus.subscribe_with_last::<i64>().recv().await.is_none());
                assert!(bus.subscribe::<u8>().recv().await.is_none());
            }
        };
        tokio::join!(waiting, end);
        assert_eq!(publisher.publish(2_i64), published(0, 0));
        assert_eq!(taken(&mut full), [1]);
        assert_eq!(full.recv().await, None);
    }
}

#[tokio::test]
async fn a_dropped_recv_loses_no_event() {
    let n_points = at_every_await_point(async |n_polls| {
        let bus = EventBus::new();
        let mut events = bus.subscribe::<i64>();
        let publish = async {
            tokio::task::yield_now().await;
            bus.publish(1_i64);
        };
        let (got, ()) = tokio::join!(cancel_after(n_polls, events.recv()), publish);
        let expected: &[i64] = if got.is_some() { &[] } else { &[1] };
        assert_eq!(taken(&mut events), expected);
        got.is_some()
    });
    assert_eq!(n_points.await, 1);
}

/// Publishes its successor as it is dropped, three times.
struct Hydra(u8, BusPublisher);

impl Drop for Hydra {
    fn drop(&mut self) {
        if self.0 < 3 {
            self.1.publish(Hydra(self.0 + 1, self.1.clone()));
        }
    }
}

#[tokio::test]
async fn an_event_may_publish_as_it_is_dropped() {
    let options = SubscriptionOptions::new().backlog_max(1);
    let bus = EventBus::new();
    let events = bus.subscribe_with::<Hydra>(options);
    let newest = bus.subscribe_with::<Hydra>(options.overflow(Overflow::DropNewest));
    for _ in 0..3 {
        bus.publish(Hydra(0, bus.publisher()));
    }
    drop((events, newest));
    bus.close();
    bus.publish(Hydra(0, bus.publisher()));
}

#[tokio::test]
async fn a_subscriber_with_much_to_take_lets_others_run() {
    let bus = EventBus::new();
    let mut events = bus.subscribe::<i64>();
    let group = TaskGroup::isolated();
    let ran = Arc::new(AtomicUsize::new(0));
    let other = Arc::clone(&ran);
    group.spawn("other", async move {
        other.store(1, Ordering::Relaxed);
    });
    for n in 0..1_000_i64 {
        bus.publish(n);
        events.recv().await.unwrap().unwrap();
    }
    assert_eq!(ran.load(Ordering::Relaxed), 1);
}

/// Every publisher numbers its events; every subscriber must meet each publisher's in order, and
/// all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_out_of_order_when_publishers_wait() {
    const N_PUBLISHERS: usize = 4;
    const N_EVENTS: usize = 500;
    let bus = EventBus::new();
    let mut group = TaskGroup::isolated();
    let options = SubscriptionOptions::new().overflow(Overflow::Wait);
    let orders = Arc::new(Mutex::new(Vec::new()));
    for backlog_max in [1, 2, 7] {
        let mut events = bus.subscribe_with::<(usize, usize)>(options.backlog_max(backlog_max));
        let orders = Arc::clone(&orders);
        group.spawn("subscriber", async move {
            let mut order: Vec<(usize, usize)> = Vec::new();
            while let Some(event) = events.recv().await {
                order.push(*event.unwrap());
            }
            orders.lock().push(order);
        });
    }
    let mut publishers = TaskGroup::isolated();
    for publisher in 0..N_PUBLISHERS {
        let to = bus.publisher();
        publishers.spawn("publisher", async move {
            for n in 0..N_EVENTS {
                assert_eq!(to.publish_wait((publisher, n)).await, published(3, 0));
            }
        });
    }
    while let Some(ended) = publishers.join_next().await {
        assert_eq!(ended.panic(), None);
    }
    bus.close();
    while let Some(ended) = group.join_next().await {
        assert_eq!(ended.panic(), None);
    }
    let orders = orders.lock();
    assert_eq!((&orders[0], &orders[0]), (&orders[1], &orders[2]), "all meet them in one order");
    for publisher in 0..N_PUBLISHERS {
        let its = orders[0].iter().filter(|it| it.0 == publisher).map(|it| it.1);
        assert!(its.eq(0..N_EVENTS));
    }
}
