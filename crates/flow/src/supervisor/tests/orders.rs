//! In which order children start and stop, with what grace, and what a drop leaves behind.

use super::*;

/// Runs three children under a strategy, fails the middle one after a second, and tells what
/// happened then.
async fn lives_under(strategy: RestartStrategy, temporary: bool) -> Vec<String> {
    let (journal, fail) = (Journal::new(), Failures::new());
    let last = if temporary { RestartPolicy::Temporary } else { RestartPolicy::Permanent };
    let supervisor = eager()
        .strategy(strategy)
        .child(journal.child("a", millis(10), &fail))
        .child(journal.child("b", millis(10), &fail))
        .child(journal.child("c", millis(10), &fail))
        .child(journal.child("d", millis(10), &fail).restart(last));
    let running = Running::new(supervisor);
    sleep(SECOND).await;
    assert_eq!(journal.take(), ["0 start a", "0 start b", "0 start c", "0 start d"]);
    fail.fail("b");
    sleep(SECOND).await;
    let lines = journal.take();
    drop(running);
    lines
}

#[tokio::test(start_paused = true)]
async fn one_for_one_restarts_the_failed_child_alone() {
    assert_eq!(lives_under(RestartStrategy::OneForOne, false).await, ["1000 start b"]);
}

#[tokio::test(start_paused = true)]
async fn one_for_all_stops_in_reverse_and_starts_in_order() {
    let expected = [
        "1010 stop d",
        "1020 stop c",
        "1030 stop a",
        "1030 start a",
        "1030 start b",
        "1030 start c",
        "1030 start d",
    ];
    assert_eq!(lives_under(RestartStrategy::OneForAll, false).await, expected);
}

#[tokio::test(start_paused = true)]
async fn rest_for_one_restarts_those_that_came_later() {
    let expected = ["1010 stop d", "1020 stop c", "1020 start b", "1020 start c", "1020 start d"];
    assert_eq!(lives_under(RestartStrategy::RestForOne, false).await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_temporary_child_stopped_with_its_siblings_stays_down() {
    let expected = ["1010 stop d", "1020 stop c", "1020 start b", "1020 start c"];
    assert_eq!(lives_under(RestartStrategy::RestForOne, true).await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_child_starts_once_those_before_it_are_ready() {
    let journal = Journal::new();
    let fail = Failures::new();
    let slow = ChildSpec::new("slow", |child| async move {
        sleep(millis(300)).await;
        child.ready();
        pending().await
    });
    let supervisor = eager().child(slow.ready_within(SECOND)).child(journal.child(
        "after",
        Duration::ZERO,
        &fail,
    ));
    let running = Running::new(supervisor);
    sleep(millis(299)).await;
    assert_eq!(running.states(), [ChildState::Starting; 2]);
    sleep(millis(2)).await;
    assert_eq!(running.states(), [ChildState::Running; 2]);
    assert_eq!(journal.take(), ["300 start after"]);
}

#[tokio::test(start_paused = true)]
async fn a_child_that_is_not_ready_in_time_has_failed() {
    let child = ChildSpec::new("it", |child| async move {
        child.stopped().await;
        Ok(())
    });
    let running = Running::new(eager().child(child.ready_within(millis(300))));
    sleep(millis(1000)).await;
    let health = running.handle.health().remove(0);
    assert_eq!(health.n_restarts, 3);
    assert_eq!(health.last_error.as_deref(), Some("not ready within 300ms"));
}

#[tokio::test(start_paused = true)]
async fn a_stop_goes_in_reverse_each_within_its_grace() {
    let (journal, fail) = (Journal::new(), Failures::new());
    let supervisor = eager()
        .child(journal.child("polite", SECOND, &fail).grace(2 * SECOND))
        .child(journal.child("slow", 10 * SECOND, &fail).grace(3 * SECOND))
        .child(ChildSpec::new("deaf", |_| pending()).grace(4 * SECOND))
        .child(ChildSpec::new("killed", |_| pending()).grace(Duration::ZERO))
        .child(journal.child("last", SECOND, &fail));
    let running = Running::new(supervisor);
    sleep(SECOND).await;
    journal.take();
    let handle = running.handle.clone();
    assert_eq!(running.stop().await, Ok(()));
    assert_eq!(journal.take(), ["2000 stop last", "10000 stop polite"]);
    assert!(handle.health().iter().all(|it| it.state == ChildState::Stopped));
    assert!(handle.health().iter().all(|it| it.last_error.is_none()));
}

#[tokio::test(start_paused = true)]
async fn a_child_without_the_promised_heartbeat_is_restarted() {
    let journal = Journal::new();
    let noted = journal.clone();
    let child = ChildSpec::new("it", move |child| {
        noted.note("start", "it");
        async move {
            let heartbeat = child.heartbeat();
            for _ in 0..5 {
                sleep(millis(90)).await;
                heartbeat.beat();
            }
            child.stopped().await;
            sleep(millis(20)).await;
            Err("stopped late".into())
        }
    });
    let running = Running::new(eager().child(child.heartbeat(millis(100))));
    sleep(millis(1500)).await;
    // Five beats to 450, none by 550, and 20 to stop.
    assert_eq!(journal.take(), ["0 start it", "570 start it", "1140 start it"]);
    let health = running.handle.health().remove(0);
    assert_eq!(health.last_error.as_deref(), Some("no heartbeat for 100ms"));
    assert_eq!(health.last_heartbeat, Some(journal.began + millis(1140 + 270)));
}

#[tokio::test(start_paused = true)]
async fn a_loop_keeps_its_child_alive() {
    let child = ChildSpec::new("it", |child| async move {
        let mut every = crate::Every::new(SECOND).heartbeat(child.heartbeat());
        let body = async |_| {
            sleep(millis(900)).await;
            Ok(())
        };
        every.run(child.cancellation(), body).await
    });
    let running = Running::new(eager().child(child.heartbeat(millis(1200))));
    sleep(60 * SECOND).await;
    assert_eq!(running.handle.health()[0].n_restarts, 0);
    assert_eq!(running.stop().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_run_dropped_anywhere_leaves_no_child() {
    let n_points = at_every_await_point(async |n_polls| {
        let held = Arc::new(());
        let child = |name: &'static str, waits: u64| {
            let held = Arc::clone(&held);
            ChildSpec::new(name, move |child| {
                let held = Arc::clone(&held);
                async move {
                    let _held = held;
                    sleep(millis(waits)).await;
                    child.ready();
                    tokio::time::timeout(millis(50), child.stopped()).await?;
                    sleep(millis(waits)).await;
                    Ok(())
                }
            })
        };
        let supervisor = Supervisor::new()
            .strategy(RestartStrategy::OneForAll)
            .backoff(millis(5), SECOND)
            .child(child("a", 1).ready_within(SECOND))
            .child(child("b", 10).grace(millis(5)))
            .child(child("c", 3));
        let handle = supervisor.handle();
        let ended = cancel_after(n_polls, supervisor.run(&Cancellation::new())).await;
        tokio::task::yield_now().await;
        assert_eq!(Arc::strong_count(&held), 1, "a child is left after {n_polls} polls");
        assert!(handle.health().iter().all(|it| it.state.is_down()));
        ended.is_some()
    });
    assert!(20 < n_points.await);
}

#[tokio::test(start_paused = true)]
async fn the_token_of_a_run_fires_at_its_end_in_any_case() {
    let tokens: Arc<Mutex<Vec<Cancellation>>> = Arc::default();
    let kept = Arc::clone(&tokens);
    let child = ChildSpec::new("it", move |child| {
        kept.lock().push(child.cancellation().clone());
        async { Err("no luck".into()) }
    });
    let aborted = ChildSpec::new("aborted", {
        let kept = Arc::clone(&tokens);
        move |child| {
            kept.lock().push(child.cancellation().clone());
            pending()
        }
    });
    let child = child.restart(RestartPolicy::Temporary);
    let running = Running::new(eager().child(child).child(aborted));
    sleep(SECOND).await;
    let fired = || tokens.lock().iter().map(Cancellation::is_cancelled).collect::<Vec<_>>();
    assert_eq!(fired(), [true, false]);
    drop(running);
    tokio::task::yield_now().await;
    assert_eq!(fired(), [true, true]);
}

/// Told the times by hand, and never given the thread: every run is stuck.
#[tokio::test]
async fn a_child_that_never_awaits_does_not_hold_up_the_end_nor_gets_a_second_run() {
    let stuck = |name| ChildSpec::new(name, |_| pending()).grace(SECOND).heartbeat(SECOND);
    let new = || {
        let children = vec![stuck("a"), stuck("b")];
        Family::new(RestartStrategy::OneForOne, Restarts::default(), children)
    };
    let (mut family, now) = (new(), Instant::now());
    for at in 0..100 {
        family.advance(now + at * SECOND);
        let runs: Vec<_> = family.members.iter().map(|it| it.told.n_runs).collect();
        assert_eq!(runs, [1, 1], "broken promises, and yet no second run");
    }
    let end = now + 100 * SECOND;
    family.stop_all(end);
    family.advance(end);
    assert!(family.is_over(end), "both were aborted long ago");

    let (mut family, now) = (new(), Instant::now());
    family.advance(now);
    family.stop_all(now);
    // Each has a second of grace and one to let go, the last first.
    for at in 0..4 {
        family.advance(now + at * SECOND);
        assert!(!family.is_over(now + at * SECOND), "{at} s");
        assert_eq!(family.next_due(now + at * SECOND), Some(now + (at + 1) * SECOND));
    }
    family.advance(now + 4 * SECOND);
    assert!(family.is_over(now + 4 * SECOND));
    assert_eq!(family.next_due(now + 4 * SECOND), None);
}
