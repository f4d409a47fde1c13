//! What loops promise: the grid, what is missed, jitter, changes of the period, and ends.

use proptest::prelude::*;
use tokio::time::{advance, sleep, timeout};

use super::*;
use crate::testing::{at_every_await_point, cancel_after};

const SECOND: Duration = Duration::from_secs(1);

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// When the ticks came, in milliseconds, if each keeps the loop busy for so long, and how many
/// were missed before each.
async fn ticks(every: &mut Every, busy: &[u64]) -> Vec<(u128, u64)> {
    let began = Instant::now();
    let mut ticks = Vec::new();
    for busy in busy {
        let tick = every.tick().await;
        assert_eq!(tick.due + tick.late, Instant::now());
        ticks.push((began.elapsed().as_millis(), tick.n_missed));
        sleep(millis(*busy)).await;
    }
    ticks
}

#[tokio::test(start_paused = true)]
async fn ticks_fall_on_a_grid_however_long_they_take() {
    let mut every = Every::new(SECOND);
    let ticks = ticks(&mut every, &[0, 900, 1, 1999, 0]).await;
    assert_eq!(ticks, [(0, 0), (1000, 0), (2000, 0), (3000, 0), (4999, 0)]);
    let stats = every.stats();
    assert_eq!(stats, EveryStats { n_ticks: 5, n_missed: 0, late_max: millis(999) });
    assert_eq!((every.tick().await.due - Instant::now()).as_millis(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_first_tick_comes_when_it_was_told_to() {
    let mut every = Every::new(SECOND).first_after(millis(250));
    sleep(SECOND).await; // Nothing counts before the first wait.
    assert_eq!(ticks(&mut every, &[0, 0]).await, [(250, 0), (1250, 0)]);
}

#[tokio::test(start_paused = true)]
async fn missed_ticks_are_skipped_and_told() {
    let mut every = Every::new(SECOND);
    let ticks = ticks(&mut every, &[3500, 0, 0]).await;
    assert_eq!(ticks, [(0, 0), (3500, 2), (4000, 0)]);
    assert_eq!(every.stats().n_missed, 2);
}

#[tokio::test(start_paused = true)]
async fn catching_up_is_bounded() {
    let mut every = Every::new(SECOND).missed(MissedTicks::CatchUp(3));
    let met = ticks(&mut every, &[5500, 0, 0, 0, 0]).await;
    assert_eq!(met, [(0, 0), (5500, 2), (5500, 0), (5500, 0), (6000, 0)]);
    let mut every = Every::new(SECOND).missed(MissedTicks::CatchUp(0));
    assert_eq!(ticks(&mut every, &[2500, 0]).await, [(0, 0), (2500, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_reset_counts_from_now() {
    let mut every = Every::new(SECOND);
    every.tick().await;
    sleep(millis(700)).await;
    every.reset();
    assert_eq!(ticks(&mut every, &[0, 0]).await, [(1000, 0), (2000, 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_new_period_counts_from_the_last_tick() {
    let mut every = Every::new(SECOND);
    every.tick().await;
    sleep(millis(300)).await;
    every.set_period(millis(500));
    assert_eq!(ticks(&mut every, &[0, 0]).await, [(200, 0), (700, 0)]);
    every.set_period(2 * SECOND);
    assert_eq!(ticks(&mut every, &[0]).await, [(2000, 0)]);
    sleep(millis(1500)).await;
    every.set_period(SECOND);
    assert_eq!(ticks(&mut every, &[0, 0]).await, [(0, 0), (1000, 0)], "it had passed");
}

#[tokio::test(start_paused = true)]
async fn a_followed_period_changes_while_a_tick_is_waited_for() {
    let (sender, periods) = watch::channel(60 * SECOND);
    let mut every = Every::new(SECOND).follow(periods);
    let began = Instant::now();
    every.tick().await;
    let change = async {
        sleep(SECOND).await;
        sender.send(5 * SECOND).unwrap();
    };
    tokio::join!(every.tick(), change);
    assert_eq!(began.elapsed(), 5 * SECOND);
    drop(sender);
    every.tick().await;
    assert_eq!((began.elapsed(), every.period()), (10 * SECOND, 5 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_tick_that_nobody_waited_for_stays_the_next() {
    let mut every = Every::new(SECOND);
    every.tick().await;
    for _ in 0..3 {
        timeout(millis(300), every.tick()).await.unwrap_err();
    }
    let tick = every.tick().await;
    assert_eq!((tick.n_before, tick.late, tick.n_missed), (1, Duration::ZERO, 0));
}

#[tokio::test(start_paused = true)]
async fn a_run_finishes_its_tick_and_can_be_run_again() {
    let mut every = Every::new(SECOND).first_after(SECOND);
    for _ in 0..2 {
        let (began, stop) = (Instant::now(), Cancellation::new());
        let mut finished = Vec::new();
        let body = async |tick: Tick| {
            if tick.n_before == 1 {
                stop.cancel("it is over");
            }
            sleep(millis(100)).await;
            finished.push(tick.n_before);
            Ok::<(), ()>(())
        };
        every.run(&stop, body).await.unwrap();
        assert_eq!((began.elapsed(), finished), (millis(2100), vec![0, 1]));
        sleep(10 * SECOND).await;
    }
    assert_eq!(every.stats().n_missed, 0, "the time between two runs misses nothing");
}

#[tokio::test(start_paused = true)]
async fn an_error_ends_a_run() {
    let mut every = Every::new(SECOND);
    let body = async |tick: Tick| if tick.n_before < 3 { Ok(()) } else { Err("no luck") };
    assert_eq!(every.run(&Cancellation::new(), body).await, Err("no luck"));
    assert_eq!(every.stats().n_ticks, 4);
}

#[tokio::test(start_paused = true)]
async fn a_run_dropped_anywhere_drops_its_tick_and_runs_again() {
    let n_points = at_every_await_point(async |n_polls| {
        let mut every = Every::new(SECOND);
        let (mut n_begun, mut n_ended) = (0, 0);
        let stop = Cancellation::new();
        let work = every.run(&stop, async |tick| {
            n_begun += 1;
            sleep(millis(10)).await;
            n_ended += 1;
            if tick.n_before == 3 { Err(()) } else { Ok(()) }
        });
        let ended = cancel_after(n_polls, work).await;
        assert!(n_begun - n_ended <= 1, "ticks never overlap");
        assert_eq!(ended.is_some(), n_ended == 4);
        assert_eq!(every.tick().await.n_missed, 0);
        ended.is_some()
    });
    assert!(7 <= n_points.await);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_place_of_the_grid_is_met_in_its_time_or_told_as_missed(
        period in 2_u64..1000,
        jitter in 0.0_f64..1.0,
        n_caught_up in 0_u32..4,
        busy in proptest::collection::vec(0_u64..5000, 1..60),
        seed: u64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let period = millis(period);
            let mut every = Every::new(period).jitter(jitter).seed(seed)
                .missed(MissedTicks::CatchUp(n_caught_up));
            let began = Instant::now();
            let mut n_places = 0;
            for (n, busy) in busy.into_iter().enumerate() {
                let tick = every.tick().await;
                n_places += u32::try_from(tick.n_missed).unwrap();
                let place = began + period * n_places;
                n_places += 1;
                prop_assert_eq!(tick.n_before, n as u64);
                prop_assert!(place <= tick.due, "{:?} before its place", place - tick.due);
                prop_assert!(tick.due <= place + period.mul_f64(jitter));
                prop_assert!(tick.due <= Instant::now(), "a tick came before its time");
                advance(millis(busy)).await;
            }
            Ok(())
        })?;
    }
}
