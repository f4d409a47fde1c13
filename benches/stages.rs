//! Three trivial stages of `Stages`, beside three hand-written routines and Tokio channels.
//!
//! `cargo bench -p taskloom-benches --bench stages [-- ITEMS]` prints items a second and CPU
//! nanoseconds an item, measured alternately in one run: the machine's moods fall on both. The
//! rival sends one item at a time, as such loops are written.

use std::convert::Infallible;
use std::time::Instant;

use anyhow::Result;
use taskloom_flow::{Stages, TaskGroup};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

/// As in the shipped binary; the bare loop has it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 5;
/// What `Stages` has by default.
const QUEUE: usize = 1_024;

/// Items a second, and nanoseconds of CPU an item.
type Measured = (f64, f64);
/// Moves so many items.
type Way = fn(&Runtime, u64);

fn main() -> Result<()> {
    let n_items = std::env::args().filter_map(|it| it.parse().ok()).next().unwrap_or(5_000_000);
    let runtime = Builder::new_multi_thread().worker_threads(2).build()?;
    println!("{n_items} items of 8 bytes, 3 stages, 2 threads, median of {ROUNDS} rounds");
    let ways: [(&str, Way); 6] = [
        ("bare tokio::mpsc routines", |runtime, n| runtime.block_on(bare(n))),
        ("Stages, any order", |runtime, n| runtime.block_on(any_order(n, 1))),
        ("Stages, 4 workers each", |runtime, n| runtime.block_on(any_order(n, 4))),
        ("Stages, in order, 4 workers", |runtime, n| runtime.block_on(in_order(n))),
        ("Stages, by key, 4 workers", |runtime, n| runtime.block_on(by_key(n))),
        ("Stages, on threads", |runtime, n| runtime.block_on(on_threads(n))),
    ];
    let mut measured: Vec<Vec<Measured>> = vec![Vec::new(); ways.len()];
    for _ in 0..ROUNDS {
        for (way, rounds) in ways.iter().zip(&mut measured) {
            rounds.push(timed(n_items, || way.1(&runtime, n_items)));
        }
    }
    let bare = median(&mut measured[0]).0;
    for ((name, _), rounds) in ways.iter().zip(&mut measured) {
        let (rate, cpu) = median(rounds);
        let ratio = rate / bare;
        println!("{name:<28} {rate:>11.0} items/s  {cpu:>6.0} ns CPU an item  ratio {ratio:.2}");
    }
    Ok(())
}

/// The round in the middle, by rate.
fn median(rounds: &mut [Measured]) -> Measured {
    rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    rounds[rounds.len() / 2]
}

#[expect(clippy::cast_precision_loss, reason = "counts of a bench are far below 2^52")]
fn timed(n_items: u64, run: impl FnOnce()) -> Measured {
    let (began, cpu) = (Instant::now(), cpu_seconds());
    run();
    let n_items = n_items as f64;
    (n_items / began.elapsed().as_secs_f64(), (cpu_seconds() - cpu) * 1e9 / n_items)
}

/// User and system time of this process, in hundredths.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks: f64 = fields.iter().skip(11).take(2).filter_map(|it| it.parse::<f64>().ok()).sum();
    ticks / 100.0
}

async fn bare(n_items: u64) {
    let (to_first, mut first) = mpsc::channel(QUEUE);
    let (to_second, mut second) = mpsc::channel(QUEUE);
    let (to_third, mut third) = mpsc::channel(QUEUE);
    let mut group = TaskGroup::new();
    group.spawn("source", async move {
        for item in 0..n_items {
            to_first.send(item).await.ok();
        }
    });
    group.spawn("add", async move {
        while let Some(item) = first.recv().await {
            to_second.send(add(item)).await.ok();
        }
    });
    group.spawn("double", async move {
        while let Some(item) = second.recv().await {
            to_third.send(double(item)).await.ok();
        }
    });
    group.spawn("look", async move {
        while let Some(item) = third.recv().await {
            std::hint::black_box(item);
        }
    });
    while group.join_next().await.is_some() {}
}

async fn any_order(n_items: u64, n_workers: usize) {
    finish(n_items, n_workers, Stages::from(0..n_items)).await;
}

async fn in_order(n_items: u64) {
    finish(n_items, 4, Stages::from(0..n_items).in_order()).await;
}

async fn by_key(n_items: u64) {
    finish(n_items, 4, Stages::from(0..n_items).by_key(|item| item % 1_000)).await;
}

async fn finish(n_items: u64, n_workers: usize, stages: Stages<u64>) {
    let run = stages
        .map("add", n_workers, |item| async move { Ok::<_, Infallible>(add(item)) })
        .map("double", n_workers, |item| async move { Ok::<_, Infallible>(double(item)) })
        .for_each("look", n_workers, |item| async move {
            std::hint::black_box(item);
            Ok::<_, Infallible>(())
        });
    let report = run.join().await.expect("nothing fails here");
    assert_eq!(report.stages[3].n_out, n_items);
}

async fn on_threads(n_items: u64) {
    let run = Stages::from(0..n_items)
        .cpu("add", 1, |item| Ok::<_, Infallible>(add(item)))
        .cpu("double", 1, |item| Ok::<_, Infallible>(double(item)))
        .for_each("look", 1, |item| async move {
            std::hint::black_box(item);
            Ok::<_, Infallible>(())
        });
    let report = run.join().await.expect("nothing fails here");
    assert_eq!(report.stages[3].n_out, n_items);
}

fn add(item: u64) -> u64 {
    std::hint::black_box(item + 1)
}

fn double(item: u64) -> u64 {
    std::hint::black_box(item.wrapping_mul(2))
}
