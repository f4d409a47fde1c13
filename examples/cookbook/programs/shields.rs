//! A payment that finishes although its caller went away, and what becomes of it.

use std::time::Duration;

use taskloom_flow::{TaskGroup, timeout};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Receipt {
    amount: u32,
}

/// Takes the money, and then writes that down: half of it must never happen.
async fn charge(amount: u32, ledger: mpsc::Sender<String>) -> Receipt {
    ledger.send(format!("took {amount}")).await.ok();
    sleep(SECOND * 3).await;
    ledger.send(format!("wrote down {amount}")).await.ok();
    Receipt { amount }
}

/// The handler of a request. Its client may go away at any time.
async fn buy(group: &TaskGroup, amount: u32, ledger: mpsc::Sender<String>) -> Option<Receipt> {
    let unclaimed = ledger.clone();
    let charged = group.shield("charge", charge(amount, ledger), move |receipt| {
        // Not async, and quick: it leaves the receipt where somebody finds it.
        unclaimed.try_send(format!("to be refunded: {}", receipt.amount)).ok();
    });
    charged.await.ok()
}

fn tell(what: &str, ledger: &mut mpsc::Receiver<String>) {
    let mut lines = Vec::new();
    while let Ok(line) = ledger.try_recv() {
        lines.push(line);
    }
    println!("{what}: {lines:?}");
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (sender, mut ledger) = mpsc::channel(16);

    // Unshielded: the money is gone, and nobody knows.
    timeout(SECOND, charge(10, sender.clone())).await.expect_err("it takes three seconds");
    tell("cut short", &mut ledger);

    // Shielded: whoever waits long enough has the receipt.
    let group = TaskGroup::new();
    let receipt = buy(&group, 20, sender.clone()).await;
    tell(&format!("waited for, {receipt:?}"), &mut ledger);

    // The caller is cancelled after a second. The charge goes on, and its receipt is handed over.
    let began = Instant::now();
    let bought = timeout(SECOND, buy(&group, 30, sender.clone()));
    bought.await.expect_err("the client went away");
    println!("the client left after {:?}", began.elapsed());
    group.join().await?;
    tell(&format!("unclaimed, after {:?}", began.elapsed()), &mut ledger);

    // Even when the whole group is cancelled. `join` waits for it.
    let group = TaskGroup::new();
    let charged = group.shield("charge", charge(40, sender.clone()), drop);
    group.cancel("the program stops");
    group.join().await?;
    tell(&format!("cancelled, {:?}", charged.await?), &mut ledger);

    // Only the deadline of a drain ends it: it bounds how long a stop may take.
    let group = TaskGroup::new();
    drop(group.shield("charge", charge(50, sender), drop));
    println!("drained: {} cut short", group.drain(SECOND).await.n_aborted);
    Ok(())
}
