//! What the pool promises, under the paused clock.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use futures::FutureExt as _;
use futures::future::join_all;
use proptest::prelude::*;
use tokio::time::{advance, sleep};

use super::*;
use crate::testing::{at_every_await_point, cancel_after};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

/// A server and its connections.
#[derive(Debug, Default)]
struct Server {
    n_live: AtomicUsize,
    n_asked: AtomicU64,
    n_closed_politely: AtomicUsize,
    is_dead: AtomicBool,
    finds_unfit: AtomicBool,
    open_delay: Duration,
    check_delay: Duration,
    close_delay: Duration,
}

#[derive(Debug)]
struct Conn {
    id: u64,
    server: Arc<Server>,
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.server.n_live.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug, thiserror::Error)]
#[error("connection refused")]
struct Refused;

struct Connect(Arc<Server>);

impl PoolManager for Connect {
    type Resource = Conn;
    type Error = Refused;

    async fn open(&self) -> Result<Conn, Refused> {
        let id = self.0.n_asked.fetch_add(1, Ordering::Relaxed);
        if !self.0.open_delay.is_zero() {
            sleep(self.0.open_delay).await;
        }
        if self.0.is_dead.load(Ordering::Relaxed) {
            return Err(Refused);
        }
        self.0.n_live.fetch_add(1, Ordering::Relaxed);
        Ok(Conn { id, server: Arc::clone(&self.0) })
    }

    async fn check(&self, _conn: &mut Conn) -> Result<(), Refused> {
        sleep(self.0.check_delay).await;
        if self.0.finds_unfit.swap(false, Ordering::Relaxed) { Err(Refused) } else { Ok(()) }
    }

    async fn close(&self, conn: Conn) {
        sleep(self.0.close_delay).await;
        self.0.n_closed_politely.fetch_add(1, Ordering::Relaxed);
        drop(conn);
    }
}

fn builder(server: &Arc<Server>) -> PoolBuilder<Connect> {
    Pool::builder(Connect(Arc::clone(server)))
}

fn pool_of(n_max: usize) -> (Arc<Pool<Connect>>, Arc<Server>) {
    let server = Arc::new(Server::default());
    (Arc::new(builder(&server).n_max(n_max).build()), server)
}

fn live(server: &Server) -> usize {
    server.n_live.load(Ordering::Relaxed)
}

fn asked(server: &Server) -> u64 {
    server.n_asked.load(Ordering::Relaxed)
}

async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

/// Nothing is on its way, and the pool knows what is open.
#[track_caller]
fn check_at_rest(pool: &Pool<Connect>, server: &Server, n_open: usize) {
    let stats = pool.stats();
    assert_eq!((stats.open, stats.idle, stats.opening, stats.waiting), (n_open, n_open, 0, 0));
    assert_eq!(live(server), n_open);
    assert_eq!(stats.opened - stats.closed, n_open as u64);
}

#[tokio::test(start_paused = true)]
async fn a_resource_is_used_again() {
    let (pool, server) = pool_of(2);
    let first = pool.acquire().await.unwrap();
    let second = pool.acquire().await.unwrap();
    assert_eq!((first.id, second.id, asked(&server)), (0, 1, 2));
    drop((first, second));
    assert_eq!(pool.acquire().await.unwrap().id, 1, "the latest used comes first");
    check_at_rest(&pool, &server, 2);
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_served_in_the_order_of_asking() {
    let (pool, _server) = pool_of(2);
    let order = Mutex::new(Vec::new());
    let caller = async |place: usize| {
        let _guard = pool.acquire().await.unwrap();
        order.lock().push(place);
        sleep(SECOND).await;
    };
    join_all((0..20).map(caller)).await;
    assert_eq!(order.into_inner(), (0..20).collect::<Vec<_>>());
    let stats = pool.stats();
    assert_eq!((stats.opened, stats.wait_max), (2, SECOND * 9));
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_comes_back_goes_to_who_waits_for_an_opening() {
    let server = Arc::new(Server { open_delay: SECOND, ..Server::default() });
    let pool = builder(&server).build();
    let first = pool.acquire().await.unwrap();
    let began = Instant::now();
    let give_back = async {
        sleep(MILLI * 100).await;
        drop(first);
    };
    let (second, ()) = tokio::join!(pool.acquire(), give_back);
    assert_eq!((second.unwrap().id, began.elapsed()), (0, MILLI * 100));
    sleep(SECOND).await;
    check_at_rest(&pool, &server, 2);
}

#[tokio::test(start_paused = true)]
async fn an_acquire_may_be_cancelled_anywhere_while_it_opens() {
    let n_points = at_every_await_point(async |n_polls| {
        let server = Arc::new(Server { open_delay: SECOND, ..Server::default() });
        let pool = builder(&server).n_max(1).build();
        let ended = cancel_after(n_polls, pool.acquire()).await.is_some();
        assert_eq!(pool.stats().waiting, 0);
        let began = Instant::now();
        drop(pool.acquire().await.unwrap());
        let expected = if ended { Duration::ZERO } else { SECOND };
        assert_eq!((began.elapsed(), asked(&server)), (expected, 1), "the opening went on");
        check_at_rest(&pool, &server, 1);
        ended
    });
    assert_eq!(n_points.await, 1);
}

#[tokio::test(start_paused = true)]
async fn an_acquire_may_be_cancelled_anywhere_while_it_checks() {
    let n_points = at_every_await_point(async |n_polls| {
        let server = Arc::new(Server { check_delay: SECOND, ..Server::default() });
        let pool = builder(&server).n_max(1).build();
        drop(pool.acquire().await.unwrap());
        advance(SECOND).await;
        let ended = cancel_after(n_polls, pool.acquire()).await.is_some();
        settle().await;
        sleep(MILLI).await;
        check_at_rest(&pool, &server, usize::from(ended));
        assert_eq!(pool.acquire().await.unwrap().id, u64::from(!ended));
        ended
    });
    assert_eq!(n_points.await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_waiter_passes_on_what_it_was_given() {
    let (pool, server) = pool_of(1);
    let guard = pool.acquire().await.unwrap();
    let mut first = Box::pin(pool.acquire());
    let mut second = Box::pin(pool.acquire());
    assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
    drop(guard);
    // It was given the resource, and never heard of it.
    drop(first);
    let guard = second.now_or_never().expect("its turn has come").unwrap();
    drop(guard);
    check_at_rest(&pool, &server, 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_no_longer_than_the_timeout() {
    let server = Arc::new(Server::default());
    let pool = builder(&server).n_max(1).acquire_timeout(SECOND * 3).build();
    let guard = pool.acquire().await.unwrap().hand_over();
    let began = Instant::now();
    let error = pool.acquire().await.unwrap_err();
    assert_eq!(began.elapsed(), SECOND * 3);
    let text = error.to_string();
    assert!(text.contains("within 3s: 1 of at most 1 are in use"), "{text}");
    assert!(text.contains("holds one and waits for another"), "{text}");
    drop(guard);
    check_at_rest(&pool, &server, 1);
    assert_eq!(pool.stats().timed_out, 1);
}

#[tokio::test(start_paused = true)]
async fn an_opening_slower_than_the_callers_patience_serves_the_next() {
    let server = Arc::new(Server { open_delay: SECOND * 5, ..Server::default() });
    let pool = builder(&server).acquire_timeout(SECOND * 3).build();
    assert!(matches!(pool.acquire().await, Err(PoolError::TimedOut { .. })));
    assert_eq!(pool.acquire().await.unwrap().id, 0);
}

#[tokio::test(start_paused = true)]
async fn a_dead_server_is_told_of_at_once_and_not_hammered() {
    let (pool, server) = pool_of(10);
    server.is_dead.store(true, Ordering::Relaxed);
    let error = pool.acquire().await.unwrap_err();
    let cause = error.source().and_then(Error::source).map(ToString::to_string);
    assert_eq!(cause.as_deref(), Some("connection refused"));

    let began = Instant::now();
    for _ in 0..30 {
        let callers = join_all((0..50).map(|_| pool.acquire())).await;
        assert!(callers.iter().all(|it| matches!(it, Err(PoolError::Open(_)))));
    }
    assert!(SECOND * 50 <= began.elapsed(), "30 openings in {:?}", began.elapsed());
    assert_eq!(asked(&server), 31, "one opening a round, and all 50 are told of it");

    server.is_dead.store(false, Ordering::Relaxed);
    let guards = join_all((0..10).map(|_| pool.acquire())).await;
    assert!(guards.iter().all(Result::is_ok));
    drop(guards);
    check_at_rest(&pool, &server, 10);
}

#[tokio::test(start_paused = true)]
async fn an_error_leaves_those_in_line_whom_another_resource_can_serve() {
    let (pool, server) = pool_of(2);
    let guard = pool.acquire().await.unwrap();
    server.is_dead.store(true, Ordering::Relaxed);
    let give_back = async {
        settle().await;
        drop(guard);
    };
    let (first, second, ()) = tokio::join!(biased; pool.acquire(), pool.acquire(), give_back);
    assert!(matches!(first, Err(PoolError::Open(_))));
    assert_eq!(second.unwrap().id, 0);
}

#[tokio::test(start_paused = true)]
async fn an_opening_that_hangs_or_panics_is_a_failed_one() {
    let server = Arc::new(Server { open_delay: SECOND * 60, ..Server::default() });
    let pool = builder(&server).n_max(1).open_timeout(SECOND).build();
    let PoolError::Open(error) = pool.acquire().await.unwrap_err() else { panic!("not open") };
    assert!(matches!(*error, PoolOpenError::TimedOut(SECOND)));

    struct Broken;
    impl PoolManager for Broken {
        type Resource = ();
        type Error = Refused;
        async fn open(&self) -> Result<(), Refused> {
            panic!("no luck")
        }
    }
    let pool = Pool::builder(Broken).build();
    let PoolError::Open(error) = pool.acquire().await.unwrap_err() else { panic!("not open") };
    assert!(matches!(&*error, PoolOpenError::Panicked(it) if it.message == "no luck"));
    assert_eq!(pool.stats().failed, 1);
}

#[tokio::test(start_paused = true)]
async fn an_unfit_resource_is_replaced_and_its_caller_keeps_its_turn() {
    let (pool, server) = pool_of(1);
    drop(pool.acquire().await.unwrap());
    advance(SECOND).await;
    server.finds_unfit.store(true, Ordering::Relaxed);
    let order = Mutex::new(Vec::new());
    let caller = async |place: usize| {
        let guard = pool.acquire().await.unwrap();
        order.lock().push((place, guard.id));
    };
    join_all((0..3).map(caller)).await;
    assert_eq!(order.into_inner(), [(0, 1), (1, 1), (2, 1)]);
    assert_eq!((pool.stats().failed_checks, pool.stats().closed), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn who_keeps_its_turn_takes_nobodys_place() {
    let server = Arc::new(Server { check_delay: SECOND, ..Server::default() });
    let pool = builder(&server).n_max(2).build();
    let (guard, idle) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
    drop(idle);
    advance(SECOND).await;
    let mut checking = Box::pin(pool.acquire());
    let mut next = Box::pin(pool.acquire());
    let mut last = Box::pin(pool.acquire());
    for acquire in [&mut checking, &mut next, &mut last] {
        assert!(acquire.now_or_never().is_none());
    }
    server.finds_unfit.store(true, Ordering::Relaxed);
    advance(SECOND).await;
    // Given to `next`, which does not know yet when the check fails.
    drop(guard);
    assert!((&mut checking).now_or_never().is_none());
    drop(next.now_or_never().expect("it was its turn").unwrap());
    let guard = checking.now_or_never().expect("it was its turn").unwrap();
    assert!((&mut last).now_or_never().is_none());
    drop(guard);
    drop(last.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_resource_is_checked_only_after_it_was_idle() {
    let server = Arc::new(Server { check_delay: MILLI * 10, ..Server::default() });
    let pool = builder(&server).check_after(SECOND * 5).build();
    drop(pool.acquire().await.unwrap());
    for (idle, checked) in [(SECOND * 4, false), (SECOND * 5, true), (SECOND * 4, false)] {
        advance(idle).await;
        let began = Instant::now();
        drop(pool.acquire().await.unwrap());
        assert_eq!(!began.elapsed().is_zero(), checked, "after {idle:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_panic_gave_back_is_checked() {
    let (pool, server) = pool_of(1);
    let in_routine = Arc::clone(&pool);
    let mut group = TaskGroup::isolated();
    group.spawn("broken", async move {
        let _guard = in_routine.acquire().await.unwrap();
        panic!("no luck");
    });
    assert!(group.join_next().await.unwrap().panic().is_some());
    check_at_rest(&pool, &server, 1);
    server.finds_unfit.store(true, Ordering::Relaxed);
    assert_eq!(pool.acquire().await.unwrap().id, 1);
}

#[tokio::test(start_paused = true)]
async fn a_resource_may_be_thrown_away_or_taken_out() {
    let (pool, server) = pool_of(1);
    pool.acquire().await.unwrap().discard();
    let taken = pool.acquire().await.unwrap().take();
    assert_eq!((taken.id, pool.stats().open), (1, 0));
    let guard = pool.acquire().await.unwrap();
    assert_eq!((guard.id, live(&server)), (2, 2));
    assert_eq!(server.n_closed_politely.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn the_minimum_is_kept_open_and_the_rest_ages_out() {
    let server = Arc::new(Server::default());
    let pool = builder(&server).n_min(2).n_max(5).idle_max(SECOND * 10).build();
    settle().await;
    check_at_rest(&pool, &server, 2);
    drop(join_all((0..5).map(|_| pool.acquire())).await);
    check_at_rest(&pool, &server, 5);
    sleep(SECOND * 9).await;
    check_at_rest(&pool, &server, 5);
    sleep(SECOND + MILLI).await;
    settle().await;
    sleep(MILLI).await;
    check_at_rest(&pool, &server, 2);
    pool.acquire().await.unwrap().discard();
    settle().await;
    sleep(MILLI * 2).await;
    check_at_rest(&pool, &server, 2);
    assert_eq!(server.n_closed_politely.load(Ordering::Relaxed), 4);
}

#[tokio::test(start_paused = true)]
async fn an_old_resource_is_closed_idle_or_when_it_comes_back() {
    let server = Arc::new(Server::default());
    let pool = builder(&server).age_max(SECOND * 10).check_after(SECOND * 60).build();
    let (in_use, idle) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
    drop(idle);
    sleep(SECOND * 10 + MILLI).await;
    sleep(MILLI).await;
    assert_eq!((pool.stats().idle, live(&server)), (0, 1));
    drop(in_use);
    sleep(MILLI * 2).await;
    check_at_rest(&pool, &server, 0);
    assert_eq!(pool.acquire().await.unwrap().id, 2);
}

#[tokio::test(start_paused = true)]
async fn a_close_waits_for_what_is_in_use_and_tells_who_waits() {
    let server = Arc::new(Server { close_delay: SECOND, ..Server::default() });
    let pool = builder(&server).n_max(2).build();
    let (in_use, idle) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
    let began = Instant::now();
    let give_back = async {
        sleep(SECOND).await;
        drop(idle);
        sleep(SECOND).await;
        drop(in_use);
    };
    let (refused, n_left, ()) =
        tokio::join!(biased; pool.acquire(), pool.close(SECOND * 10), give_back);
    assert!(matches!(refused, Err(PoolError::Closed)));
    assert_eq!((n_left, began.elapsed()), (0, SECOND * 3));
    assert_eq!(server.n_closed_politely.load(Ordering::Relaxed), 2);
    assert!(matches!(pool.acquire().await, Err(PoolError::Closed)));
    check_at_rest(&pool, &server, 0);
    assert_eq!(pool.close(SECOND).await, 0, "once more does no harm");
}

#[tokio::test(start_paused = true)]
async fn a_close_leaves_what_does_not_come_back() {
    let server = Arc::new(Server { open_delay: SECOND, ..Server::default() });
    let pool = builder(&server).n_max(2).build();
    let guard = pool.acquire().await.unwrap();
    let mut waiting = Box::pin(pool.acquire());
    assert!((&mut waiting).now_or_never().is_none());
    settle().await;
    assert_eq!(pool.stats().opening, 1);
    assert_eq!(pool.close(MILLI).await, 1);
    assert!(matches!(waiting.await, Err(PoolError::Closed)));
    drop(guard);
    sleep(SECOND * 2).await;
    check_at_rest(&pool, &server, 0);
}

#[tokio::test(start_paused = true)]
async fn a_close_may_be_cancelled_anywhere_and_called_again() {
    at_every_await_point(async |n_polls| {
        let server = Arc::new(Server { close_delay: SECOND, ..Server::default() });
        let pool = builder(&server).build();
        drop(pool.acquire().await.unwrap());
        let ended = cancel_after(n_polls, pool.close(SECOND * 10)).await.is_some();
        assert_eq!(pool.close(SECOND * 10).await, 0);
        check_at_rest(&pool, &server, 0);
        assert_eq!(server.n_closed_politely.load(Ordering::Relaxed), 1);
        ended
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_closing_that_hangs_is_given_up_and_few_hang_at_once() {
    let server = Arc::new(Server { close_delay: SECOND * 3600, ..Server::default() });
    let pool = builder(&server).n_max(2).build();
    for _ in 0..10 {
        pool.acquire().await.unwrap().discard();
    }
    settle().await;
    assert_eq!((pool.stats().closing, live(&server)), (2, 2));
    sleep(SECOND * 5 + MILLI).await;
    check_at_rest(&pool, &server, 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_outlives_a_dropped_pool_but_its_guards() {
    let (pool, server) = pool_of(3);
    let (in_use, idle) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
    drop(idle);
    drop(pool);
    settle().await;
    assert_eq!((live(&server), in_use.id), (1, 0));
    drop(in_use);
    assert_eq!(live(&server), 0);
    assert_eq!(Arc::strong_count(&server), 1, "the upkeep is gone");
}

#[cfg(debug_assertions)]
#[tokio::test(start_paused = true)]
async fn a_double_acquire_is_told_with_its_cure() {
    let (pool, server) = pool_of(1);
    let twice = async {
        let _held = pool.acquire().await.unwrap();
        pool.acquire().await.ok();
    };
    let panicked = crate::catch_panic(twice).await.unwrap_err();
    assert!(panicked.message.starts_with("a deadlock: this task"), "{}", panicked.message);
    assert!(panicked.message.contains("Use the guard that is there"), "{}", panicked.message);
    check_at_rest(&pool, &server, 1);
}

#[cfg(debug_assertions)]
#[tokio::test(start_paused = true)]
async fn tasks_that_wait_for_each_other_are_told_too() {
    let (pool, _server) = pool_of(2);
    let mut group = TaskGroup::isolated();
    for _ in 0..2 {
        let pool = Arc::clone(&pool);
        group.spawn("twice", async move {
            let _held = pool.acquire().await.unwrap();
            sleep(SECOND).await;
            drop(pool.acquire().await);
        });
    }
    let ended = group.join_next().await.unwrap();
    let panic = ended.panic().unwrap();
    assert!(panic.starts_with("a deadlock"), "{panic}");
    assert_eq!(group.join_next().await.unwrap().panic(), None, "the other one was set free");
}

#[tokio::test(start_paused = true)]
async fn a_heavy_load_is_no_deadlock() {
    let server = Arc::new(Server::default());
    let pool = Arc::new(builder(&server).n_max(1).acquire_timeout(SECOND).build());
    // Held by a task that does not wait; by one it was handed to; and by a sibling in this task.
    let mut group = TaskGroup::isolated();
    let in_routine = Arc::clone(&pool);
    group.spawn("busy", async move {
        let _guard = in_routine.acquire().await.unwrap();
        sleep(SECOND * 2).await;
    });
    settle().await;
    assert!(matches!(pool.acquire().await, Err(PoolError::TimedOut { .. })));
    group.join_next().await;

    let guard = pool.acquire().await.unwrap();
    group.spawn("next", async move {
        sleep(SECOND / 2).await;
        assert!(guard.id < 10, "a use makes this task its owner");
        sleep(SECOND).await;
    });
    assert!(matches!(pool.acquire().await, Err(PoolError::TimedOut { .. })));
    group.join_next().await;

    // The last one's patience ends, though the pool moves on.
    let sibling = async || {
        let acquired = pool.acquire().await;
        sleep(SECOND / 10 * 7).await;
        acquired.is_ok()
    };
    assert_eq!(tokio::join!(sibling(), sibling(), sibling()), (true, true, false));
}

#[tokio::test(start_paused = true)]
async fn one_holder_that_works_is_enough_for_no_deadlock() {
    let (pool, _server) = pool_of(2);
    let group = TaskGroup::isolated();
    let in_routine = Arc::clone(&pool);
    group.spawn("busy", async move {
        let _guard = in_routine.acquire().await.unwrap();
        sleep(SECOND * 60).await;
    });
    let _held = pool.acquire().await.unwrap();
    settle().await;
    assert!(matches!(pool.acquire().await, Err(PoolError::TimedOut { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads_that_come_and_go_leak_nothing() {
    let server = Arc::new(Server::default());
    let pool = Arc::new(builder(&server).n_max(4).check_after(Duration::ZERO).build());
    let mut group = TaskGroup::isolated();
    for caller in 0..200_usize {
        let (pool, server) = (Arc::clone(&pool), Arc::clone(&server));
        group.spawn("caller", async move {
            for n in 0..50 {
                let acquired = cancel_after(1 + (caller + n) % 7, pool.acquire()).await;
                let Some(Ok(guard)) = acquired else { continue };
                tokio::task::yield_now().await;
                match (caller + n) % 11 {
                    0 => guard.discard(),
                    1 => drop(guard.take()),
                    2 => server.finds_unfit.store(true, Ordering::Relaxed),
                    _ => drop(guard),
                }
            }
        });
    }
    while let Some(ended) = group.join_next().await {
        assert_eq!(ended.panic(), None);
    }
    let stats = pool.stats();
    assert_eq!((stats.in_use, stats.waiting), (0, 0));
    assert_eq!(pool.close(SECOND * 10).await, 0);
    assert_eq!(live(&server), 0);
}

#[derive(Debug, Clone)]
struct Caller {
    after: u64,
    patience: Option<u64>,
    holds: u64,
    end: u8,
}

fn caller() -> impl Strategy<Value = Caller> {
    (0_u64..50, prop::option::of(0_u64..100), 0_u64..80, 0_u8..6)
        .prop_map(|(after, patience, holds, end)| Caller { after, patience, holds, end })
}

#[track_caller]
fn check_bounds(pool: &Pool<Connect>, server: &Server) {
    let stats = pool.stats();
    let n_max = pool.shared.limits.n_max;
    assert!(stats.open + stats.opening <= n_max, "{stats:?}");
    assert!(live(server) <= n_max + stats.closing, "{} live, {stats:?}", live(server));
}

async fn call(pool: Arc<Pool<Connect>>, caller: Caller, server: Arc<Server>) {
    let ms = Duration::from_millis;
    let acquire = timeout(ms(caller.patience.unwrap_or(1_000_000)), pool.acquire());
    let Ok(Ok(guard)) = acquire.await else { return };
    check_bounds(&pool, &server);
    sleep(ms(caller.holds)).await;
    check_bounds(&pool, &server);
    match caller.end {
        0 => guard.discard(),
        1 => drop(guard.take()),
        2 => server.finds_unfit.store(true, Ordering::Relaxed),
        3 => server.is_dead.store(caller.holds < 40, Ordering::Relaxed),
        _ => drop(guard),
    }
}

async fn play(callers: Vec<Caller>, n_max: usize) -> usize {
    let server = Server { open_delay: MILLI * 20, check_delay: MILLI, ..Server::default() };
    let server = Arc::new(server);
    let builder = builder(&server).n_max(n_max).n_min(1).age_max(MILLI * 150);
    let pool = Arc::new(builder.idle_max(MILLI * 60).check_after(MILLI * 10).build());
    let mut group = TaskGroup::isolated();
    for caller in callers {
        sleep(Duration::from_millis(caller.after)).await;
        group.spawn("caller", call(Arc::clone(&pool), caller, Arc::clone(&server)));
    }
    while let Some(ended) = group.join_next().await {
        assert_eq!(ended.panic(), None);
    }
    server.is_dead.store(false, Ordering::Relaxed);
    sleep(SECOND * 5).await;
    let stats = pool.stats();
    assert_eq!((stats.in_use, stats.waiting), (0, 0));
    assert_eq!(stats.opened - stats.closed, stats.open as u64);
    assert_eq!(pool.close(SECOND).await, 0);
    live(&server)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn no_history_exceeds_the_maximum_or_leaks(
        callers in prop::collection::vec(caller(), 1..60),
        n_max in 1_usize..5,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        prop_assert_eq!(runtime.block_on(play(callers, n_max)), 0);
    }
}
