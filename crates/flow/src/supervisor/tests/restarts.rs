//! Who is restarted, how soon, and when a supervisor gives up.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// How a run of a child ends.
#[derive(Clone, Copy)]
enum End {
    Well,
    Error,
    Panic,
}

#[track_caller]
fn check_policy(restart: RestartPolicy, end: End, n_restarts: u64, state: ChildState) {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let child = ChildSpec::new("it", move |child| async move {
            sleep(millis(400)).await;
            match end {
                End::Well => return Ok(()),
                End::Error => return Err("no luck".into()),
                End::Panic => child.ready(),
            }
            panic!("bad {}", "luck")
        });
        let running = Running::new(eager().child(child.restart(restart)));
        sleep(millis(1000)).await;
        let health = running.handle.health().remove(0);
        assert_eq!((health.n_restarts, health.state), (n_restarts, state));
        match (end, health.last_error.as_deref()) {
            (End::Well, None) | (End::Error, Some("no luck")) => {}
            (End::Panic, Some(text)) if text.contains("bad luck") => {}
            (_, text) => panic!("the last error is {text:?}"),
        }
        assert_eq!(running.stop().await, Ok(()));
    });
}

#[test]
fn the_policy_says_who_is_restarted() {
    use ChildState::{Failed, Running, Stopped};
    for end in [End::Well, End::Error, End::Panic] {
        check_policy(RestartPolicy::Permanent, end, 2, Running);
    }
    check_policy(RestartPolicy::Transient, End::Well, 0, Stopped);
    check_policy(RestartPolicy::Transient, End::Error, 2, Running);
    check_policy(RestartPolicy::Transient, End::Panic, 2, Running);
    check_policy(RestartPolicy::Temporary, End::Well, 0, Stopped);
    check_policy(RestartPolicy::Temporary, End::Error, 0, Failed);
    check_policy(RestartPolicy::Temporary, End::Panic, 0, Failed);
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_a_run_is_made_is_one_of_the_run() {
    let made = AtomicUsize::new(0);
    let child = ChildSpec::new("it", move |_| {
        assert_ne!(made.fetch_add(1, Ordering::Relaxed), 0, "the first is broken");
        pending()
    });
    let running = Running::new(eager().child(child));
    sleep(SECOND).await;
    let health = running.handle.health().remove(0);
    assert_eq!((health.state, health.n_restarts), (ChildState::Running, 1));
    assert!(health.last_error.unwrap().contains("the first is broken"));
}

#[tokio::test(start_paused = true)]
async fn an_error_is_told_with_its_causes() {
    #[derive(Debug, thiserror::Error)]
    #[error("no feed")]
    struct NoFeed(#[source] std::io::Error);
    let child =
        ChildSpec::new("it", |_| async { Err(NoFeed(std::io::Error::other("cable cut")).into()) });
    let child = child.restart(RestartPolicy::Temporary);
    let mut running = Running::new(eager().child(child));
    let health = running.handle.wait_for(|it| it[0].state == ChildState::Failed).await.unwrap();
    assert_eq!(health[0].last_error.as_deref(), Some("no feed: cable cut"));
}

#[tokio::test(start_paused = true)]
async fn one_restart_too_many_stops_all_in_reverse_and_escalates() {
    let (journal, fail) = (Journal::new(), Failures::new());
    let broken = ChildSpec::new("broken", |_| async {
        sleep(millis(10)).await;
        Err("no luck".into())
    });
    let supervisor = Supervisor::new().intensity(2, SECOND).backoff(Duration::ZERO, SECOND);
    let supervisor = supervisor
        .child(journal.child("a", millis(5), &fail))
        .child(broken)
        .child(journal.child("c", millis(5), &fail));
    let running = Running::new(supervisor);
    let handle = running.handle.clone();
    let escalation = running.end().await.unwrap_err();
    let text = "gave up on `broken` after 2 restarts within 1s: no luck";
    assert_eq!(escalation.to_string(), text);
    assert_eq!(journal.take(), ["0 start a", "0 start c", "35 stop c", "40 stop a"]);
    let states: Vec<_> = handle.health().iter().map(|it| it.state).collect();
    assert_eq!(states, [ChildState::Stopped, ChildState::Failed, ChildState::Stopped]);
    assert_eq!(handle.start("a").await, Err(SupervisorError::Ended));
}

#[tokio::test(start_paused = true)]
async fn failures_far_apart_never_escalate() {
    let child = ChildSpec::new("it", |_| async {
        sleep(SECOND).await;
        Err("no luck".into())
    });
    let supervisor = Supervisor::new().intensity(1, SECOND).backoff(Duration::ZERO, SECOND);
    let running = Running::new(supervisor.child(child));
    sleep(millis(9500)).await;
    assert_eq!(running.handle.health()[0].n_restarts, 9);
    assert_eq!(running.stop().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_nested_supervisor_escalates_to_its_parent() {
    let n_inner = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&n_inner);
    let inner = ChildSpec::new("inner", move |child| {
        counted.fetch_add(1, Ordering::Relaxed);
        let leaf = ChildSpec::new("leaf", |_| async { Err("no luck".into()) });
        let inner = Supervisor::new().intensity(0, SECOND).child(leaf);
        async move { Ok(inner.run(child.cancellation()).await?) }
    });
    let outer = Supervisor::new().intensity(2, SECOND).backoff(Duration::ZERO, SECOND);
    let escalation = Running::new(outer.child(inner)).end().await.unwrap_err();
    assert_eq!(n_inner.load(Ordering::Relaxed), 3);
    let inner = "gave up on `leaf` after 0 restarts within 1s: no luck";
    let text = format!("gave up on `inner` after 2 restarts within 1s: {inner}");
    assert_eq!(escalation.to_string(), text);
}

#[tokio::test(start_paused = true)]
async fn delays_grow_until_a_child_lived_long_enough() {
    let journal = Journal::new();
    let (starts, lives) = (journal.clone(), AtomicUsize::new(0));
    let child = ChildSpec::new("it", move |_| {
        starts.note("start", "it");
        let heals = lives.fetch_add(1, Ordering::Relaxed) == 3;
        async move {
            sleep(if heals { 60 * SECOND } else { Duration::ZERO }).await;
            Err("no luck".into())
        }
    });
    let supervisor = Supervisor::new().intensity(100, SECOND).backoff(SECOND, 60 * SECOND);
    let _running = Running::new(supervisor.healed_after(60 * SECOND).child(child));
    sleep(80 * SECOND).await;
    let at = |line: String| line.split(' ').next().unwrap().parse::<u64>().unwrap();
    let starts: Vec<u64> = journal.take().into_iter().map(at).collect();
    let gaps: Vec<u64> = starts.windows(2).map(|it| it[1] - it[0]).take(5).collect();
    for (gap, (least, most)) in gaps.iter().zip([
        (500, 1000),
        (1000, 2000),
        (2000, 4000),
        (60_500, 61_000), // It lived for a minute, and then waits for the first delay.
        (1000, 2000),
    ]) {
        assert!(least <= *gap && *gap <= most + 2, "{gaps:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_never_has_two_runs_at_a_time() {
    let mut supervisor = eager().strategy(RestartStrategy::OneForAll);
    let n_broken = Arc::new(AtomicUsize::new(0));
    for n in 0..6 {
        let (up, broken) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&n_broken));
        supervisor = supervisor.child(ChildSpec::new(format!("child {n}"), move |child| {
            let (up, broken) = (Arc::clone(&up), Arc::clone(&broken));
            async move {
                broken.fetch_add(up.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
                for _ in 0..fastrand::usize(1..50) {
                    tokio::task::yield_now().await;
                }
                let waits = n % 2 == 0;
                if waits {
                    child.stopped().await;
                }
                up.fetch_sub(1, Ordering::SeqCst);
                Err("no luck".into())
            }
        }));
    }
    let mut running = Running::new(supervisor);
    let many = |it: &[ChildHealth]| 200 <= it.iter().map(|it| it.n_restarts).sum::<u64>();
    running.handle.wait_for(many).await.unwrap();
    assert_eq!(running.stop().await, Ok(()));
    assert_eq!(n_broken.load(Ordering::SeqCst), 0);
}
