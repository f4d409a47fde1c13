//! What the cache promises, under the paused clock.

use std::collections::HashMap;
use std::future::pending;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::join_all;
use proptest::prelude::*;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{Instant, advance, sleep};

use super::*;
use crate::testing::{at_every_await_point, cancel_after};

type Texts = Cache<u32, String, String>;

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

fn minutes() -> CacheBuilder<u32, String, String> {
    Cache::builder(100).ttl(MINUTE)
}

async fn load(cache: &Texts, key: u32, text: &str) -> Result<String, String> {
    let text = text.to_owned();
    cache.get_or_load(&key, || async { Ok(text) }).await
}

async fn fail(cache: &Texts, key: u32, text: &str) -> Result<String, String> {
    let text = text.to_owned();
    cache.get_or_load(&key, || async { Err(text) }).await
}

/// Begins a load that ends when the sender says so, as a task of its own.
fn load_slowly(
    cache: &Arc<Texts>,
    group: &mut TaskGroup,
    key: u32,
) -> oneshot::Sender<Result<String, String>> {
    let (done, outcome) = oneshot::channel();
    let cache = Arc::clone(cache);
    group.spawn("slow", async move {
        cache.get_or_load(&key, || async { outcome.await.unwrap() }).await.ok();
    });
    done
}

async fn settle() {
    for _ in 0..20 {
        yield_now().await;
    }
}

#[track_caller]
fn check_no_flights(cache: &Texts) {
    (0..100).for_each(|key| assert!(cache.shared.flights.shard(&key).is_empty(), "{key} flies"));
}

#[track_caller]
fn check_text(actual: Result<String, String>, expected: &str) {
    assert_eq!(actual.as_deref(), Ok(expected));
}

#[tokio::test(start_paused = true)]
async fn a_value_is_served_until_its_time_is_over() {
    let cache = minutes().build();
    check_text(load(&cache, 1, "a").await, "a");
    advance(MINUTE - Duration::from_nanos(1)).await;
    check_text(load(&cache, 1, "b").await, "a");
    assert_eq!(cache.get(&1).as_deref(), Some("a"));
    advance(Duration::from_nanos(1)).await;
    assert_eq!(cache.get(&1), None);
    assert_eq!(cache.stats().entries, 0, "a get sweeps what is over");
    check_text(load(&cache, 1, "b").await, "b");
}

#[tokio::test(start_paused = true)]
async fn a_value_without_a_time_stays() {
    let cache: Texts = Cache::builder(10).build();
    cache.insert(1, "a".to_owned());
    advance(MINUTE * 60 * 24 * 365).await;
    assert_eq!(cache.get(&1).as_deref(), Some("a"));
    assert_eq!(cache.remove(&1).as_deref(), Some("a"));
    assert_eq!(cache.remove(&1), None);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_callers_load_once() {
    let cache = minutes().build();
    let n_loads = AtomicUsize::new(0);
    let caller = || {
        cache.get_or_load_in_place(&7, || async {
            n_loads.fetch_add(1, Ordering::Relaxed);
            sleep(SECOND).await;
            Ok("a".to_owned())
        })
    };
    let outcomes = join_all((0..10_000).map(|_| caller())).await;
    assert!(outcomes.iter().all(|it| it.as_deref() == Ok("a")));
    assert_eq!(n_loads.load(Ordering::Relaxed), 1);
    let stats = cache.stats();
    assert_eq!((stats.misses, stats.coalesced, stats.loads), (10_000, 9_999, 1));
    check_no_flights(&cache);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads_load_each_key_once() {
    let cache: Arc<Texts> = Arc::new(Cache::builder(10_000).build());
    let n_loads = Arc::new(AtomicUsize::new(0));
    let mut group = TaskGroup::isolated();
    for caller in 0..2_000_u32 {
        let (cache, n_loads) = (Arc::clone(&cache), Arc::clone(&n_loads));
        group.spawn("caller", async move {
            for key in 0..50 {
                let n_loads = Arc::clone(&n_loads);
                let loader = move || async move {
                    n_loads.fetch_add(1, Ordering::Relaxed);
                    yield_now().await;
                    Ok(key.to_string())
                };
                let key = (key + caller) % 50;
                cache.get_or_load(&key, loader).await.unwrap();
            }
        });
    }
    while let Some(ended) = group.join_next().await {
        assert_eq!(ended.panic(), None);
    }
    assert_eq!(n_loads.load(Ordering::Relaxed), 50);
    check_no_flights(&cache);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_leader_hands_over_wherever_it_is() {
    let n_points = at_every_await_point(async |n_polls| {
        let cache = minutes().build();
        let leader = cache.get_or_load(&1, || async {
            yield_now().await;
            sleep(SECOND).await;
            yield_now().await;
            Ok("leader".to_owned())
        });
        let follower = load(&cache, 1, "follower");
        let (led, followed) = tokio::join!(biased; cancel_after(n_polls, leader), follower);
        let expected = if led.is_some() { "leader" } else { "follower" };
        check_text(followed, expected);
        assert_eq!(cache.get(&1).as_deref(), Some(expected));
        check_no_flights(&cache);
        led.is_some()
    });
    assert_eq!(n_points.await, 3);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_waiter_leaves_no_trace() {
    let n_points = at_every_await_point(async |n_polls| {
        let cache = Arc::new(minutes().build());
        let mut group = TaskGroup::isolated();
        let done = load_slowly(&cache, &mut group, 1);
        settle().await;
        group.spawn("landing", async move {
            settle().await;
            done.send(Ok("a".to_owned())).unwrap();
        });
        let waited = cancel_after(n_polls, load(&cache, 1, "b")).await;
        settle().await;
        settle().await;
        assert_eq!(cache.get(&1).as_deref(), Some("a"));
        check_no_flights(&cache);
        waited.is_some()
    });
    assert_eq!(n_points.await, 1);
}

#[tokio::test(start_paused = true)]
async fn when_all_are_cancelled_nothing_is_left() {
    let cache = minutes().build();
    let caller = || cancel_after(1, cache.get_or_load(&1, pending));
    join_all((0..5).map(|_| caller())).await;
    check_no_flights(&cache);
    check_text(load(&cache, 1, "a").await, "a");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_panics_hands_over() {
    let cache = Arc::new(minutes().build());
    let mut group = TaskGroup::isolated();
    let in_routine = Arc::clone(&cache);
    group.spawn("leader", async move {
        let broken = || async {
            sleep(SECOND).await;
            panic!("no luck")
        };
        in_routine.get_or_load(&1, broken).await.ok();
    });
    yield_now().await;
    check_text(load(&cache, 1, "follower").await, "follower");
    assert_eq!(group.join_next().await.unwrap().panic(), Some("no luck"));
    check_no_flights(&cache);
}

#[tokio::test(start_paused = true)]
async fn an_insert_during_a_load_wins() {
    let cache = Arc::new(minutes().build());
    let mut group = TaskGroup::isolated();
    let done = load_slowly(&cache, &mut group, 1);
    settle().await;
    cache.insert(1, "inserted".to_owned());
    check_text(load(&cache, 1, "b").await, "inserted");
    done.send(Ok("loaded".to_owned())).unwrap();
    settle().await;
    assert_eq!(cache.get(&1).as_deref(), Some("inserted"));
    check_no_flights(&cache);
}

#[tokio::test(start_paused = true)]
async fn who_takes_over_after_an_insert_loads_nothing() {
    let cache = minutes().build();
    let mut leader = Box::pin(cache.get_or_load(&1, pending));
    let mut follower = Box::pin(load(&cache, 1, "loaded"));
    assert!((&mut leader).now_or_never().is_none() && (&mut follower).now_or_never().is_none());
    cache.insert(1, "inserted".to_owned());
    drop(leader);
    check_text(follower.await, "inserted");
    assert_eq!(cache.stats().loads, 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_forgotten_during_a_load_is_loaded_anew() {
    let forget: [fn(&Texts); 3] = [
        |cache| assert_eq!(cache.remove(&1), None),
        |cache| cache.invalidate_all(),
        |cache| cache.retain(|_, _| true),
    ];
    for forget in forget {
        let cache = Arc::new(minutes().build());
        let mut group = TaskGroup::isolated();
        let done = load_slowly(&cache, &mut group, 1);
        settle().await;
        forget(&cache);
        let anew = tokio::time::timeout(MINUTE, load(&cache, 1, "new")).await;
        check_text(anew.expect("it does not wait for the old load"), "new");
        done.send(Ok("out of date".to_owned())).unwrap();
        settle().await;
        assert_eq!(cache.get(&1).as_deref(), Some("new"));
        check_no_flights(&cache);
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_goes_to_all_who_wait_and_is_forgotten() {
    let cache = minutes().build();
    let slow = cache.get_or_load(&1, || async {
        sleep(SECOND).await;
        Err("no server".to_owned())
    });
    let outcomes = tokio::join!(biased; slow, load(&cache, 1, "b"), load(&cache, 1, "c"));
    let error = Err("no server".to_owned());
    assert_eq!(outcomes, (error.clone(), error.clone(), error));
    assert_eq!(cache.stats().entries, 0);
    check_text(load(&cache, 1, "d").await, "d");
}

#[tokio::test(start_paused = true)]
async fn an_error_is_remembered_as_long_as_it_should() {
    let cache = minutes().ttl_error(SECOND).build();
    assert_eq!(fail(&cache, 1, "no server").await, Err("no server".to_owned()));
    assert_eq!(load(&cache, 1, "a").await, Err("no server".to_owned()));
    assert_eq!(cache.get(&1), None);
    assert_eq!(cache.stats().loads, 1);
    advance(SECOND).await;
    check_text(load(&cache, 1, "a").await, "a");
}

#[tokio::test(start_paused = true)]
async fn an_old_value_is_served_while_one_refresh_runs() {
    let cache = Arc::new(minutes().stale_for(MINUTE).build());
    check_text(load(&cache, 1, "old").await, "old");
    advance(MINUTE).await;
    let slow = || async {
        sleep(SECOND).await;
        Ok("new".to_owned())
    };
    for _ in 0..100 {
        check_text(cache.get_or_load(&1, slow).now_or_never().unwrap(), "old");
    }
    assert_eq!(cache.get(&1).as_deref(), Some("old"));
    sleep(SECOND * 2).await;
    assert_eq!(cache.get(&1).as_deref(), Some("new"));
    let stats = cache.stats();
    assert_eq!((stats.loads, stats.stale_hits, stats.hits), (2, 101, 1));
    check_no_flights(&cache);
}

#[tokio::test(start_paused = true)]
async fn a_failed_refresh_keeps_the_old_value_until_its_end() {
    let cache = minutes().ttl_error(SECOND * 20).stale_for(MINUTE).build();
    check_text(load(&cache, 1, "old").await, "old");
    advance(MINUTE).await;
    for n_failed in 1..=3 {
        for _ in 0..10 {
            check_text(fail(&cache, 1, "no server").await, "old");
            settle().await;
        }
        assert_eq!(cache.stats().load_errors, n_failed, "a pause follows a failed refresh");
        advance(SECOND * 20).await;
    }
    assert_eq!(fail(&cache, 1, "no server").await, Err("no server".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn who_comes_after_the_end_waits_for_the_refresh_under_way() {
    let cache = minutes().stale_for(SECOND).build();
    check_text(load(&cache, 1, "old").await, "old");
    advance(MINUTE).await;
    let slow = || async {
        sleep(MINUTE).await;
        Ok("new".to_owned())
    };
    check_text(cache.get_or_load(&1, slow).await, "old");
    sleep(SECOND).await;
    check_text(load(&cache, 1, "own").await, "new");
    assert_eq!(cache.stats().coalesced, 1);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_panics_keeps_the_old_value() {
    let cache = minutes().stale_for(MINUTE).build();
    check_text(load(&cache, 1, "old").await, "old");
    advance(MINUTE).await;
    let broken = || async { panic!("no luck") };
    check_text(cache.get_or_load(&1, broken).await, "old");
    settle().await;
    check_no_flights(&cache);
    check_text(load(&cache, 1, "new").await, "old");
    settle().await;
    assert_eq!(cache.get(&1).as_deref(), Some("new"));
}

#[tokio::test(start_paused = true)]
async fn no_more_refreshes_run_than_allowed_and_none_outlives_the_cache() {
    let cache = minutes().stale_for(MINUTE).n_refreshes_max(3).build();
    for key in 0..10 {
        cache.insert(key, "old".to_owned());
    }
    advance(MINUTE).await;
    let held = Arc::new(());
    for key in 0..10 {
        let held = Arc::clone(&held);
        let stuck = move || async move {
            let _held = held;
            pending().await
        };
        check_text(cache.get_or_load(&key, stuck).await, "old");
    }
    settle().await;
    assert_eq!((cache.stats().loads, Arc::strong_count(&held)), (3, 4));
    drop(cache);
    settle().await;
    assert_eq!(Arc::strong_count(&held), 1);
}

#[tokio::test(start_paused = true)]
async fn a_load_in_place_does_not_take_an_old_value() {
    let cache = minutes().stale_for(MINUTE).build();
    cache.insert(1, "old".to_owned());
    advance(MINUTE).await;
    let error = cache.get_or_load_in_place(&1, || async { Err("no server".to_owned()) }).await;
    assert_eq!(error, Err("no server".to_owned()));
    assert_eq!(cache.get(&1).as_deref(), Some("old"), "the failure cost nothing");
    let text = "new".to_owned();
    check_text(cache.get_or_load_in_place(&1, || async { Ok(text.clone()) }).await, "new");
}

#[tokio::test(start_paused = true)]
async fn an_idle_entry_ends_and_a_used_one_stays() {
    let cache = minutes().ttl_idle(SECOND * 10).build();
    cache.insert(1, "used".to_owned());
    cache.insert(2, "idle".to_owned());
    for _ in 0..5 {
        advance(SECOND * 9).await;
        assert_eq!(cache.get(&1).as_deref(), Some("used"));
    }
    assert_eq!(cache.get(&2), None);
    advance(SECOND * 9).await;
    advance(SECOND * 6).await;
    assert_eq!(cache.get(&1), None, "its TTL ends it all the same");
}

#[tokio::test(start_paused = true)]
async fn a_value_may_say_how_long_it_lasts() {
    let builder: CacheBuilder<u32, u64> = Cache::builder(10).ttl(MINUTE);
    let cache = builder.ttl_of(|_, secs| Duration::from_secs(*secs)).build();
    assert_eq!(cache.get_or_load(&1, || async { Ok(5) }).await, Ok(5));
    assert_eq!(cache.get_or_load(&2, || async { Ok(0) }).await, Ok(0));
    assert_eq!((cache.get(&1), cache.get(&2)), (Some(5), None));
    advance(SECOND * 5).await;
    assert_eq!(cache.get(&1), None);
    cache.insert(3, 9);
    cache.insert(3, 0);
    assert_eq!(cache.get(&3), None, "what must not be kept replaces what was");
}

#[tokio::test(start_paused = true)]
async fn jitter_spreads_the_ends_and_repeats_itself() {
    let ends = async |seed| {
        let cache = Cache::builder(1_000).ttl(SECOND * 100).jitter(0.2).seed(seed).build();
        let cache: Cache<u32, ()> = cache;
        (0..200).for_each(|key| cache.insert(key, ()));
        let mut ends = HashMap::new();
        for second in 1..=100 {
            advance(SECOND).await;
            for key in 0..200 {
                if cache.get(&key).is_none() {
                    ends.entry(key).or_insert(second);
                }
            }
        }
        ends
    };
    let first = ends(1).await;
    assert_eq!(first.len(), 200);
    assert!(first.values().all(|it| (80..=100).contains(it)));
    assert!(first.values().any(|it| *it < 85) && first.values().any(|it| 95 < *it));
    assert_eq!(first, ends(1).await);
    assert_ne!(first, ends(2).await);
}

#[tokio::test(start_paused = true)]
async fn a_loader_that_asks_for_its_own_key_is_told_so() {
    let cache = Arc::new(minutes().build());
    let inner = Arc::clone(&cache);
    let own_key = cache.get_or_load(&1, move || async move {
        yield_now().await;
        load(&inner, 1, "b").await
    });
    let panicked = crate::catch_panic(own_key).await.unwrap_err();
    assert!(panicked.message.contains("would wait for itself"), "{}", panicked.message);
    check_no_flights(&cache);
}

#[tokio::test(start_paused = true)]
async fn a_loader_may_ask_for_another_key_and_a_task_twice_for_one() {
    let cache = Arc::new(minutes().build());
    let caller = || {
        let inner = Arc::clone(&cache);
        cache.get_or_load(&1, move || async move {
            yield_now().await;
            load(&inner, 2, "b").await
        })
    };
    let (first, second) = tokio::join!(caller(), caller());
    check_text(first, "b");
    check_text(second, "b");
    assert_eq!(cache.stats().loads, 2);
}

#[tokio::test(start_paused = true)]
async fn retain_forgets_what_it_is_told_and_what_is_over() {
    let cache = minutes().ttl_error(MINUTE).build();
    cache.insert(1, "over".to_owned());
    advance(MINUTE).await;
    cache.insert(2, "kept".to_owned());
    cache.insert(3, "not kept".to_owned());
    assert!(fail(&cache, 4, "no server").await.is_err());
    cache.retain(|_, value| value == "kept");
    assert_eq!(cache.stats().entries, 1);
    assert_eq!(cache.get(&2).as_deref(), Some("kept"));
}

#[tokio::test(start_paused = true)]
async fn what_has_no_room_is_pushed_out_and_counted() {
    let cache: Cache<u32, u64> = Cache::builder(100).build();
    (0..1_000).for_each(|key| cache.insert(key, 0));
    (0..10).for_each(|_| cache.insert(999, 1));
    let stats = cache.stats();
    assert!((50..=100).contains(&stats.entries), "{} entries", stats.entries);
    assert_eq!(stats.evictions, 1_000 - stats.entries);
}

#[tokio::test(start_paused = true)]
async fn a_value_too_heavy_to_keep_is_returned_all_the_same() {
    let cache: Cache<u32, u64> = Cache::builder(1_000).weigher(10, |_, weight| *weight).build();
    assert_eq!(cache.get_or_load(&1, || async { Ok(u64::MAX) }).await, Ok(u64::MAX));
    assert_eq!(cache.get(&1), None);
    let nothing: Cache<u32, u64> = Cache::builder(0).build();
    assert_eq!(nothing.get_or_load(&1, || async { Ok(1) }).await, Ok(1));
    assert_eq!(nothing.stats().entries, 0);
}

#[derive(Debug, Clone)]
enum Step {
    Insert(u32),
    Load(u32),
    Fail(u32),
    Remove(u32),
    Get(u32),
    Advance(u64),
    InvalidateAll,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0_u32..4;
    prop_oneof![
        key.clone().prop_map(Step::Insert),
        key.clone().prop_map(Step::Load),
        key.clone().prop_map(Step::Fail),
        key.clone().prop_map(Step::Remove),
        key.prop_map(Step::Get),
        (0_u64..15).prop_map(Step::Advance),
        Just(Step::InvalidateAll),
    ]
}

/// Plays `steps` on a cache (TTL 10 s, errors 5 s) and on a plain map, and compares all answers.
async fn play(steps: Vec<Step>) {
    let ttl_error = SECOND * 5;
    let cache: Cache<u32, usize, usize> =
        Cache::builder(1_000).ttl(SECOND * 10).ttl_error(ttl_error).build();
    let mut model: HashMap<u32, (Result<usize, usize>, Instant)> = HashMap::new();
    for (n, step) in steps.into_iter().enumerate() {
        let now = Instant::now();
        model.retain(|_, (_, end)| now < *end);
        match step {
            Step::Insert(key) => {
                cache.insert(key, n);
                model.insert(key, (Ok(n), now + SECOND * 10));
            }
            Step::Load(key) => {
                let actual = cache.get_or_load(&key, move || async move { Ok(n) }).await;
                assert_eq!(actual, model.entry(key).or_insert((Ok(n), now + SECOND * 10)).0);
            }
            Step::Fail(key) => {
                let actual = cache.get_or_load(&key, move || async move { Err(n) }).await;
                assert_eq!(actual, model.entry(key).or_insert((Err(n), now + ttl_error)).0);
            }
            Step::Remove(key) => {
                assert_eq!(cache.remove(&key), model.remove(&key).and_then(|it| it.0.ok()));
            }
            Step::Get(key) => {
                assert_eq!(cache.get(&key), model.get(&key).and_then(|it| it.0.ok()));
            }
            Step::Advance(secs) => advance(SECOND * u32::try_from(secs).unwrap()).await,
            Step::InvalidateAll => {
                cache.invalidate_all();
                model.clear();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn it_answers_as_a_map_with_ends_would(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        runtime.block_on(play(steps));
    }

    #[test]
    fn the_capacity_is_never_exceeded(
        capacity in 0_u64..500,
        weights in prop::collection::vec(0_u64..60, 0..300),
    ) {
        let cache: Cache<usize, u64> = Cache::builder(capacity).weigher(20, |_, it| *it).build();
        for (key, weight) in weights.into_iter().enumerate() {
            cache.insert(key % 100, weight);
            prop_assert!(cache.stats().weight <= capacity, "{}", cache.stats().weight);
        }
    }
}
