//! A first durable task.

use taskloom::prelude::*;

/// Adds two numbers, durably.
#[task(retry(max_attempts = 3, backoff = "1s"), timeout = "10s")]
async fn add(ctx: &Ctx, a: i64, b: i64) -> Result<i64, TaskError> {
    ctx.log(format!("attempt {}", ctx.attempt()));
    Ok(a + b)
}

#[tokio::main]
async fn main() -> Result<(), taskloom::Error> {
    let system = TaskSystem::open("sqlite://jobs.db").max_workers(10).start().await?;
    let (a, b) = system.submit((add(1, 2), add(3, 4).delay("1s"))).await?;
    println!("{} and {}", a.await?, b.await?);
    system.drain().await?;
    Ok(())
}
