//! Cancelling: a tree of tokens, a dropped future, an orderly end, a loop that loses nothing.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use taskloom_flow::{BoxError, Cancellation, TaskGroup, timeout};
use tokio::sync::mpsc::{Receiver, Sender, channel, error::SendError};
use tokio::time::{interval, sleep};

const SECOND: Duration = Duration::from_secs(1);

async fn send_numbers(sender: Sender<u32>) -> Result<(), SendError<u32>> {
    for n in 1..=6 {
        sleep(SECOND * 2).await;
        sender.send(n).await?;
    }
    Ok(())
}

/// Waits twice. Dropped at the second wait, it takes the first number with it.
async fn next_two(numbers: &mut Receiver<u32>) -> Option<u32> {
    Some(numbers.recv().await? + numbers.recv().await?)
}

/// Adds up the numbers. At each tick `next` is dropped where it waits, and begun anew.
async fn sum(
    mut numbers: Receiver<u32>,
    next: impl AsyncFn(&mut Receiver<u32>) -> Option<u32>,
) -> u32 {
    let (mut sum, mut ticker) = (0, interval(SECOND * 31 / 10));
    loop {
        tokio::select! {
            _ = ticker.tick() => {}
            number = next(&mut numbers) => match number {
                Some(number) => sum += number,
                None => return sum,
            },
        }
    }
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), BoxError> {
    let program = Cancellation::new();
    let (request, sibling) = (program.child(), program.child());
    request.cancel("the client went away");
    println!("{}", request.run(pending::<()>()).await.expect_err("it was cancelled"));
    println!("its sibling is cancelled: {}", sibling.is_cancelled());

    // A dropped future lets go of what it holds, and does no more.
    let held = Arc::new(());
    let inside = Arc::clone(&held);
    let work = async move {
        sleep(SECOND * 10).await;
        drop(inside);
    };
    println!("{}", timeout(SECOND, work).await.expect_err("it takes ten"));
    println!("it let go: {}", Arc::strong_count(&held) == 1);

    // It holds the token: it hears why, and has the grace of its group to end well.
    let group = TaskGroup::new().under(&program).grace(SECOND * 5);
    let writer = group.spawn_with("writer", |cancel| async move {
        let reason = cancel.cancelled().await;
        sleep(SECOND).await;
        Ok::<_, BoxError>(format!("flushed, because {reason}"))
    });
    program.cancel("the operator said so");
    group.join().await?;
    println!("{}", writer.await?);

    let group = TaskGroup::new();
    let [first, second] = [(); 2].map(|()| {
        let (sender, numbers) = channel(1);
        group.spawn("numbers", send_numbers(sender));
        numbers
    });
    // `recv` takes a number only when it gives it: dropped before, it has taken none.
    let one = async |numbers: &mut Receiver<u32>| numbers.recv().await;
    let (lossy, lossless) = tokio::join!(sum(first, next_two), sum(second, one));
    println!("the sum of 1 to 6: {lossy} two by two, {lossless} one by one");
    Ok(())
}
