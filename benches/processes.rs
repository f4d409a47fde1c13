//! What an attempt in a child process costs, from its start to its end, beside one in the node.
//!
//! `cargo bench -p taskloom-benches --bench processes [-- JOBS]`. The store is in memory, so that
//! no commit is measured; the children are this program.

use std::time::{Duration, Instant};

use anyhow::Result;
use taskloom::{Invocation, TaskError, TaskSystem, task};

#[task]
async fn inside(n: usize) -> Result<usize, TaskError> {
    Ok(n)
}

#[task(process)]
async fn in_child(n: usize) -> Result<usize, TaskError> {
    Ok(n)
}

#[task(process(memory = "512MB"))]
fn in_capped_child(text: String) -> Result<usize, TaskError> {
    Ok(text.len())
}

fn main() -> Result<()> {
    taskloom::run_child_if_asked();
    let n_jobs: usize = std::env::args().filter_map(|it| it.parse().ok()).next().unwrap_or(300);
    let runtime = tokio::runtime::Runtime::new()?;
    let text = "x".repeat(1_000_000);
    for slots in [1, 2] {
        println!("{n_jobs} jobs, slots for {slots}:");
        let told = |what: &str, took: Duration| {
            let each = took.as_secs_f64() * 1e3 / f64::from(u32::try_from(n_jobs)?);
            println!("  {what:<42} {each:>8.3} ms each");
            anyhow::Ok(())
        };
        let took = runtime.block_on(timed(slots, (0..n_jobs).map(inside).collect()))?;
        told("in the node", took)?;
        let took = runtime.block_on(timed(slots, (0..n_jobs).map(in_child).collect()))?;
        told("in a child", took)?;
        let jobs = (0..n_jobs).map(|_| in_capped_child(text.clone())).collect();
        told("in a capped child, 1 MB of arguments", runtime.block_on(timed(slots, jobs))?)?;
    }
    Ok(())
}

async fn timed(slots: usize, jobs: Vec<Invocation<usize>>) -> Result<Duration> {
    let builder = TaskSystem::open("sqlite::memory:").max_workers(slots).max_processes(slots);
    let system = builder.start().await?;
    let began = Instant::now();
    let handles = system.submit(jobs).await?;
    system.gather(handles).await?;
    let took = began.elapsed();
    system.drain().await?;
    Ok(took)
}
