//! Calls an API at the pace it allows, host by host, and stops when it says so.

use std::time::Duration;

use taskloom_flow::{KeyedRateLimiter, RateLimiter, gather};
use tokio::time::{Instant, sleep};

/// When each of five callers that come at once is let through, in milliseconds.
async fn passes(let_through: impl AsyncFn()) -> Vec<u128> {
    let began = Instant::now();
    let callers = [(); 5].map(|()| async {
        let_through().await;
        Ok::<_, std::convert::Infallible>(began.elapsed().as_millis())
    });
    let mut passed = gather(callers).await.expect("no caller fails").to_vec();
    passed.sort_unstable();
    passed
}

/// What one writes first: look how long ago the last call was, and sleep for the rest.
#[derive(Default)]
struct Naive {
    last: parking_lot::Mutex<Option<Instant>>,
}

impl Naive {
    async fn acquire(&self) {
        let since = self.last.lock().map(|it| it.elapsed());
        if let Some(since) = since {
            // Everybody who comes meanwhile reads the same `last` and sleeps as long.
            sleep(Duration::from_millis(100).saturating_sub(since)).await;
        }
        *self.last.lock() = Some(Instant::now());
    }
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let steady = RateLimiter::new("10/s".parse()?, 1);
    println!("10/s, one by one:    {:?}", passes(async || steady.acquire().await).await);
    let bursting = RateLimiter::new("10/s".parse()?, 3);
    println!("10/s, three at once: {:?}", passes(async || bursting.acquire().await).await);
    let naive = Naive::default();
    naive.acquire().await;
    println!("check then sleep:    {:?}", passes(async || naive.acquire().await).await);

    // Each host has a rate of its own; at most 1000 hosts are remembered.
    let hosts: KeyedRateLimiter<String> = KeyedRateLimiter::new("1/s".parse()?, 1, 1000);
    let began = Instant::now();
    let calls: Vec<_> = ["a.example", "b.example", "a.example"].map(|it| hosts.acquire(it)).into();
    gather(calls).await?;
    println!("two calls of a, one of b: {:?}", began.elapsed());

    // 429 with `Retry-After: 30`: nobody else should run into it, so the limiter stops for all.
    hosts.pause_for("a.example", Duration::from_secs(30))?;
    let began = Instant::now();
    hosts.acquire("b.example").await?;
    println!("b is let through after {:?}", began.elapsed());
    hosts.acquire("a.example").await?;
    println!("a is let through after {:?}", began.elapsed());

    // Or it finds the pace itself: slower at each refusal, faster again as calls succeed.
    let adaptive = RateLimiter::new("10/s".parse()?, 1).adaptive("1/s".parse()?);
    adaptive.refused(None);
    println!("after a refusal: one every {:?}", adaptive.interval());
    Ok(())
}
