//! `taskloom_flow::Cache` beside bare `quick_cache` and `moka::future`, each alternately in one run.
//!
//! `cargo bench -p taskloom-benches --bench cache` prints nanoseconds an operation (the median of
//! the rounds) and how often a loader ran for 10,000 callers of one key.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use taskloom_flow::Cache;

/// As in the shipped binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 7;
const N_HITS: u64 = 2_000_000;
const N_INSERTS: u64 = 300_000;
const N_KEYS: u64 = 10_000;
const N_CALLERS: usize = 10_000;
const TTL: Duration = Duration::from_secs(600);

/// Nanoseconds an operation, one number a round.
#[derive(Default)]
struct Rounds(Vec<f64>);

impl Rounds {
    fn add(&mut self, began: Instant, n: u64) {
        self.0.push(began.elapsed().as_secs_f64() * 1e9 / n as f64);
    }

    fn median(&mut self) -> f64 {
        self.0.sort_by(f64::total_cmp);
        self.0[self.0.len() / 2]
    }
}

#[tokio::main]
async fn main() {
    hits().await;
    inserts().await;
    coalesced().await;
}

/// Hits on keys all over the cache; an odd step visits each of them.
async fn hits() {
    let ours: Cache<u64, u64> = Cache::builder(2 * N_KEYS).ttl(TTL).build();
    let bare = quick_cache::sync::Cache::<u64, u64>::new(2 * N_KEYS as usize);
    let moka = moka::future::Cache::builder().max_capacity(2 * N_KEYS).time_to_live(TTL).build();
    for key in 0..N_KEYS {
        ours.insert(key, key);
        bare.insert(key, key);
        moka.insert(key, key).await;
    }
    moka.run_pending_tasks().await;
    let key_of = |n: u64| n.wrapping_mul(7_919) % N_KEYS;
    let mut rounds: [Rounds; 5] = Default::default();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        (0..N_HITS).for_each(|n| count(bare.get(&key_of(n))));
        rounds[0].add(began, N_HITS);
        let began = Instant::now();
        (0..N_HITS).for_each(|_| count(tokio::time::Instant::now()));
        rounds[1].add(began, N_HITS);
        let began = Instant::now();
        (0..N_HITS).for_each(|n| count(ours.get(&key_of(n))));
        rounds[2].add(began, N_HITS);
        let began = Instant::now();
        for n in 0..N_HITS {
            count(ours.get_or_load(&key_of(n), || async { Ok(0) }).await);
        }
        rounds[3].add(began, N_HITS);
        let began = Instant::now();
        for n in 0..N_HITS {
            count(moka.get(&key_of(n)).await);
        }
        rounds[4].add(began, N_HITS);
    }
    let [bare, clock, get, load, moka] = rounds.each_mut().map(Rounds::median);
    println!("hit        quick_cache {bare:>6.0} ns   Tokio's clock alone {clock:>6.0} ns");
    println!("           ours, get   {get:>6.0} ns   {:.2} of both together", get / (bare + clock));
    println!("           get_or_load {load:>6.0} ns");
    println!("           moka, get   {moka:>6.0} ns   ours takes {:.2} of it", get / moka);
    assert_eq!(ours.stats().loads, 0, "every call was a hit");
}

/// Keeps the optimizer from leaving out what nobody reads.
fn count<T>(value: T) {
    black_box(value);
}

/// Inserts of new keys into full caches: each pushes one out.
async fn inserts() {
    let ours: Cache<u64, u64> = Cache::builder(N_KEYS).ttl(TTL).build();
    let bare = quick_cache::sync::Cache::<u64, u64>::new(N_KEYS as usize);
    let moka = moka::future::Cache::builder().max_capacity(N_KEYS).time_to_live(TTL).build();
    let mut rounds: [Rounds; 3] = Default::default();
    for round in 0..ROUNDS as u64 {
        let keys = round * N_INSERTS..(round + 1) * N_INSERTS;
        let began = Instant::now();
        keys.clone().for_each(|key| bare.insert(key, key));
        rounds[0].add(began, N_INSERTS);
        let began = Instant::now();
        keys.clone().for_each(|key| ours.insert(key, key));
        rounds[1].add(began, N_INSERTS);
        let began = Instant::now();
        for key in keys {
            moka.insert(key, key).await;
        }
        rounds[2].add(began, N_INSERTS);
    }
    let [bare, ours, moka] = rounds.each_mut().map(Rounds::median);
    println!("insert     quick_cache {bare:>6.0} ns");
    println!("           ours        {ours:>6.0} ns   {:.2} of quick_cache", ours / bare);
    println!("           moka        {moka:>6.0} ns   ours takes {:.2} of it", ours / moka);
}

/// 10,000 callers of one key at a time, each in a routine of its own.
async fn coalesced() {
    let mut rounds: [Rounds; 2] = Default::default();
    let n_loads = [Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0))];
    for _ in 0..ROUNDS {
        let ours: Arc<Cache<u64, u64>> = Arc::new(Cache::builder(N_KEYS).ttl(TTL).build());
        let began = Instant::now();
        run_callers(|| {
            let (cache, n_loads) = (Arc::clone(&ours), Arc::clone(&n_loads[0]));
            async move { cache.get_or_load(&7, || slow(n_loads)).await == Ok(7) }
        })
        .await;
        rounds[0].add(began, N_CALLERS as u64);
        let moka = moka::future::Cache::<u64, u64>::builder().time_to_live(TTL).build();
        let began = Instant::now();
        run_callers(|| {
            let (cache, n_loads) = (moka.clone(), Arc::clone(&n_loads[1]));
            async move { cache.try_get_with(7, slow(n_loads)).await.is_ok_and(|it| it == 7) }
        })
        .await;
        rounds[1].add(began, N_CALLERS as u64);
    }
    let [ours, moka] = rounds.each_mut().map(Rounds::median);
    let [ours_n, moka_n] = n_loads.map(|it| it.load(Ordering::Relaxed));
    println!("{N_CALLERS} callers of one key, {ROUNDS} times, with 20 ms of loading");
    println!("           ours        {ours:>6.0} ns a caller, {ours_n} loads");
    println!("           moka        {moka:>6.0} ns a caller, {moka_n} loads");
    assert_eq!(ours_n as usize, ROUNDS, "one load each time");
}

async fn slow(n_loads: Arc<AtomicU32>) -> Result<u64, std::convert::Infallible> {
    n_loads.fetch_add(1, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(20)).await;
    Ok(7)
}

async fn run_callers<F>(caller: impl Fn() -> F)
where
    F: Future<Output = bool> + Send + 'static,
{
    let mut callers = tokio::task::JoinSet::new();
    (0..N_CALLERS).for_each(|_| drop(callers.spawn(caller())));
    assert!(callers.join_all().await.into_iter().all(|it| it), "every caller got the value");
}
