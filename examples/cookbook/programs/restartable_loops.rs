//! Something every ten seconds, for ever: slow calls, failures and a hang included.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use taskloom_flow::{Cancellation, ChildSpec, Every, MissedTicks, Supervisor};
use tokio::time::{Instant, sleep};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// The loop: polls every ten seconds, and ends with the first error.
fn poller(began: Instant, enough: Cancellation) -> ChildSpec {
    let n_calls = Arc::new(AtomicU32::new(0));
    ChildSpec::new("poller", move |child| {
        let (n_calls, enough) = (Arc::clone(&n_calls), enough.clone());
        async move {
            let mut every = Every::new(secs(10)).heartbeat(child.heartbeat());
            every
                .run(child.cancellation(), async move |tick| {
                    let n = n_calls.fetch_add(1, Ordering::Relaxed) + 1;
                    let (now, missed) = (began.elapsed().as_secs(), tick.n_missed);
                    println!("{now:>3} s: call {n}, {missed} missed before it");
                    match n {
                        2 => sleep(secs(25)).await, // Slow: over the next two ticks.
                        4 => return Err("connection reset".into()),
                        6 => pending().await, // Hangs, and gives no sign of life.
                        8 => enough.cancel("enough"),
                        _ => {}
                    }
                    Ok(())
                })
                .await
        }
    })
    .heartbeat(secs(60)) // Longer than a period and the slowest call.
    .grace(secs(1))
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The supervisor starts the loop again after an error, and after a hang.
    let (began, enough) = (Instant::now(), Cancellation::new());
    let supervisor = Supervisor::new()
        .backoff(Duration::from_millis(100), secs(30))
        .child(poller(began, enough.clone()));
    let handle = supervisor.handle();
    supervisor.run(&enough).await?;
    let poller = &handle.health()[0];
    println!("{} restarts; the last error: {:?}", poller.n_restarts, poller.last_error);

    // Missed ticks are skipped unless told: here up to three of them are made up for.
    let mut every = Every::new(secs(10)).missed(MissedTicks::CatchUp(3));
    let began = Instant::now();
    every.tick().await;
    sleep(secs(95)).await;
    let mut ticks = Vec::new();
    for _ in 0..4 {
        let tick = every.tick().await;
        ticks.push((tick.due.duration_since(began).as_secs(), began.elapsed().as_secs()));
    }
    println!("due and came: {ticks:?}; {} never came", every.stats().n_missed);

    // Jitter: many such loops don't tick together, and the mean pace stays.
    let mut every = Every::new(secs(10)).jitter(0.2);
    let began = Instant::now();
    for n in 0..100 {
        every.tick().await;
        let late = began.elapsed() - secs(10 * n);
        assert!(late <= secs(2) + Duration::from_millis(1), "tick {n} came {late:?} late");
    }
    println!("100 ticks, each up to 2 s after its place");
    Ok(())
}
