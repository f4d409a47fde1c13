//! How one tests async code: time that jumps, fakes, every await point, chance by seed, a server.

use std::cell::Cell;
use std::time::Duration;

use taskloom_cookbook::{Server, client};
use taskloom_flow::testing::{at_every_await_point, cancel_after};
use taskloom_flow::{Backoff, Retry, RetryError};
use tokio::sync::Mutex;
use tokio::task::yield_now;
use tokio::time::Instant;

/// What the code needs of the world. In production it is an HTTP client.
trait Mail {
    async fn send(&self, to: &str) -> Result<(), String>;
}

/// Under test it is this: too busy at first.
struct FakeMail {
    n_refusals: u32,
    n_calls: Cell<u32>,
}

impl Mail for FakeMail {
    async fn send(&self, _to: &str) -> Result<(), String> {
        self.n_calls.update(|it| it + 1);
        if self.n_calls.get() <= self.n_refusals { Err("busy".into()) } else { Ok(()) }
    }
}

/// The code under test.
async fn invite(mail: &impl Mail) -> Result<u32, RetryError<String>> {
    let retry = Retry::new(Backoff::constant(Duration::from_secs(60)));
    retry.run(async |attempt| mail.send("ada").await.map(|()| attempt)).await
}

/// The code under test: it moves ten from one account to another, and must not lose it.
async fn transfer(accounts: &Mutex<[i64; 2]>) {
    yield_now().await; // Somebody is asked.
    let mut accounts = accounts.lock().await;
    accounts[0] -= 10;
    accounts[1] += 10; // No await in between, or a drop there loses ten.
    drop(accounts);
    yield_now().await; // Somebody is told.
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A real server, on a port that the system chooses, so tests may run side by side.
    let server = Server::start().await;
    let page = client().get(server.url("/page/1")).send().await?.text().await?;
    assert!(page.contains("Page 1"));
    println!("a server of its own: {} request", server.n_requests());

    // From here on time stands still, and jumps to the next timer when all wait.
    tokio::time::pause();
    let mail = FakeMail { n_refusals: 2, n_calls: Cell::new(0) };
    let began = Instant::now();
    assert_eq!(invite(&mail).await, Ok(3));
    println!("a fake that is busy twice: sent after {} s", began.elapsed().as_secs());

    // Dropped at each await point in turn, it does all or nothing.
    let n_points = at_every_await_point(async |n_polls| {
        let accounts = Mutex::new([100, 0]);
        let ended = cancel_after(n_polls, transfer(&accounts)).await;
        assert_eq!(accounts.try_lock().map(|it| it[0] + it[1]).ok(), Some(100));
        ended.is_some()
    });
    println!("await points tried: {}", n_points.await);

    // Chance repeats: a failure prints its seed, and that seed becomes a test.
    let backoff = Backoff::default();
    for seed in 0..100 {
        let draw = || backoff.delays_with_seed(seed).take(20).collect::<Vec<_>>();
        assert_eq!(draw(), draw(), "seed {seed}");
        assert!(draw().iter().all(|it| it.as_secs() < 30), "seed {seed}");
    }
    println!("seeds tried: 100");
    Ok(())
}
