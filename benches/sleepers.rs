//! How close slots come to the ideal: jobs that sleep, more of them than slots.
//!
//! `cargo bench -p taskloom-benches --bench sleepers` runs 2,000 jobs of 50 ms on 200 slots three
//! times; the ideal is 0.5 s. It prints the excess over it.

use std::time::{Duration, Instant};

use anyhow::Result;
use taskloom::{Ctx, Invoke, Task, TaskError, TaskSystem};

const N_JOBS: u32 = 2_000;
const SLOTS: u32 = 200;
const SLEEP: Duration = Duration::from_millis(50);

#[derive(Debug)]
struct Sleeper;

impl Task for Sleeper {
    const NAME: &'static str = "sleeper";
    type Args = ();
    type Output = ();

    async fn run(&self, _ctx: &Ctx, (): ()) -> Result<(), TaskError> {
        tokio::time::sleep(SLEEP).await;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let ideal = SLEEP * N_JOBS / SLOTS;
    for _ in 0..3 {
        let folder = tempfile::tempdir_in(".")?;
        let url = format!("sqlite://{}", folder.path().join("sleepers.db").display());
        let queued = TaskSystem::open(&url).connect().await?;
        let jobs: Vec<_> = (0..N_JOBS).map(|_| Sleeper.invoke(())).collect();
        let ids: Vec<_> = queued.submit(jobs).await?.iter().map(|it| it.id()).collect();
        drop(queued);
        let builder = TaskSystem::open(&url).task(Sleeper);
        let began = Instant::now();
        let system = builder.max_workers(usize::try_from(SLOTS)?).start().await?;
        system.gather(ids.into_iter().map(|id| system.job::<()>(id))).await?;
        let took = began.elapsed();
        let excess = (took.as_secs_f64() / ideal.as_secs_f64() - 1.0) * 100.0;
        println!(
            "{N_JOBS} jobs of {SLEEP:?} on {SLOTS} slots: {took:.3?}, {excess:.1} % over the ideal {ideal:?}"
        );
        system.drain().await?;
    }
    Ok(())
}
