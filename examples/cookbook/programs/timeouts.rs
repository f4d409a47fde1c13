//! Time limits: for a call, until a moment, within the limits around it.

use std::time::Duration;

use taskloom_flow::{
    TaskGroup, TimedOut, deadline, remaining, timeout, timeout_or, without_deadline,
};
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

/// Answers after two seconds.
async fn price() -> u32 {
    sleep(SECOND * 2).await;
    42
}

/// Three calls in a row, each with ten seconds at most; it knows nothing of its callers.
async fn order() -> Result<u32, TimedOut> {
    let mut total = 0;
    for n in 1..=3 {
        total += timeout(SECOND * 10, price()).await?;
        let left = remaining().map_or("no limit".to_owned(), |it| format!("{it:?} left"));
        println!("  call {n} answered, {left}");
    }
    Ok(total)
}

/// Gives back what a purchase holds: three seconds of the five that it allows itself.
async fn release() -> Result<(), TimedOut> {
    timeout(SECOND * 5, sleep(SECOND * 3)).await
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), TimedOut> {
    println!("within three seconds: {:?}", timeout(SECOND * 3, price()).await);
    println!("within one: {}", timeout(SECOND, price()).await.expect_err("it needs two"));
    println!("or a guess: {}", timeout_or(SECOND, price(), || 40).await);

    // Two calls that share one moment: each sleeps two seconds of the three.
    let at = Instant::now() + SECOND * 3;
    let (first, second) = (deadline(at, price()).await, deadline(at, price()).await);
    println!("until the same moment: {} and {}", first.is_ok(), second.is_ok());

    println!("an order without a limit:");
    println!("{:?}", order().await);

    // The inner ten seconds can't outlast the outer five.
    println!("an order within five seconds:");
    let began = Instant::now();
    let said = timeout(SECOND * 5, order()).await;
    println!("{said:?} after {:?}", began.elapsed());

    // A routine inherits the deadline of whoever spawned it, unless it is told otherwise.
    let group = TaskGroup::isolated();
    let start_both = async {
        let hurried = group.spawn("hurried", release());
        (hurried, group.spawn("whole", without_deadline(release())))
    };
    let (hurried, whole) = timeout(SECOND, start_both).await?;
    println!("released: {} and {}", hurried.await.is_ok(), whole.await.is_ok());
    let drained = group.drain(SECOND).await;
    for (name, failure) in drained.failures {
        println!("{name}: {failure}");
    }
    Ok(())
}
