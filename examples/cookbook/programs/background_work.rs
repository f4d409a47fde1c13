//! Work in the background that has an owner: it is heard of, and finished before the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use taskloom_flow::{Ended, Spawner, TaskGroup};
use tokio::time::sleep;

const SECOND: Duration = Duration::from_secs(1);

/// Counts the mails that went out.
#[derive(Clone, Default)]
struct Outbox(Arc<AtomicUsize>);

impl Outbox {
    async fn send(self, to: &'static str) -> Result<(), String> {
        sleep(SECOND * 2).await;
        match to {
            "nobody" => Err("no such mailbox".to_owned()),
            "the slow one" => std::future::pending().await,
            _ => {
                self.0.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    fn n_sent(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Answers at once; the mail goes out later. It is handed the right to spawn, not the group.
fn sign_up(name: &'static str, background: &Spawner, outbox: &Outbox) {
    background.spawn(format!("mail to {name}"), outbox.clone().send(name));
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() {
    let outbox = Outbox::default();
    // Its owner is whoever ends the program. Isolated: a mail that fails stops no other.
    let mut background = TaskGroup::isolated();
    let spawner = background.spawner();

    for name in ["ada", "nobody", "alan"] {
        sign_up(name, &spawner, &outbox);
    }
    println!("signed up 3, mails sent: {}", outbox.n_sent());

    // The owner hears of each end, and can log it, count it, or start it again.
    while let Some(Ended { name, end }) = background.join_next().await {
        println!("{name}: {end:?}");
    }

    // At the end of the program: what was begun has three seconds to finish.
    for name in ["grace", "nobody", "the slow one"] {
        sign_up(name, &spawner, &outbox);
    }
    println!("still to do: {}", background.len());
    let drained = background.drain(SECOND * 3).await;
    let failed: Vec<String> = drained.failures.iter().map(|(name, _)| name.to_string()).collect();
    println!("failed: {failed:?}, aborted: {}", drained.n_aborted);
    println!("mails sent: {}", outbox.n_sent());

    // The group is gone; a late call is refused and leaves nothing behind.
    let late = spawner.spawn("late", outbox.clone().send("ada"));
    println!("after the drain: {}", late.await.expect_err("it is refused"));
}
