//! A limiter that never has to wait, beside `governor` doing the same.
//!
//! `cargo bench -p taskloom-benches --bench limiter [-- CALLS]` prints nanoseconds a call of each,
//! and their ratio, measured alternately in one run: the machine's moods fall on both.
//!
//! By default governor reads the processor's own counter. Ours follows Tokio's clock, which asks
//! the system, and which alone is most of a call; so governor is shown with that clock too.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use governor::clock::MonotonicClock;
use governor::{Quota, RateLimiter as Governor};
use taskloom_flow::{KeyedRateLimiter, Rate, RateLimiter};

const ROUNDS: usize = 9;
/// Far over what a loop can call: nothing ever waits.
const PER_SECOND: u32 = 1_000_000_000;
const BURST: u32 = 1_000_000_000;
const N_KEYS: u32 = 1_000;

fn main() {
    let n_calls = std::env::args().filter_map(|it| it.parse().ok()).next().unwrap_or(1_000_000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime needs nothing special");
    let rate = Rate::new(PER_SECOND, Duration::from_secs(1)).expect("the rate is in range");
    let quota = Quota::per_second(NonZeroU32::new(PER_SECOND).expect("it is not zero"))
        .allow_burst(NonZeroU32::new(BURST).expect("it is not zero"));
    let (ours, rival) = (RateLimiter::new(rate, BURST), Governor::direct(quota));
    let keyed = KeyedRateLimiter::new(rate, BURST, N_KEYS as usize);
    let rival_keyed = Governor::keyed(quota);
    let rival_by_system = Governor::direct_with_clock(quota, MonotonicClock);
    let rival_keyed_by_system = Governor::dashmap_with_clock(quota, MonotonicClock);

    println!("{n_calls} calls a round, median of {ROUNDS} rounds, ns a call");
    println!("{:<34} {:>9} {:>9} {:>6}", "", "taskloom", "governor", "ratio");
    let awaiting = || {
        runtime.block_on(async {
            for _ in 0..n_calls {
                ours.acquire().await;
            }
        });
    };
    let rival_awaiting = || {
        runtime.block_on(async {
            for _ in 0..n_calls {
                rival.until_ready().await;
            }
        });
    };
    let trying = || (0..n_calls).for_each(|_| check(ours.try_acquire()));
    let trying_keyed = || (0..n_calls).for_each(|n| check(keyed.try_acquire(&(n % N_KEYS))));
    compare("acquire().await", n_calls, awaiting, rival_awaiting);
    compare("try_acquire()", n_calls, trying, || {
        (0..n_calls).for_each(|_| check(rival.check()));
    });
    compare("try_acquire(), system clock", n_calls, trying, || {
        (0..n_calls).for_each(|_| check(rival_by_system.check()));
    });
    compare("1000 keys", n_calls, trying_keyed, || {
        (0..n_calls).for_each(|n| check(rival_keyed.check_key(&(n % N_KEYS))));
    });
    compare("1000 keys, system clock", n_calls, trying_keyed, || {
        (0..n_calls).for_each(|n| check(rival_keyed_by_system.check_key(&(n % N_KEYS))));
    });
    let clock = nanos_of(
        &mut || {
            for _ in 0..n_calls {
                black_box(tokio::time::Instant::now());
            }
        },
        n_calls,
    );
    println!("{:<34} {clock:>9.1}", "reading Tokio's clock, for itself");
}

/// A call that was let through.
fn check<E: std::fmt::Debug>(passed: Result<(), E>) {
    black_box(passed).expect("it never waits");
}

/// Prints what a call costs on both sides, measured in turns.
fn compare(name: &str, n_calls: u32, mut ours: impl FnMut(), mut rival: impl FnMut()) {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        times[0].push(nanos_of(&mut ours, n_calls));
        times[1].push(nanos_of(&mut rival, n_calls));
    }
    let [ours, rival] = times.map(|mut it| {
        it.sort_by(f64::total_cmp);
        it[ROUNDS / 2]
    });
    println!("{name:<34} {ours:>9.1} {rival:>9.1} {:>6.2}", ours / rival);
}

fn nanos_of(run: &mut impl FnMut(), n_calls: u32) -> f64 {
    let began = Instant::now();
    run();
    began.elapsed().as_secs_f64() * 1e9 / f64::from(n_calls)
}
