//! Children that die: an errored attempt each, and the node goes on.

use crate::bodies::{crash, double, fill, print};
use crate::support::{Told, fail, fail_on, in_memory, run, soon};

async fn crashed(how: &str, code: &str, message: &str) -> Told {
    let told = fail(crash(how.into())).await;
    assert_eq!(told.code(), code, "{}", told.message());
    assert!(told.message().contains(message), "{}", told.message());
    assert_eq!(told.outcomes, ["errored"; 2], "it counts, and is tried again");
    // What was said before it is not lost, by whichever way.
    for line in ["info before the crash", "printed: said on stdout", "printed: said on stderr"] {
        told.check_logged(line);
    }
    told
}

#[tokio::test]
async fn a_crash_is_an_errored_attempt_with_its_signal() {
    crashed("abort", "task.process.killed", "the child was killed by SIGABRT (6)").await;
    crashed("-SEGV", "task.process.killed", "the child was killed by SIGSEGV (11)").await;
    let told = crashed("-KILL", "task.process.killed", "killed by SIGKILL (9)").await;
    assert!(told.message().contains("by somebody else or by a system out of memory"));
}

#[tokio::test]
async fn an_exit_is_an_errored_attempt_with_its_code() {
    let told = crashed("exit", "task.process.exited", "the child exited with code 3").await;
    assert!(told.message().contains("it printed last:\n"), "{}", told.message());
    assert!(told.message().contains("said on stderr"), "{}", told.message());
    crashed("exit well", "task.process.exited", "with code 0 and gave no result").await;
}

#[tokio::test]
async fn the_node_goes_on_after_a_crash() {
    let system = in_memory().await;
    fail_on(&system, crash("-SEGV".into())).await;
    assert_eq!(soon(system.submit(double(2)).await.unwrap()).await.unwrap(), 4);
    assert_eq!(system.store().nodes().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_body_that_needs_more_than_its_memory_ends_and_another_one_does_not() {
    assert_eq!(run(fill(60)).await.unwrap(), 60);
    let told = fail(fill(1_000)).await;
    assert_eq!(told.code(), "task.out_of_memory", "{}", told.message());
    assert!(told.message().contains("more memory than its 128.0 MB"), "{}", told.message());
}

#[tokio::test]
async fn the_last_64_kib_of_output_are_kept() {
    let told = fail(print(1_000_000)).await;
    assert_eq!(told.code(), "task.process.exited");
    told.check_logged("bytes before this were dropped)");
    told.check_logged("printed: the end");
    let n_bytes: usize = told.log.iter().map(String::len).sum();
    assert!(60_000 < n_bytes && n_bytes < 90_000, "{n_bytes}");
    assert!(told.message().ends_with("the end"), "{}", told.message());
}

#[tokio::test]
async fn a_termination_of_the_whole_service_leaves_the_end_to_the_node() {
    // The body goes on after SIGTERM, and succeeds.
    run(crash("-TERM".into())).await.unwrap();
}
