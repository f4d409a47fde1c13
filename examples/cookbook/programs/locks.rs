//! Sharing and meeting: two kinds of locks, permits, a barrier, a signal, a value to watch.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use taskloom_flow::{BoxError, TaskGroup};
use tokio::sync::{self, Barrier, Notify, OnceCell, Semaphore, watch};
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

struct World {
    /// All five begin together.
    start: Barrier,
    /// Made once, by whoever comes first; the others wait for it.
    token: OnceCell<&'static str>,
    /// At most three at a time.
    slots: Semaphore,
    /// One at a time speaks on the line, from the question to the answer: Tokio's lock.
    line: sync::Mutex<Vec<u32>>,
    /// Held for a moment, never across an await: the plain lock.
    counts: Mutex<Counts>,
    /// The counts changed; look again.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Counts {
    n_logins: u32,
    n_done: u32,
}

impl World {
    async fn work(&self, id: u32) -> Result<(), BoxError> {
        self.start.wait().await;
        let log_in = async || {
            self.counts.lock().n_logins += 1;
            sleep(SECOND).await;
            "secret"
        };
        self.token.get_or_init(log_in).await;
        let slot = self.slots.acquire().await?;
        sleep(SECOND * 10).await;
        drop(slot);
        let mut line = self.line.lock().await;
        sleep(SECOND).await;
        line.push(id);
        drop(line);
        // This guard ends within its statement.
        self.counts.lock().n_done += 1;
        self.changed.notify_one();
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), BoxError> {
    let (start, token) = (Barrier::new(5), OnceCell::new());
    let (slots, line) = (Semaphore::new(3), sync::Mutex::default());
    let (counts, changed) = (Mutex::default(), Notify::new());
    let world = Arc::new(World { start, token, slots, line, counts, changed });
    let (group, began) = (TaskGroup::new(), Instant::now());
    for id in 0..5 {
        let world = Arc::clone(&world);
        group.spawn("worker", async move { world.work(id).await });
    }
    // A condition: look, wait for a change, look again. notify_one keeps its permit, so a change
    // between the look and the wait is not lost.
    while world.counts.lock().n_done < 5 {
        world.changed.notified().await;
    }
    group.join().await?;
    println!("{:?} after {:?}", world.counts.lock(), began.elapsed());
    println!("spoke on the line: {}", world.line.lock().await.len());

    // An event with a value: whoever looks late finds the latest.
    let (state, mut seen) = watch::channel("starting");
    let mut late = seen.clone();
    state.send("ready")?;
    println!("seen: {:?}", *seen.wait_for(|it| *it == "ready").await?);
    state.send("closing")?;
    println!("late: {:?}", *late.borrow_and_update());
    Ok(())
}
