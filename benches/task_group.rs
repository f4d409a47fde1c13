//! Spawning and joining routines: `TaskGroup` beside Tokio's `JoinSet`, alternately in one run.

use std::hint::black_box;
use std::time::Instant;

use taskloom_flow::TaskGroup;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

const N_ROUTINES: usize = 20_000;
const N_ROUNDS: usize = 41;

fn main() {
    let current = Builder::new_current_thread().build().unwrap();
    let several = Builder::new_multi_thread().worker_threads(2).build().unwrap();
    println!("{N_ROUTINES} routines spawned and joined, median of {N_ROUNDS} rounds, ns a routine");
    println!("{:<16} {:>9} {:>10} {:>7}", "runtime", "JoinSet", "TaskGroup", "ratio");
    for (name, runtime) in [("current thread", &current), ("two workers", &several)] {
        let (mut bare, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..N_ROUNDS {
            bare.push(time(runtime, join_set()));
            ours.push(time(runtime, task_group()));
        }
        let (bare, ours) = (median(bare), median(ours));
        println!("{name:<16} {bare:>9.0} {ours:>10.0} {:>7.2}", ours / bare);
    }
}

async fn join_set() {
    let mut set = JoinSet::new();
    for n in 0..N_ROUTINES {
        set.spawn(async move { Ok::<_, std::io::Error>(black_box(n)) });
    }
    while let Some(joined) = set.join_next().await {
        joined.unwrap().unwrap();
    }
}

async fn task_group() {
    let group = TaskGroup::new();
    for n in 0..N_ROUTINES {
        group.spawn("routine", async move { Ok::<_, std::io::Error>(black_box(n)) });
    }
    group.join().await.unwrap();
}

/// Nanoseconds a routine. Spawned, so that the workers of a runtime are all it runs on.
fn time(runtime: &Runtime, work: impl Future<Output = ()> + Send + 'static) -> f64 {
    let began = Instant::now();
    #[expect(clippy::disallowed_methods, reason = "what is measured must not own it")]
    runtime.block_on(async { tokio::spawn(work).await.unwrap() });
    began.elapsed().as_nanos() as f64 / N_ROUTINES as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
