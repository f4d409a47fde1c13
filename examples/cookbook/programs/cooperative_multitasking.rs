//! One thread, two routines: when does the other have its turn?

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use taskloom_flow::{Offload, TaskGroup};
use tokio::sync::mpsc;
use tokio::task::{spawn_blocking, yield_now};

const N: usize = 10_000;

/// How many turns the other routine has had.
#[derive(Clone, Default)]
struct Turns(Arc<AtomicUsize>);

impl Turns {
    fn n(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// How many turns it has during `work`.
    async fn during(&self, work: impl Future) -> usize {
        let n_before = self.n();
        work.await;
        self.n() - n_before
    }

    /// Keeps a processor busy until the other has had three turns.
    fn compute(&self) {
        let n_before = self.n();
        while self.n() < n_before + 3 {}
    }
}

/// Is ready at once, so awaiting it gives nothing away.
async fn step() {}

async fn steps(yield_each: usize) {
    for n in 1..=N {
        step().await;
        if n % yield_each == 0 {
            yield_now().await;
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let turns = Turns::default();
    let (group, other) = (TaskGroup::new(), turns.clone());
    group.spawn("other", async move {
        loop {
            other.0.fetch_add(1, Ordering::Relaxed);
            yield_now().await;
        }
    });
    println!("10,000 awaits: {}", turns.during(steps(usize::MAX)).await);
    println!("the same, with a yield for each 1000: {}", turns.during(steps(1000)).await);

    // Tokio's own primitives count: after 128 operations they are pending once.
    let (sender, mut receiver) = mpsc::channel(N);
    (0..N).try_for_each(|n| sender.try_send(n))?;
    let receives = async { while receiver.recv().await.is_some_and(|n| n < N - 1) {} };
    println!("10,000 receives from a full channel: {}", turns.during(receives).await);

    // On this thread, `compute` would never end. On another one it hinders nobody.
    let here = turns.clone();
    let n_turns = turns.during(spawn_blocking(move || here.compute())).await;
    println!("spawn_blocking: three or more, {}", 3 <= n_turns);

    // The same on a bounded number of threads, for what keeps the processor busy.
    let (pool, here) = (Offload::new("compute", 2), turns.clone());
    let computed = pool.run(move |_cancel| here.compute());
    println!("Offload: three or more, {}", 3 <= turns.during(computed).await);
    Ok(())
}
