//! Failed items come back later, a bounded number of times, while the others go on.

use std::time::Duration;

use taskloom_flow::{Backoff, Jitter, TaskGroup, WorkQueue};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

const N_TRIES_MAX: usize = 4;

/// Stands for a mail server: `bob` is away until the third try, `eve` for ever.
async fn deliver(to: &str, n_try: usize) -> Result<(), String> {
    sleep(Duration::from_millis(100)).await;
    match to {
        "bob" if n_try < 3 => Err("mailbox busy".into()),
        "eve" => Err("no such mailbox".into()),
        _ => Ok(()),
    }
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [first, max] = [1, 60].map(Duration::from_secs);
    let backoff = Backoff::new(first, 2.0, max, Jitter::None)?;
    let began = Instant::now();
    let queue: WorkQueue<String> = WorkQueue::new(100);
    let (dead_in, mut dead) = mpsc::channel(100);

    let group = TaskGroup::new();
    for _ in 0..2 {
        let (queue, dead, spawner) = (queue.clone(), dead_in.clone(), group.spawner());
        group.spawn("worker", async move {
            while let Some(to) = queue.pop().await {
                let n_tries = to.n_requeues() as usize + 1;
                let Err(error) = deliver(&to, n_tries).await else {
                    println!(
                        "{:.1} s: {} has it, try {n_tries}",
                        began.elapsed().as_secs_f64(),
                        *to
                    );
                    continue; // Dropped here, and so done.
                };
                if N_TRIES_MAX <= n_tries {
                    // Moved to the dead letters: this queue is done with it.
                    dead.send((to.to_string(), error)).await.ok();
                    continue;
                }
                // Its guard waits elsewhere and keeps its place; the worker takes the next.
                let delay = backoff.delays().nth(n_tries - 1).expect("they never end");
                spawner.spawn("later", async move {
                    sleep(delay).await;
                    to.requeue();
                });
            }
        });
    }
    drop(dead_in);

    for to in ["eve", "bob", "ann", "dan", "fay"] {
        queue.push(to.to_owned()).await?;
    }
    // Waits for those that are to come back, too. Closed before that, the workers would leave.
    queue.join().await;
    queue.close();
    group.join().await?;

    println!("{:.1} s: all done", began.elapsed().as_secs_f64());
    println!("{} times an item was put back", queue.stats().n_requeued);
    while let Some((to, error)) = dead.recv().await {
        println!("dead letter to {to} after {N_TRIES_MAX} tries: {error}");
    }
    Ok(())
}
