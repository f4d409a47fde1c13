//! Order, bounds, failures, the ways to end, and that nothing is lost or doubled.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::stream;
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::time::{Instant, sleep};

use super::*;
use crate::testing::{at_every_await_point, cancel_after};

type Fine<T> = Result<T, Infallible>;

/// Naps for a time of its own for each item, so that items overtake each other if they can.
async fn nap(item: u64) -> Fine<u64> {
    sleep(Duration::from_millis(item * 7 % 5)).await;
    Ok(item)
}

async fn pass(item: u64) -> Fine<u64> {
    Ok(item)
}

async fn outputs_of<T: Send + 'static>(stages: Stages<T>) -> Vec<T> {
    let outputs = stages.into_stream();
    outputs.collect().await
}

fn sorted(mut items: Vec<u64>) -> Vec<u64> {
    items.sort_unstable();
    items
}

#[tokio::test(start_paused = true)]
async fn without_an_order_items_pass_each_other_and_none_is_lost() {
    let outputs = outputs_of(Stages::from(0..500).map("nap", 8, nap).map("nap", 3, nap)).await;
    assert_ne!(outputs, (0..500).collect::<Vec<_>>());
    assert_eq!(sorted(outputs), (0..500).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn in_order_items_leave_as_they_came_through_every_kind_of_stage() {
    let stages = Stages::from(stream::iter(0..500))
        .in_order()
        .queue(20)
        .map("nap", 8, nap)
        .filter_map("odd", 4, async |item| {
            sleep(Duration::from_millis(item % 3)).await;
            Ok::<_, Infallible>((item % 2 == 1).then_some(item))
        })
        .cpu("half", 2, |item| Ok::<_, Infallible>(item / 2))
        .flat_map("twice", 8, async |item| {
            nap(item).await.map(|it| vec![it; usize::try_from(it % 3).unwrap()])
        });
    let expected = (0..250).flat_map(|it| vec![it; usize::try_from(it % 3).unwrap()]);
    assert_eq!(outputs_of(stages).await, expected.collect::<Vec<u64>>());
}

#[tokio::test(start_paused = true)]
async fn by_key_the_items_of_a_key_stay_in_order_and_never_overlap() {
    let busy: Arc<Mutex<BTreeMap<u64, u64>>> = Arc::default();
    let n_busy_max = Arc::new(AtomicUsize::new(0));
    let (in_stage, n_max) = (Arc::clone(&busy), Arc::clone(&n_busy_max));
    let stages = Stages::from(0..600).by_key(|it| it % 7).queue(50).map("nap", 8, nap).map(
        "exclusive",
        8,
        move |item| {
            let (busy, n_max) = (Arc::clone(&in_stage), Arc::clone(&n_max));
            async move {
                let before = busy.lock().insert(item % 7, item);
                assert_eq!(before, None, "two of a key at once");
                n_max.fetch_max(busy.lock().len(), Ordering::SeqCst);
                let slept = nap(item * 3).await;
                busy.lock().remove(&(item % 7));
                slept.map(|_| item)
            }
        },
    );
    let outputs = outputs_of(stages).await;
    assert_eq!(outputs.len(), 600);
    for key in 0..7 {
        let of_key: Vec<u64> = outputs.iter().copied().filter(|it| it % 7 == key).collect();
        assert!(of_key.is_sorted(), "{of_key:?}");
    }
    assert_eq!(n_busy_max.load(Ordering::SeqCst), 7, "the keys run in parallel");
}

#[tokio::test(start_paused = true)]
async fn a_slow_key_does_not_hold_up_the_others() {
    let began = Instant::now();
    let outputs = Stages::from(0..40)
        .by_key(|it| *it == 0)
        .map("work", 2, async |item: u64| {
            sleep(Duration::from_secs(if item == 0 { 100 } else { 1 })).await;
            Ok::<_, Infallible>(item)
        })
        .into_stream();
    let outputs: Vec<_> = outputs.map(|it| (it, began.elapsed().as_secs())).collect().await;
    assert_eq!(outputs[38], (39, 39));
    assert_eq!(outputs[39], (0, 100));
}

#[tokio::test(start_paused = true)]
async fn keys_that_moved_in_a_chunk_with_a_slow_item_are_free_at_once() {
    let began = Instant::now();
    let outputs = Stages::from(0..1_000)
        .by_key(|it| it % 50)
        .map("work", 2, async |item: u64| {
            if item == 520 {
                sleep(Duration::from_secs(100)).await;
            }
            Ok::<_, Infallible>(item)
        })
        .into_stream();
    let outputs: Vec<_> = outputs.map(|it| (it, began.elapsed().as_secs())).collect().await;
    let late: Vec<u64> = outputs.iter().filter(|it| 0 < it.1).map(|it| it.0).collect();
    assert_eq!(late, (520..1_000).step_by(50).collect::<Vec<_>>(), "those of its key");
}

#[tokio::test(start_paused = true)]
async fn all_workers_work_and_a_slow_item_holds_up_none() {
    let began = Instant::now();
    let run = Stages::from(0..32_u64).for_each("work", 8, async |item| {
        sleep(Duration::from_secs(if item == 0 { 4 } else { 1 })).await;
        Ok::<_, Infallible>(())
    });
    let report = run.join().await.unwrap();
    // 31 seconds for seven workers, and four for the eighth: as short as can be.
    assert_eq!(began.elapsed(), Duration::from_secs(5));
    assert_eq!(report.stages[1].busy, Duration::from_secs(35));
    assert_eq!(report.elapsed, Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn quick_items_that_turn_slow_are_shared_again() {
    let began = Instant::now();
    let outputs = Stages::from(0..1_064_u64).map("work", 8, async |item| {
        if 1_000 <= item {
            sleep(Duration::from_secs(1)).await;
        }
        Ok::<_, Infallible>(item)
    });
    assert_eq!(outputs_of(outputs).await.len(), 1_064);
    assert_eq!(began.elapsed(), Duration::from_secs(8));
}

#[tokio::test(start_paused = true)]
async fn an_item_that_is_ready_waits_for_no_other() {
    let began = Instant::now();
    let ticks = stream::iter(0..5).then(|it| async move {
        sleep(Duration::from_secs(1)).await;
        it
    });
    let outputs = Stages::from(ticks).map("a", 2, pass).in_order().map("b", 3, pass).into_stream();
    let times: Vec<u64> = outputs.map(|_| began.elapsed().as_secs()).collect().await;
    assert_eq!(times, [1, 2, 3, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_quick_item_in_front_of_a_slow_one_moves_on_at_once() {
    for stages in [Stages::from(0..100), Stages::from(0..100).in_order()] {
        let began = Instant::now();
        let outputs = stages
            .map("work", 1, async |item: u64| {
                sleep(Duration::from_secs(if item == 99 { 60 } else { 0 })).await;
                Ok::<_, Infallible>(item)
            })
            .into_stream();
        let times: Vec<u64> = outputs.map(|_| began.elapsed().as_secs()).collect().await;
        assert_eq!(times[98..], [0, 60]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stuck_stage_holds_up_the_source_and_the_lines_stay_bounded() {
    for order in [|it| it, Stages::in_order, |it: Stages<u64>| it.by_key(|it| it % 3)] {
        let n_pulled = Arc::new(AtomicUsize::new(0));
        let stages = order(Stages::from(counted(Arc::clone(&n_pulled)))).queue(4);
        let mut outputs = stages.map("a", 2, nap).into_stream();
        sleep(Duration::from_secs(10)).await;
        let stats = outputs.run().stats();
        // Four in each of two lines, and a chunk in the hand of the source and of each worker.
        assert!(n_pulled.load(Ordering::SeqCst) <= 4 + 4 + 3, "{stats:?}");
        assert!(stats[1].n_waiting_max <= 4, "{stats:?}");
        for _ in 0..10 {
            outputs.next().await.unwrap();
        }
    }
}

fn counted(n_pulled: Arc<AtomicUsize>) -> impl Iterator<Item = u64> + Send {
    (0..).inspect(move |_| {
        n_pulled.fetch_add(1, Ordering::SeqCst);
    })
}

#[tokio::test]
async fn errors_and_panics_cost_their_item_alone_and_are_told() {
    let mut run = Stages::from(0..30_u64)
        .map("parse", 2, async |item| match item % 3 {
            0 => Ok(item),
            1 => Err(format!("{item} is wrong")),
            _ => panic!("no luck with {item}"),
        })
        .cpu("check", 2, |item| match item {
            27 => panic!("27"),
            item => Ok::<_, Infallible>(item),
        })
        .for_each("store", 1, async |_| Ok::<_, Infallible>(()));
    let failures: StageFailures = run.failures();
    let (report, failures) = tokio::join!(run.join(), failures.collect::<Vec<_>>());
    let report = report.unwrap();
    assert_eq!(failures.len(), 21);
    let told: Vec<String> = failures.iter().map(ToString::to_string).collect();
    assert!(told.contains(&"stage `parse`: 4 is wrong".to_owned()), "{told:?}");
    assert!(failures.iter().any(|it| it.stage == "check"));
    let counts: Vec<_> = report.stages.iter().map(|it| (it.name, it.n_in, it.n_out)).collect();
    assert_eq!(counts, [("source", 30, 30), ("parse", 30, 10), ("check", 10, 9), ("store", 9, 9)]);
    assert_eq!((report.stages[1].n_errors, report.stages[1].n_panics), (20, 10));
    assert_eq!((report.failures.len(), report.n_failures_lost), (0, 0));
}

#[tokio::test]
async fn failures_nobody_hears_are_bounded_and_counted() {
    let run = Stages::from(0..3_000_u64).for_each("fail", 2, async |_| Err::<(), _>("no"));
    let report = run.join().await.unwrap();
    assert_eq!(report.failures.len(), FAILURES_MAX);
    assert_eq!(report.n_failures_lost, 3_000 - FAILURES_MAX as u64);
    assert_eq!(report.stages[1].n_errors, 3_000);
}

#[tokio::test]
async fn a_panic_of_the_source_of_a_key_or_of_an_iterator_is_a_failure() {
    let source = (0..10_u64).inspect(|it| assert_ne!(*it, 7, "seven"));
    let stages = Stages::from(source)
        .by_key(|it| {
            assert_ne!(*it, 3, "three");
            *it
        })
        .flat_map("lazy", 2, async |item| {
            Ok::<_, Infallible>((0..3).inspect(move |it| assert!(item != 5 || *it < 2, "five")))
        });
    let mut outputs = stages.into_stream();
    let mut n_outputs = 0;
    while outputs.next().await.is_some() {
        n_outputs += 1;
    }
    let report = outputs.finish().await.unwrap();
    assert_eq!(n_outputs, 5 * 3, "what an item gave before its panic is not passed on");
    let stages: Vec<_> = report.failures.iter().map(|it| it.stage).collect();
    assert_eq!(stages.iter().filter(|it| **it == "source").count(), 2);
    assert_eq!(stages.iter().filter(|it| **it == "lazy").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn failing_fast_ends_everything_at_the_first_failure() {
    let held = Arc::new(());
    let in_calls = Arc::clone(&held);
    let began = Instant::now();
    let run = Stages::from(0_u64..)
        .fail_fast()
        .map("work", 4, move |item| {
            let held = Arc::clone(&in_calls);
            async move {
                sleep(Duration::from_secs(if item == 2 { 1 } else { 1_000 })).await;
                drop(held);
                if item == 2 { Err("two") } else { Ok(item) }
            }
        })
        .for_each("store", 1, async |_| Ok::<_, Infallible>(()));
    let failure = run.join().await.unwrap_err();
    assert_eq!(failure.to_string(), "stage `work`: two");
    assert_eq!(began.elapsed(), Duration::from_secs(1));
    tokio::task::yield_now().await;
    assert_eq!(Arc::strong_count(&held), 1, "the calls in flight were dropped");
}

#[tokio::test(start_paused = true)]
async fn failing_fast_ends_the_stream() {
    let work = async |item| if item == 5 { Err("five") } else { Ok(item) };
    let mut outputs = Stages::from(0_u64..).fail_fast().map("work", 1, work).into_stream();
    while outputs.next().await.is_some() {}
    assert_eq!(outputs.finish().await.unwrap_err().to_string(), "stage `work`: five");
}

#[tokio::test(start_paused = true)]
async fn a_stop_finishes_what_is_on_its_way() {
    let run = Stages::from(0_u64..)
        .queue(8)
        .map("nap", 3, nap)
        .cpu("count", 1, Ok::<_, Infallible>)
        .batch(5)
        .for_each("store", 1, async |_| Ok::<_, Infallible>(()));
    let stop = run.cancellation().clone();
    // The paused clock runs ahead of the threads, so this counts instead.
    while run.stats()[4].n_in < 3 {
        sleep(Duration::from_millis(1)).await;
    }
    stop.cancel("it is over");
    let report = run.join().await.unwrap();
    let [source, nap, count, batch, store] = &report.stages[..] else { panic!("{report:?}") };
    assert!(15 <= source.n_out, "{report:?}");
    let same = [nap.n_in, nap.n_out, count.n_in, count.n_out, batch.n_in];
    assert_eq!(same, [source.n_out; 5], "{report:?}");
    assert_eq!((batch.n_out, store.n_out), (source.n_out.div_ceil(5), source.n_out.div_ceil(5)));
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_a_source_that_waits() {
    let run = Stages::from(stream::pending::<u64>()).for_each("a", 1, async |_| Fine::Ok(()));
    tokio::task::yield_now().await;
    run.stop();
    assert_eq!(run.join().await.unwrap().stages[0].n_out, 0);
}

#[tokio::test]
async fn dropping_a_pipeline_drops_all_that_is_on_its_way() {
    for n_turns in 0..30 {
        let held = Arc::new(());
        let in_items = Arc::clone(&held);
        let items = (0..).map(move |it: u64| (it, Arc::clone(&in_items)));
        let outputs = Stages::from(items)
            .in_order()
            .queue(4)
            .cpu("threads", 2, Ok::<_, Infallible>)
            .map("wait", 3, async |item: (u64, Arc<()>)| {
                if 10 < item.0 {
                    std::future::pending::<()>().await;
                }
                Ok::<_, Infallible>(item)
            })
            .into_stream();
        for _ in 0..n_turns {
            tokio::task::yield_now().await;
        }
        drop(outputs);
        // Threads let go of their items when they next look at their line.
        while 1 < Arc::strong_count(&held) {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_dropped_wait_for_an_output_loses_none() {
    at_every_await_point(async |n_polls| {
        let mut outputs = Stages::from(0..20).in_order().map("a", 2, pass).into_stream();
        let mut taken = Vec::new();
        let ended = cancel_after(n_polls, async {
            while let Some(item) = outputs.next().await {
                taken.push(item);
            }
        })
        .await;
        taken.extend(outputs.collect::<Vec<_>>().await);
        assert_eq!(taken, (0..20).collect::<Vec<_>>());
        ended.is_some()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn statistics_tell_latency_and_depth() {
    let run = Stages::from(0..3_u64).queue(10).for_each("work", 1, async |_| {
        sleep(Duration::from_secs(2)).await;
        Ok::<_, Infallible>(())
    });
    sleep(Duration::from_secs(1)).await;
    let now = &run.stats()[1];
    assert_eq!((now.n_in, now.n_out, now.n_waiting), (1, 0, 2));
    let report = run.join().await.unwrap();
    let work = &report.stages[1];
    // Done after 2, 4 and 6 seconds in line and in work.
    assert_eq!((work.latency_mean.as_secs(), work.latency_max.as_secs()), (4, 6));
    assert_eq!((work.busy.as_secs(), work.n_waiting), (6, 0));
    assert!((2..=3).contains(&work.n_waiting_max));
}

#[tokio::test(start_paused = true)]
async fn batches_are_full_or_due() {
    let ticks = stream::iter([0, 1, 1, 1, 60, 0, 0, 5]).then(|gap| async move {
        sleep(Duration::from_secs(gap)).await;
        gap
    });
    let began = Instant::now();
    let outputs = Stages::from(ticks).batch_or_after(3, Duration::from_secs(2)).into_stream();
    let batches: Vec<_> = outputs.map(|it| (it.len(), began.elapsed().as_secs())).collect().await;
    assert_eq!(batches, [(3, 2), (1, 5), (3, 63), (1, 68)]);
    let batches = outputs_of(Stages::from(0..10).queue(2).batch(4)).await;
    assert_eq!(batches, [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]);
}

#[tokio::test(start_paused = true)]
async fn batches_after_keys_keep_the_order_of_each_key() {
    let stages = Stages::from(0..100).by_key(|it| it % 5).map("nap", 4, nap).batch(7);
    let items = outputs_of(stages.map("pass", 3, async |it: Vec<u64>| Fine::Ok(it))).await.concat();
    for key in 0..5 {
        assert!(items.iter().filter(|it| **it % 5 == key).is_sorted());
    }
    assert_eq!(sorted(items), (0..100).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_several_threads_nothing_is_lost_or_doubled() {
    for order in 0..3 {
        let stages = Stages::from(0..20_000_u64).queue(8);
        let stages = match order {
            0 => stages,
            1 => stages.in_order(),
            _ => stages.by_key(|it| it % 100),
        };
        let stages = stages
            .map("yield", 4, async |item| {
                if item % 3 == 0 {
                    tokio::task::yield_now().await;
                }
                Ok::<_, Infallible>(item)
            })
            .cpu("threads", 2, Ok::<_, Infallible>)
            .map("pass", 4, pass);
        let outputs = outputs_of(stages).await;
        if order == 1 {
            assert!(outputs.is_sorted());
        }
        if order == 2 {
            let mut last = BTreeMap::new();
            for item in &outputs {
                assert!(last.insert(item % 100, *item) < Some(*item), "{item} is late");
            }
        }
        assert_eq!(sorted(outputs), (0..20_000).collect::<Vec<_>>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn in_order_holds_for_any_sizes_naps_and_failures(
        queue in 1_usize..12,
        n_workers in 1_usize..6,
        naps in proptest::collection::vec((0_u64..4, 0_u8..6), 0..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        let expected: Vec<usize> =
            (0..naps.len()).filter(|it| naps[*it].1 != 0).collect();
        let n_failed = naps.len() - expected.len();
        let inputs: Vec<_> = naps.into_iter().enumerate().collect();
        let (outputs, report) = runtime.block_on(async {
            let mut outputs = Stages::from(inputs)
                .in_order()
                .queue(queue)
                .map("nap", n_workers, async |(n, (millis, fate)): (usize, (u64, u8))| {
                    if 0 < millis {
                        sleep(Duration::from_millis(millis)).await;
                    }
                    if fate == 0 { Err("fate") } else { Ok(n) }
                })
                .into_stream();
            let taken: Vec<usize> = outputs.by_ref().collect().await;
            (taken, outputs.finish().await.unwrap())
        });
        prop_assert_eq!(outputs, expected);
        prop_assert_eq!(report.failures.len(), n_failed);
    }
}
