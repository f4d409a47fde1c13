//! One live feed of prices, and readers that want every one, the latest, or a calm one.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use tokio::sync::{broadcast, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

type Price = (&'static str, u32);

/// Prices of one place: one each `period`, `n` of them.
fn place(name: &'static str, period: Duration, n: u32) -> impl Stream<Item = Price> {
    stream::unfold(0, move |i| async move {
        sleep(period).await;
        (i < n).then_some(((name, i), i + 1))
    })
}

/// Hears every price, or how many it missed.
async fn each(mut prices: broadcast::Receiver<Price>, pace: Duration) -> (u32, u64) {
    let (mut n_seen, mut n_missed) = (0, 0);
    loop {
        match prices.recv().await {
            Ok(_) => {
                n_seen += 1;
                sleep(pace).await;
            }
            Err(broadcast::error::RecvError::Lagged(n)) => n_missed += n,
            Err(broadcast::error::RecvError::Closed) => return (n_seen, n_missed),
        }
    }
}

/// Throttled: the latest at most once each `period`; what came in between is passed over.
async fn throttled(mut prices: watch::Receiver<Price>, period: Duration) -> Vec<Price> {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = Vec::new();
    while prices.changed().await.is_ok() {
        ticks.tick().await;
        seen.push(*prices.borrow_and_update());
    }
    seen
}

/// Debounced: the latest, once nothing came for `quiet`.
async fn debounced(mut prices: watch::Receiver<Price>, quiet: Duration) -> Vec<Price> {
    let mut seen = Vec::new();
    while prices.changed().await.is_ok() {
        while let Ok(Ok(())) = timeout(quiet, prices.changed()).await {}
        seen.push(*prices.borrow_and_update());
    }
    seen
}

/// Conflated: the latest of each place, at the pace of a reader who takes its time.
async fn boards(mut boards: watch::Receiver<BTreeMap<&'static str, u32>>) -> Vec<String> {
    let mut seen = Vec::new();
    while boards.changed().await.is_ok() {
        seen.push(format!("{:?}", *boards.borrow_and_update()));
        sleep(millis(1000)).await;
    }
    seen
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() {
    let every = broadcast::Sender::new(4);
    let latest = watch::Sender::new(("", 0));
    let board = watch::Sender::new(BTreeMap::new());
    let (quick, slow, throttled, debounced, boards, ()) = tokio::join!(
        each(every.subscribe(), millis(10)),
        each(every.subscribe(), millis(1000)),
        throttled(latest.subscribe(), millis(500)),
        debounced(latest.subscribe(), millis(150)),
        boards(board.subscribe()),
        async move {
            let oslo = place("oslo", millis(200), 5).boxed();
            let mut merged = stream::select_all([oslo, place("lima", millis(330), 3).boxed()]);
            while let Some((name, price)) = merged.next().await {
                every.send((name, price)).ok(); // An error says only that nobody listens.
                latest.send_replace((name, price));
                board.send_modify(|it| it.extend([(name, price)]));
            }
        },
    );
    println!("quick: saw and missed {quick:?}; slow: {slow:?}");
    println!("throttled: {throttled:?}");
    println!("debounced: {debounced:?}");
    println!("boards: {}", boards.join(", then "));
}
