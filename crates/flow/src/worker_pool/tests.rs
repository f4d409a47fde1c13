//! Isolation, statistics, fairness, and both ways to end.

use std::collections::BTreeMap;
use std::convert::Infallible;

use super::*;

const LONG: Duration = Duration::from_secs(60);

async fn filled(n_items: u32) -> WorkQueue<u32> {
    let queue = WorkQueue::new(1000);
    for item in 0..n_items {
        queue.push(item).await.unwrap();
    }
    queue
}

async fn nap(secs: u64) {
    tokio::time::sleep(Duration::from_secs(secs)).await;
}

#[tokio::test]
async fn an_error_and_a_panic_end_neither_worker_nor_pool() {
    let queue = filled(9).await;
    let mut pool = WorkerPool::start("test", 1, queue.clone(), |item, _| async move {
        match item % 3 {
            0 => Ok(()),
            1 => Err(format!("{item} is wrong")),
            _ => panic!("no luck with {item}"),
        }
    });
    queue.join().await;
    let failure = pool.next_failure().await;
    let cause = Failure::Error("1 is wrong".to_owned());
    assert_eq!(failure, WorkerFailure { worker: 0, cause });
    let Failure::Panicked(panicked) = pool.next_failure().await.cause else { panic!() };
    assert_eq!(panicked.message, "no luck with 2");
    let stats = pool.stats()[0];
    assert_eq!((stats.n_done, stats.n_failed, stats.n_panicked), (3, 3, 3));
    let report = pool.drain(LONG).await;
    assert_eq!((report.failures.len(), report.n_failures_lost, report.n_aborted), (4, 0, 0));
}

#[tokio::test]
async fn failures_nobody_hears_are_counted_and_bounded() {
    let queue = filled(300).await;
    let pool = WorkerPool::start("test", 2, queue, |item, _| async move { Err::<(), _>(item) });
    let report = pool.drain(LONG).await;
    assert_eq!(report.failures.len(), FAILURES_MAX);
    assert_eq!(report.n_failures_lost, 300 - FAILURES_MAX as u64);
}

#[tokio::test(start_paused = true)]
async fn statistics_tell_each_workers_time() {
    let queue = filled(4).await;
    let work = |item: u32, _| async move {
        nap(u64::from(item) + 1).await;
        Ok::<_, Infallible>(())
    };
    let report = WorkerPool::start("test", 2, queue, work).drain(LONG).await;
    // One worker has the items of 1 and 3 seconds, the other those of 2 and 4.
    let secs = report.workers.iter().map(|it| (it.busy.as_secs(), it.longest.as_secs()));
    assert_eq!(secs.collect::<BTreeMap<_, _>>(), BTreeMap::from([(4, 3), (6, 4)]));
}

#[tokio::test]
async fn no_worker_starves_when_none_ever_waits() {
    let queue = WorkQueue::new(8);
    let work = |_, _| async { Ok::<_, Infallible>(()) };
    let pool = WorkerPool::start("test", 4, queue.clone(), work);
    for item in 0..10_000 {
        queue.push(item).await.unwrap();
    }
    let report = pool.drain(LONG).await;
    let shares: Vec<u64> = report.workers.iter().map(|it| it.n_done).collect();
    assert_eq!(shares.iter().sum::<u64>(), 10_000);
    // The queue is filled eight at a time: each worker that waits has one, the quickest the rest.
    assert!(shares.iter().all(|it| 1_000 < *it), "{shares:?}");
}

#[tokio::test(start_paused = true)]
async fn the_worker_that_waited_longest_gets_the_next_item() {
    let queue = WorkQueue::new(8);
    let order = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&order);
    let pool = WorkerPool::start("test", 3, queue.clone(), move |_item, worker| {
        seen.lock().push(worker);
        async { Ok::<_, Infallible>(()) }
    });
    for item in 0..9 {
        nap(1).await;
        queue.push(item).await.unwrap();
    }
    pool.drain(LONG).await;
    let order = order.lock().clone();
    assert_eq!(order[..3], order[3..6]);
    assert_eq!(order[..3], order[6..]);
    assert_eq!(order.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_drain_takes_what_is_queued_and_a_stop_leaves_it() {
    let work = |_, _| async {
        nap(1).await;
        Ok::<_, Infallible>(())
    };
    let queue = filled(10).await;
    let pool = WorkerPool::start("test", 2, queue.clone(), work);
    tokio::task::yield_now().await;
    let report = pool.stop(LONG).await;
    assert_eq!(report.workers.iter().map(|it| it.n_done).sum::<u64>(), 2);
    assert_eq!((queue.len(), queue.is_closed()), (8, false));
    let report = WorkerPool::start("test", 2, queue.clone(), work).drain(LONG).await;
    assert_eq!(report.workers.iter().map(|it| it.n_done).sum::<u64>(), 8);
    assert!(queue.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_deadline_aborts_the_workers_and_their_items_count_as_done() {
    let queue = filled(5).await;
    let stuck = |_, _| std::future::pending::<Result<(), Infallible>>();
    let began = Instant::now();
    let report = WorkerPool::start("test", 2, queue.clone(), stuck).drain(LONG).await;
    assert_eq!((report.n_aborted, began.elapsed()), (2, LONG));
    assert_eq!((queue.stats().n_done, queue.len()), (2, 3));
}

#[tokio::test]
async fn dropping_a_pool_aborts_its_workers() {
    let queue = filled(1).await;
    let stuck = |_, _| std::future::pending::<Result<(), Infallible>>();
    let pool = WorkerPool::start("test", 1, queue.clone(), stuck);
    tokio::task::yield_now().await;
    assert_eq!(queue.stats().n_in_work, 1);
    drop(pool);
    queue.join().await;
}

#[tokio::test]
async fn a_pool_works_off_a_priority_queue_too() {
    let queue = PriorityQueue::new(10);
    for item in [1, 3, 2] {
        queue.push(item, item).await.unwrap();
    }
    let order = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&order);
    let pool = WorkerPool::start("test", 1, queue, move |item, _| {
        seen.lock().push(item);
        async { Ok::<_, Infallible>(()) }
    });
    pool.drain(LONG).await;
    assert_eq!(*order.lock(), [3, 2, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_item_goes_to_one_worker() {
    let queue = WorkQueue::new(16);
    let sum = Arc::new(AtomicU64::new(0));
    let total = Arc::clone(&sum);
    let pool = WorkerPool::start("test", 4, queue.clone(), move |item: u64, _| {
        total.fetch_add(item, Ordering::Relaxed);
        async { Ok::<_, Infallible>(()) }
    });
    for item in 0..5_000 {
        queue.push(item).await.unwrap();
    }
    queue.join().await;
    assert_eq!(pool.stats().iter().map(|it| it.n_done).sum::<u64>(), 5_000, "told before done");
    assert_eq!(sum.load(Ordering::Relaxed), (0..5_000).sum());
    drop(pool);
}
