//! Attempts in child processes: a leak or a crash is the child's alone.

use taskloom::prelude::*;

/// Counts primes with whatever memory it likes, up to its cap: what it leaks goes with the child.
#[task(process(memory = "256MB", grace = "1s"))]
fn count_primes(below: usize) -> Result<usize, TaskError> {
    let mut is_prime = vec![true; below];
    for n in (2..).take_while(|n| n * n < below) {
        if is_prime[n] {
            (n * n..below).step_by(n).for_each(|it| is_prime[it] = false);
        }
    }
    Ok(is_prime.leak().iter().skip(2).filter(|&&it| it).count())
}

/// Brings its process down at the first attempt, as a fault in a C library would.
#[task(process, retry(max_attempts = 2, backoff = "10ms"))]
async fn crash_once(ctx: &Ctx) -> Result<u32, TaskError> {
    match ctx.attempt() {
        1 => std::process::abort(),
        n => Ok(n),
    }
}

#[tokio::main]
async fn main() -> Result<(), taskloom::Error> {
    // A child does what stands in `main` up to here, and does not come back from here.
    taskloom::run_child_if_asked();
    let system = TaskSystem::open("sqlite://process.db").max_processes(2).start().await?;
    let (primes, crashing) = system.submit((count_primes(1_000_000), crash_once())).await?;
    println!("{} primes below a million", primes.await?);
    println!("succeeded at attempt {}", crashing.clone().await?);
    let attempts = system.store().attempts(crashing.id()).await?;
    let first = attempts.first().and_then(|it| it.error.as_ref());
    println!("the first: {}", first.and_then(|it| it.code.as_deref()).unwrap_or("no error"));
    system.drain().await
}
