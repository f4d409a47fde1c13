//! The ways in which a body ends by itself, and what it has said until then.

use std::time::Duration;

use serde_json::{Value, json};
use taskloom::{JobError, StateName};

use crate::bodies::{count, double, err, meet, repeat, start_itself, sum, tell, who};
use crate::support::{Pids, fail, in_memory, run, soon, told, until, view};

#[tokio::test]
async fn a_result_comes_back() {
    assert_eq!(run(double(21)).await.unwrap(), 42);
    assert_eq!(run(sum(vec![1, 2, 3])).await.unwrap(), 6);
}

#[tokio::test]
async fn the_child_knows_its_attempt_and_is_a_child() {
    let system = in_memory().await;
    let handle = system.submit(who()).await.unwrap();
    let mut said: Value = soon(handle.clone()).await.unwrap();
    let pid = said["pid"].take();
    assert_ne!(pid, json!(std::process::id()));
    let id = handle.id();
    let expected = json!({
        "pid": null, "node": std::process::id(), "job": id, "task": "who", "queue": "own",
        "attempt": [1, 7], "key": id.to_string(), "has_time": true,
    });
    assert_eq!(said, expected);
    let told = told(&system, &handle).await;
    told.check_logged("debug the child exited with code 0, with a peak memory of ");
}

#[tokio::test]
async fn errors_keep_their_kind_their_code_and_their_delay() {
    let told = fail(err("permanent".into())).await;
    assert_eq!((told.code(), told.message()), ("test.permanent", "no use"));
    assert_eq!(told.outcomes, ["errored"], "a permanent error is the last");
    assert_eq!(fail(err("transient".into())).await.outcomes, ["errored"; 2]);
    let system = in_memory().await;
    let handle = system.submit(err("later".into())).await.unwrap();
    let mut changed = system.store().notices().changed;
    while view(&handle).await.state != StateName::Retrying {
        soon(changed.changed()).await.unwrap();
    }
    let job = view(&handle).await;
    let delay = job.due.unwrap().since(job.created);
    assert!(3_500 < delay.as_secs(), "`retry_after` is honoured: {delay:?}");
}

#[tokio::test]
async fn a_snooze_counts_no_attempt() {
    let system = in_memory().await;
    let handle = system.submit(err("snooze".into())).await.unwrap();
    assert_eq!(soon(handle.clone()).await.unwrap(), 1);
    assert_eq!(told(&system, &handle).await.outcomes, ["snoozed", "succeeded"]);
}

#[tokio::test]
async fn a_panic_comes_with_its_place_and_its_backtrace() {
    let told = fail(err("panic".into())).await;
    assert_eq!(told.code(), "task.panic");
    assert!(told.message().contains("bodies.rs"), "{}", told.message());
    assert!(told.message().ends_with("these arguments are panic"), "{}", told.message());
    assert!(told.error.unwrap().backtrace.unwrap().contains("err"));
    assert_eq!(told.outcomes, ["errored"; 2]);
}

#[tokio::test]
async fn progress_and_log_come_while_it_runs_and_so_does_the_wish_to_end() {
    let system = in_memory().await;
    let handle = system.submit(tell()).await.unwrap();
    let progress = soon(async {
        let mut beat = tokio::time::interval(Duration::from_millis(50));
        loop {
            beat.tick().await;
            if let Some(progress) = view(&handle).await.progress {
                return progress;
            }
        }
    });
    let progress = progress.await;
    assert_eq!((progress.fraction, progress.message.as_str()), (0.5, "half"));
    assert_eq!(told(&system, &handle).await.log, ["info one", "error two"]);
    handle.cancel().await.unwrap();
    let error = soon(handle.clone()).await.unwrap_err();
    assert!(matches!(error, JobError::Cancelled { .. }), "{error}");
    let told = told(&system, &handle).await;
    assert_eq!(told.outcomes, ["cancelled"]);
    told.check_logged("info heard Some(Requested)");
}

#[tokio::test]
async fn arguments_and_results_of_a_mebibyte_pass_and_more_is_refused() {
    let text = "é\"".repeat((1 << 20) / 4 - 20);
    let json_bytes = serde_json::to_string(&text).unwrap().len();
    assert!((1 << 20) - 200 < json_bytes && json_bytes < (1 << 20) - 20, "{json_bytes}");
    assert!(run(repeat(text.clone(), 1)).await.unwrap() == text);
    let told = fail(repeat(text, 2)).await;
    assert_eq!(told.code(), "task.result_too_large", "{}", told.message());
    assert_eq!(told.outcomes, ["errored"]);
    // What is over the limit of a message, and not only over that of a result.
    assert_eq!(fail(repeat("x".into(), 10_000_000)).await.code(), "task.result_too_large");
}

#[tokio::test]
async fn no_state_goes_from_one_attempt_to_the_next() {
    let system = in_memory().await;
    let handles = system.submit([count(), count(), count(), count()]).await.unwrap();
    assert_eq!(soon(system.gather(handles)).await.unwrap(), [1; 4]);
}

#[tokio::test]
async fn a_process_that_a_child_starts_is_no_child() {
    assert!(run(start_itself()).await.unwrap());
}

#[tokio::test]
async fn as_many_children_run_as_there_are_slots_and_no_more() {
    let (system, file) = (in_memory().await, Pids::new());
    let jobs: Vec<_> = (0..6).map(|_| meet(file.file())).collect();
    let handles = system.submit(jobs).await.unwrap();
    soon(system.gather(handles)).await.unwrap();
    let lines = std::fs::read_to_string(file.file()).unwrap();
    let (mut n, mut n_max) = (0, 0);
    for line in lines.chars() {
        n += if line == '+' { 1 } else { -1 };
        n_max = n_max.max(n);
    }
    assert_eq!((lines.len(), n, n_max), (12, 0, 2), "{lines}");
    until(|| system.n_running() == 0).await;
}
