//! What an event costs from publisher to subscribers, beside `tokio::sync::broadcast`.
//!
//! `cargo bench -p taskloom-benches --bench event_bus` prints nanoseconds per delivered event, for
//! several numbers of subscribers, measured alternately in one run, and the ratio. Both hand out
//! the same `Arc`; in batches that fit the backlog, so that nobody misses anything. Then the same
//! with subscribers that sleep until they are woken, in routines of their own.

use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt as _;
use taskloom_flow::{EventBus, SubscriptionOptions, TaskGroup};
use tokio::sync::broadcast;

const BATCH: u64 = 64;
const N_EVENTS: u64 = 128_000;
const ROUNDS: usize = 7;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!("ns per delivered event, median of {ROUNDS}; event_bus / broadcast");
    for n_subscribers in [1, 4, 32] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(bus(n_subscribers));
            theirs.push(broadcast(n_subscribers));
        }
        report("polled", n_subscribers, ours, theirs);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(bus_woken(n_subscribers).await);
            theirs.push(broadcast_woken(n_subscribers).await);
        }
        report("woken", n_subscribers, ours, theirs);
    }
}

fn report(how: &str, n_subscribers: u64, mut ours: Vec<f64>, mut theirs: Vec<f64>) {
    ours.sort_by(f64::total_cmp);
    theirs.sort_by(f64::total_cmp);
    let (ours, theirs) = (ours[ROUNDS / 2], theirs[ROUNDS / 2]);
    let ratio = ours / theirs;
    println!("{how:>6} {n_subscribers:>3} subscribers: {ours:>6.1} / {theirs:>6.1} = {ratio:.2}");
}

fn options() -> SubscriptionOptions {
    SubscriptionOptions::new().backlog_max(usize::try_from(BATCH).expect("it is small"))
}

fn n_batches(n_subscribers: u64) -> u64 {
    N_EVENTS / n_subscribers / BATCH
}

fn per_event(began: Instant, n_subscribers: u64) -> f64 {
    let n_delivered = n_batches(n_subscribers) * BATCH * n_subscribers;
    began.elapsed().as_secs_f64() * 1e9 / n_delivered as f64
}

fn bus(n_subscribers: u64) -> f64 {
    let bus = EventBus::new();
    let mut all: Vec<_> =
        (0..n_subscribers).map(|_| bus.subscribe_with::<u64>(options())).collect();
    let began = Instant::now();
    for _ in 0..n_batches(n_subscribers) {
        for n in 0..BATCH {
            bus.publish::<u64>(n);
        }
        for subscription in &mut all {
            for n in 0..BATCH {
                let event = tokio::task::coop::unconstrained(subscription.recv()).now_or_never();
                assert_eq!(event.flatten().and_then(Result::ok).as_deref(), Some(&n));
            }
        }
    }
    per_event(began, n_subscribers)
}

fn broadcast(n_subscribers: u64) -> f64 {
    let (sender, _) = broadcast::channel(usize::try_from(BATCH).expect("it is small"));
    let mut all: Vec<_> = (0..n_subscribers).map(|_| sender.subscribe()).collect();
    let began = Instant::now();
    for _ in 0..n_batches(n_subscribers) {
        for n in 0..BATCH {
            sender.send(Arc::new(n)).expect("there are receivers");
        }
        for receiver in &mut all {
            for n in 0..BATCH {
                let event = tokio::task::coop::unconstrained(receiver.recv()).now_or_never();
                assert_eq!(event.and_then(Result::ok).as_deref(), Some(&n));
            }
        }
    }
    per_event(began, n_subscribers)
}

async fn bus_woken(n_subscribers: u64) -> f64 {
    let bus = EventBus::new();
    let mut group = TaskGroup::new();
    for _ in 0..n_subscribers {
        let mut subscription = bus.subscribe_with::<u64>(options());
        group.spawn("subscriber", async move {
            while let Some(event) = subscription.recv().await {
                event.expect("a batch fits the backlog");
            }
        });
    }
    tokio::task::yield_now().await;
    let began = Instant::now();
    for _ in 0..n_batches(n_subscribers) {
        for n in 0..BATCH {
            bus.publish::<u64>(n);
        }
        tokio::task::yield_now().await;
    }
    bus.close();
    while group.join_next().await.is_some() {}
    per_event(began, n_subscribers)
}

async fn broadcast_woken(n_subscribers: u64) -> f64 {
    let (sender, _) = broadcast::channel(usize::try_from(BATCH).expect("it is small"));
    let mut group = TaskGroup::new();
    for _ in 0..n_subscribers {
        let mut receiver = sender.subscribe();
        group.spawn("subscriber", async move {
            while let Ok(event) = receiver.recv().await {
                std::hint::black_box::<Arc<u64>>(event);
            }
        });
    }
    tokio::task::yield_now().await;
    let began = Instant::now();
    for _ in 0..n_batches(n_subscribers) {
        for n in 0..BATCH {
            sender.send(Arc::new(n)).expect("there are receivers");
        }
        tokio::task::yield_now().await;
    }
    drop(sender);
    while group.join_next().await.is_some() {}
    per_event(began, n_subscribers)
}
