//! Six queues, each with what it alone does.

use std::time::Duration;

use taskloom_flow::{PriorityQueue, TaskGroup, WorkQueue, gather};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{mpsc, oneshot, watch};

/// A question, with the way back for its answer.
struct Square {
    n: u64,
    answer: oneshot::Sender<u64>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let group = TaskGroup::new();

    // mpsc takes questions to the one who owns the state; a oneshot takes each answer back.
    let (questions, mut asked) = mpsc::channel::<Square>(8);
    group.spawn("squares", async move {
        while let Some(Square { n, answer }) = asked.recv().await {
            answer.send(n * n).ok(); // Whoever asked may have left.
        }
    });
    let ask = async |n| {
        let (answer, answered) = oneshot::channel();
        questions.send(Square { n, answer }).await.ok();
        answered.await
    };
    println!("mpsc and oneshot: {:?}", gather(vec![ask(3), ask(4)]).await?);
    drop(questions);

    // PriorityQueue: the highest first, and the oldest first among equals.
    let queue = PriorityQueue::new(10);
    for (item, priority) in [("report 1", 1), ("alarm 1", 9), ("report 2", 1), ("alarm 2", 9)] {
        queue.push(item, priority).await?;
    }
    queue.close();
    let mut order = Vec::new();
    while let Some(item) = queue.pop().await {
        order.push(item);
    }
    println!("PriorityQueue: {order:?}");

    // WorkQueue: `join` waits until the work is done, not only taken.
    let queue = WorkQueue::new(10);
    let worker = queue.clone();
    group.spawn("worker", async move {
        while let Some(_item) = worker.pop().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    queue.push("a").await?;
    queue.push("b").await?;
    queue.join().await;
    println!("WorkQueue: {} done at join", queue.stats().n_done);
    queue.close();

    // watch: the latest value; those between are gone.
    let (level, mut seen) = watch::channel(0);
    for n in 1..=5 {
        level.send(n)?;
    }
    seen.changed().await?;
    println!("watch: {}", *seen.borrow_and_update());

    // broadcast: every value to every receiver; one that is too slow is told what it missed.
    let (news, mut quick) = broadcast::channel(4);
    let mut slow = news.subscribe();
    for n in 1..=6 {
        news.send(n)?;
        quick.recv().await?;
    }
    let missed = slow.recv().await;
    println!("broadcast: {:?}, then {}", missed, slow.recv().await?);
    assert_eq!(missed, Err(RecvError::Lagged(2)));

    Ok(group.join().await?)
}
