//! What handles do from outside, and what they see.

use super::*;

fn two(journal: &Journal, fail: &Failures) -> Supervisor {
    let polite = |name| journal.child(name, millis(10), fail);
    eager().child(polite("a")).child(polite("b"))
}

#[tokio::test(start_paused = true)]
async fn one_child_is_stopped_started_and_restarted_alone() {
    let (journal, fail) = (Journal::new(), Failures::new());
    let running = Running::new(two(&journal, &fail).strategy(RestartStrategy::OneForAll));
    let handle = running.handle.clone();
    handle.start("a").await.unwrap();
    assert_eq!(running.states(), [ChildState::Running; 2], "those before it are started too");
    handle.stop("a").await.unwrap();
    assert_eq!(running.states(), [ChildState::Stopped, ChildState::Running]);
    handle.stop("a").await.unwrap();
    handle.start("a").await.unwrap();
    handle.start("a").await.unwrap();
    sleep(SECOND).await;
    handle.restart("b").await.unwrap();
    sleep(SECOND).await;
    let expected =
        ["0 start a", "0 start b", "10 stop a", "10 start a", "1020 stop b", "1020 start b"];
    assert_eq!(journal.take(), expected);
    let restarts: Vec<_> = handle.health().iter().map(|it| it.n_restarts).collect();
    assert_eq!(restarts, [1, 1]);
    assert_eq!(running.stop().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_command_ends_the_wait_for_a_restart() {
    let (journal, fail) = (Journal::new(), Failures::new());
    let supervisor = two(&journal, &fail).backoff(60 * SECOND, 60 * SECOND);
    let running = Running::new(supervisor);
    let handle = running.handle.clone();
    sleep(SECOND).await;
    for name in ["a", "b"] {
        fail.fail(name);
        sleep(SECOND).await;
    }
    assert_eq!(running.states(), [ChildState::Waiting; 2]);
    handle.start("a").await.unwrap();
    handle.stop("b").await.unwrap();
    assert_eq!(running.states(), [ChildState::Running, ChildState::Stopped]);
    sleep(100 * SECOND).await;
    assert_eq!(journal.take(), ["0 start a", "0 start b", "3000 start a"]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_overtakes_a_restart() {
    let (journal, fail) = (Journal::new(), Failures::new());
    let running = Running::new(two(&journal, &fail));
    let handle = running.handle.clone();
    sleep(SECOND).await;
    let (restarted, stopped) = tokio::join!(handle.restart("b"), handle.stop("b"));
    restarted.and(stopped).unwrap();
    assert_eq!(running.states(), [ChildState::Running, ChildState::Stopped]);
}

#[tokio::test(start_paused = true)]
async fn a_child_told_to_stop_as_it_breaks_a_promise_stays_down() {
    let child = ChildSpec::new("it", |_| pending()).heartbeat(SECOND).grace(SECOND);
    let running = Running::new(Supervisor::new().intensity(0, SECOND).child(child));
    sleep(millis(1500)).await;
    assert_eq!(running.states(), [ChildState::Stopping]);
    running.handle.stop("it").await.unwrap();
    assert_eq!(running.states(), [ChildState::Failed]);
    sleep(10 * SECOND).await;
    assert_eq!(running.handle.health()[0].n_restarts, 0);
    assert_eq!(running.stop().await, Ok(()), "it was no failure to restart after");
}

#[tokio::test(start_paused = true)]
async fn commands_to_nobody_are_errors() {
    let (journal, fail) = (Journal::new(), Failures::new());
    let running = Running::new(two(&journal, &fail));
    let mut handle = running.handle.clone();
    assert_eq!(handle.stop("c").await, Err(SupervisorError::Unknown("c".into())));
    running.stop().await.unwrap();
    assert_eq!(handle.restart("a").await, Err(SupervisorError::Ended));
    while handle.changed().await.is_ok() {}
    let health = handle.health();
    assert!(health.iter().all(|it| it.state == ChildState::Stopped));
}

#[tokio::test(start_paused = true)]
async fn a_command_dropped_anywhere_is_carried_out_or_never_was() {
    for wish in ["stop", "restart"] {
        at_every_await_point(async |n_polls| {
            let (journal, fail) = (Journal::new(), Failures::new());
            let running = Running::new(two(&journal, &fail));
            let handle = running.handle.clone();
            sleep(millis(5)).await;
            let command = async {
                match wish {
                    "stop" => handle.stop("b").await,
                    _ => handle.restart("b").await,
                }
            };
            let ended = cancel_after(n_polls, command).await;
            sleep(SECOND).await;
            let health = handle.health().remove(1);
            let carried_out = match wish {
                "stop" => health.state == ChildState::Stopped,
                _ => health.state == ChildState::Running && health.n_restarts == 1,
            };
            assert!(carried_out, "the command was in the backlog at {n_polls}");
            assert_eq!(running.stop().await, Ok(()));
            ended.is_some()
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_watcher_sees_the_states_of_a_life() {
    let child = ChildSpec::new("it", |child| async move {
        sleep(SECOND).await;
        child.ready();
        sleep(SECOND).await;
        Err("no luck".into())
    });
    let child = child.ready_within(2 * SECOND);
    let mut running = Running::new(eager().backoff(SECOND, SECOND).child(child));
    let mut states = Vec::new();
    for _ in 0..4 {
        let health = running.handle.changed().await.unwrap().remove(0);
        assert_eq!(health.since, Instant::now());
        states.push(health.state);
    }
    use ChildState::{Running as Up, Starting, Waiting};
    assert_eq!(states, [Starting, Up, Waiting, Starting]);
}

#[test]
#[should_panic(expected = "give each a name of its own")]
fn two_children_of_one_name_are_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _entered = runtime.enter();
    let child = || ChildSpec::new("it", |_| pending());
    drop(Supervisor::new().child(child()).child(child()));
}
