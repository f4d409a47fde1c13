//! A fast producer and a slow consumer: who waits, and what is lost when nobody may.

use std::time::Duration;

use tokio::sync::{Semaphore, broadcast, mpsc, watch};
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);
const PACE: Duration = Duration::from_millis(300);

/// Takes all there is, a second each.
async fn consume(mut receiver: mpsc::Receiver<u32>) -> Vec<u32> {
    let mut seen = Vec::new();
    while let Some(n) = receiver.recv().await {
        sleep(SECOND).await;
        seen.push(n);
    }
    seen
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Wait: `reserve` waits for room, and only then the next item is read or made.
    let began = Instant::now();
    let (sender, receiver) = mpsc::channel(2);
    let produce = async move {
        for n in 0..10 {
            let Ok(permit) = sender.reserve().await else { break };
            permit.send(n);
        }
        began.elapsed()
    };
    let (took, seen) = tokio::join!(produce, consume(receiver));
    println!("wait: {} of 10 arrive, and the producer took {took:?}", seen.len());
    // A sensor can't wait; it tells a number every 300 ms. Drop the newest: `try_send`.
    let (sender, receiver) = mpsc::channel(2);
    let produce = async move {
        let mut n_dropped = 0;
        for n in 0..10 {
            n_dropped += u32::from(sender.try_send(n).is_err()); // Full, or closed.
            sleep(PACE).await;
        }
        n_dropped
    };
    let (n_dropped, seen) = tokio::join!(produce, consume(receiver));
    println!("drop the newest: {seen:?}, {n_dropped} dropped");
    // Drop the oldest: a broadcast channel, which tells the receiver how many it missed.
    let (sender, mut receiver) = broadcast::channel(2);
    for n in 0..10 {
        sender.send(n)?;
    }
    let missed = receiver.recv().await.expect_err("it was too slow");
    println!("drop the oldest: {missed}, then {}", receiver.recv().await?);
    // Conflate: only the latest matters, such as a price or a progress.
    let (price, mut latest) = watch::channel(0);
    let produce = async move {
        for n in 1..=10 {
            price.send_replace(n);
            sleep(PACE).await;
        }
    };
    let look = async move {
        let mut seen = Vec::new();
        while latest.changed().await.is_ok() {
            seen.push(*latest.borrow_and_update());
            sleep(SECOND).await;
        }
        seen
    };
    println!("conflate: {:?}", tokio::join!(produce, look).1);
    // Shed: say no at once, before any work, and let the caller decide.
    let slots = Semaphore::new(2);
    let calls = (0..5).map(async |_| {
        let Ok(_slot) = slots.try_acquire() else { return "503" };
        sleep(SECOND).await;
        "200"
    });
    println!("shed: {:?}", futures::future::join_all(calls).await);
    Ok(())
}
