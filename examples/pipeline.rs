//! Jobs that depend on others, a CPU-bound task on a thread of its own, and results as they come.

use futures::StreamExt;
use taskloom::prelude::*;

/// Runs on a thread: a plain `fn` may take its time without holding up async tasks.
#[task]
fn count_primes(below: u64) -> Result<u64, TaskError> {
    let is_prime = |n: &u64| (2..).take_while(|d| d * d <= *n).all(|d| !n.is_multiple_of(d));
    Ok((2..below).filter(is_prime).count() as u64)
}

/// Runs once the others have succeeded.
#[task]
async fn announce(what: String) -> Result<String, TaskError> {
    Ok(format!("{what} is done"))
}

#[tokio::main]
async fn main() -> Result<(), taskloom::Error> {
    let system = TaskSystem::open("sqlite://pipeline.db").blocking_workers(2).start().await?;
    let counts = system.submit([10, 100, 1_000].map(count_primes)).await?;
    let last = system.submit(announce("counting".into()).after(&counts.to_vec())).await?;
    let mut ended = system.as_completed(counts).await?;
    let mut primes = Vec::new();
    while let Some((_handle, result)) = ended.next().await {
        primes.push(result?);
    }
    primes.sort_unstable();
    println!("{primes:?}: {}", last.await?);
    system.drain().await
}
