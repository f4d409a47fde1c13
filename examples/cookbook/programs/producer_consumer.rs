//! Several producers and consumers, one bounded queue, and an end that nobody has to announce.

use std::time::Duration;

use taskloom_cookbook::{Server, client};
use taskloom_flow::{Failure, QueueClosed, TaskGroup, WorkQueue, WorkerPool};
use tokio::sync::mpsc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (server, client) = (Server::start().await, client());

    // Four consumers. At most eight items wait or are worked on; then producers wait.
    let (queue, root) = (WorkQueue::new(8), server.url(""));
    let pool = WorkerPool::start("fetch", 4, queue.clone(), move |path: String, _worker| {
        let call = client.get(format!("{root}{path}")).send();
        async move { call.await?.error_for_status().map(drop) }
    });

    // Three producers of ten items each, and one more that is bad.
    let producers = TaskGroup::new();
    for producer in 0..3 {
        let queue = queue.clone();
        producers.spawn("producer", async move {
            for n in 0..10 {
                queue.push(format!("/page/{}", 10 * producer + n)).await?;
            }
            Ok::<(), QueueClosed<String>>(())
        });
    }
    queue.push("/missing".to_owned()).await?;

    // The end: all producers have ended, and all that they pushed is done.
    producers.join().await?;
    queue.join().await;
    println!("pushed {}, done {}", queue.stats().n_pushed, queue.stats().n_done);

    let report = pool.drain(Duration::from_secs(10)).await;
    let n_done: u64 = report.workers.iter().map(|it| it.n_done).sum();
    println!("{} workers fetched {n_done} pages", report.workers.len());
    for failure in &report.failures {
        let Failure::Error(error) = &failure.cause else { panic!("no handler panics") };
        println!("not fetched: {:?}", error.status());
    }
    println!("never over 4 requests at once: {}", server.n_at_once_most() <= 4);

    // One consumer: Tokio's channel is enough. It ends when the last sender is dropped.
    let (sender, mut receiver) = mpsc::channel(8);
    let producers = TaskGroup::new();
    for producer in 0..3 {
        let sender = sender.clone();
        producers.spawn("producer", async move {
            for n in 0..10 {
                sender.send(100 * producer + n).await?;
            }
            Ok::<(), mpsc::error::SendError<u32>>(())
        });
    }
    drop(sender);
    let mut sum = 0;
    while let Some(n) = receiver.recv().await {
        sum += n;
    }
    println!("the sum of what came: {sum}");
    Ok(())
}
