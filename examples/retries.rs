//! What follows an error: a retry with backoff, a wait that the other side asked for, or the end.

use std::time::Duration;

use taskloom::prelude::*;

/// Fails twice, then succeeds. The attributes say the same as
/// `#[task(name = "flaky", retry(max_attempts = 3, backoff = "100ms"), timeout = "5s")]`.
#[task("flaky")]
#[retry(max_attempts = 3, backoff = "100ms")]
#[timeout(seconds = 5)]
#[priority(level = 5)]
#[log_execution]
#[measure_performance]
async fn flaky(ctx: &Ctx) -> Result<u32, TaskError> {
    match ctx.attempt() {
        1 => Err(TaskError::new("the other side hung up").code("flaky.hung_up")),
        // Overrides the backoff, as `Retry-After` does.
        2 => Err(TaskError::new("busy").retry_after(Duration::from_millis(50))),
        n => Ok(n),
    }
}

/// No retry can cure this.
#[task]
async fn refuse(reason: String) -> Result<(), TaskError> {
    Err(TaskError::permanent(reason).code("refuse.asked"))
}

#[tokio::main]
async fn main() -> Result<(), taskloom::Error> {
    let system = TaskSystem::open("sqlite://retries.db").start().await?;
    let (flaky, refused) = system.submit((flaky(), refuse("as asked".into()))).await?;
    println!("flaky succeeded at attempt {}", flaky.clone().await?);
    for attempt in system.store().attempts(flaky.id()).await? {
        let error = attempt.error.map(|it| it.message).unwrap_or_default();
        println!("  attempt {}: {} {error}", attempt.attempt, attempt.outcome);
    }
    match refused.await {
        Err(JobError::Failed { reason, .. }) => println!("refused failed: {}", reason.as_str()),
        other => println!("refused: {other:?}"),
    }
    system.drain().await
}
