//! Order, the bound on what is in flight, errors, panics, drops, and chunks by size and by time.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, TryStreamExt as _};
use tokio::time::{Instant, sleep};

use super::*;

/// Counts the calls in flight, and the inputs that were pulled.
#[derive(Debug, Clone, Default)]
struct Gauge {
    now: Arc<AtomicUsize>,
    max: Arc<AtomicUsize>,
    pulled: Arc<AtomicUsize>,
}

struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Gauge {
    fn enter(&self) -> InFlight {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.max.fetch_max(now, Ordering::SeqCst);
        InFlight(Arc::clone(&self.now))
    }

    fn inputs(&self, n: u64) -> impl Iterator<Item = u64> + Send + use<> {
        let pulled = Arc::clone(&self.pulled);
        (0..n).inspect(move |_| {
            pulled.fetch_add(1, Ordering::SeqCst);
        })
    }
}

/// All four ways, as streams of one type, each over a nap of (7 · input) mod 5 seconds.
fn ways(gauge: &Gauge, n_inputs: u64, n: usize) -> [BoxStream<'static, u64>; 4] {
    let nap = || {
        let gauge = gauge.clone();
        move |input: u64| {
            let in_flight = gauge.enter();
            async move {
                sleep(Duration::from_secs(input * 7 % 5)).await;
                drop(in_flight);
                input
            }
        }
    };
    [
        map_concurrent(gauge.inputs(n_inputs), n, nap()).boxed(),
        map_concurrent_unordered(gauge.inputs(n_inputs), n, nap()).boxed(),
        spawn_concurrent(gauge.inputs(n_inputs), n, nap()).boxed(),
        spawn_concurrent_unordered(gauge.inputs(n_inputs), n, nap()).boxed(),
    ]
}

#[tokio::test(start_paused = true)]
async fn never_more_than_n_are_in_flight_and_no_output_is_lost() {
    for way in 0..4 {
        let gauge = Gauge::default();
        let [a, b, c, d] = ways(&gauge, 50, 6);
        let outputs: Vec<u64> = [a, b, c, d].into_iter().nth(way).unwrap().collect().await;
        let mut sorted = outputs.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>(), "way {way}");
        assert_eq!(outputs == sorted, way % 2 == 0, "way {way} keeps its order, or does not");
        assert_eq!(gauge.max.load(Ordering::SeqCst), 6, "way {way}");
    }
}

#[tokio::test(start_paused = true)]
async fn inputs_are_pulled_only_when_there_is_room() {
    for way in 0..4 {
        let gauge = Gauge::default();
        let mut outputs = ways(&gauge, 50, 6).into_iter().nth(way).unwrap();
        for n_taken in 0..20 {
            let n_pulled = gauge.pulled.load(Ordering::SeqCst);
            assert!(n_pulled <= n_taken + 6, "way {way}: {n_pulled} pulled, {n_taken} taken");
            outputs.next().await.unwrap();
        }
        drop(outputs);
        tokio::task::yield_now().await;
        assert_eq!(gauge.now.load(Ordering::SeqCst), 0, "way {way}: a call outlived its stream");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_ends_a_try_collect_and_drops_what_is_in_flight() {
    let gauge = Gauge::default();
    let held = gauge.clone();
    let outputs = spawn_concurrent(0..9, 3, move |input| {
        let in_flight = held.enter();
        async move {
            sleep(Duration::from_secs(input)).await;
            drop(in_flight);
            if input == 1 { Err("one") } else { Ok(input) }
        }
    });
    let began = Instant::now();
    assert_eq!(outputs.try_collect::<Vec<_>>().await, Err("one"));
    tokio::task::yield_now().await;
    assert_eq!(gauge.now.load(Ordering::SeqCst), 0);
    assert_eq!(began.elapsed(), Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn only_spawned_calls_go_on_while_nobody_polls() {
    async fn secs_of(mut outputs: impl Stream<Item = u64> + Unpin) -> u64 {
        let began = Instant::now();
        while outputs.next().await.is_some() {
            sleep(Duration::from_secs(10)).await;
        }
        began.elapsed().as_secs()
    }
    // The first output comes after 5 seconds, when the second call is in its first nap.
    let naps = |input: u64| async move {
        sleep(Duration::from_secs(5 + input)).await;
        sleep(Duration::from_secs(20 * input)).await;
        input
    };
    assert_eq!(secs_of(spawn_concurrent(0..2, 2, naps)).await, 26 + 10);
    // The second nap begins at 15 seconds, when the stream is polled again.
    assert_eq!(secs_of(Box::pin(map_concurrent(0..2, 2, naps))).await, 15 + 20 + 10);
}

#[tokio::test]
async fn a_panic_of_a_spawned_call_is_raised_where_the_stream_is_polled() {
    let mut outputs = spawn_concurrent(0..2, 2, |input| async move {
        if input == 0 {
            std::panic::resume_unwind(Box::new("no luck"));
        }
        input
    });
    let payload = AssertUnwindSafe(outputs.next()).catch_unwind().await.unwrap_err();
    assert_eq!(payload.downcast_ref(), Some(&"no luck"));
    assert_eq!(outputs.next().await, Some(1));
    assert_eq!(outputs.next().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spawned_calls_run_on_several_threads() {
    let meet = Arc::new(std::sync::Barrier::new(2));
    let wait = move |_| {
        let meet = Arc::clone(&meet);
        async move { meet.wait().is_leader() }
    };
    // Two calls that block until both run at once: on one thread this would hang.
    let n: usize = spawn_concurrent(0..2, 2, wait).count().await;
    assert_eq!(n, 2);
}

#[tokio::test(start_paused = true)]
async fn streams_and_iterators_are_taken_alike() {
    let ticks = stream::iter(0..3).then(|it| async move {
        sleep(Duration::from_secs(1)).await;
        it
    });
    let outputs: Vec<u32> = map_concurrent(ticks, 0, |it| async move { it + 1 }).collect().await;
    assert_eq!(outputs, [1, 2, 3]);
    let ticks = Box::pin(stream::iter(vec![5_u32]));
    let outputs: Vec<u32> = spawn_concurrent(ticks, 0, |it| async move { it }).collect().await;
    assert_eq!(outputs, [5]);
}

#[tokio::test(start_paused = true)]
async fn a_chunk_goes_on_when_it_is_full_or_has_waited_long_enough() {
    // At 0, 1, 2, … seconds, and the last two together after a long gap.
    let inputs = stream::iter([0, 1, 1, 1, 1, 1, 60, 0]).then(|gap| async move {
        sleep(Duration::from_secs(gap)).await;
        gap
    });
    let began = Instant::now();
    let chunks = bulk(inputs, 3, |chunk| async move { chunk.len() })
        .or_after(Duration::from_millis(2500))
        .map(|n| (n, began.elapsed().as_millis()));
    let chunks: Vec<_> = chunks.collect().await;
    assert_eq!(chunks, [(3, 2000), (3, 5000), (2, 65_000)]);

    let slow = stream::iter(0..3).then(|it| async move {
        sleep(Duration::from_secs(2)).await;
        it
    });
    let began = Instant::now();
    let chunks = chunked(slow, 100).or_after(Duration::from_secs(1));
    let chunks: Vec<_> = chunks.map(|it| (it.len(), began.elapsed().as_secs())).collect().await;
    assert_eq!(chunks, [(1, 3), (1, 5), (1, 6)], "the last at the end of the inputs");
}

#[tokio::test(start_paused = true)]
async fn without_a_time_limit_a_chunk_waits_until_it_is_full() {
    let slow = stream::iter(0..5).then(|it| async move {
        sleep(Duration::from_secs(100)).await;
        it
    });
    let chunks: Vec<Vec<i32>> = chunked(slow, 2).collect().await;
    assert_eq!(chunks, [vec![0, 1], vec![2, 3], vec![4]]);
}

#[tokio::test]
async fn a_dropped_wait_for_a_chunk_loses_no_input() {
    let (inputs_in, inputs) = futures::channel::mpsc::channel(5);
    let mut inputs_in = inputs_in;
    let mut chunks = chunked(inputs, 2);
    inputs_in.try_send(1).unwrap();
    assert_eq!(crate::testing::cancel_after(1, chunks.next()).await, None);
    inputs_in.try_send(2).unwrap();
    assert_eq!(chunks.next().await, Some(vec![1, 2]));
}
