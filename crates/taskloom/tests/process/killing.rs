//! Children that don't end by themselves: after the grace they are killed, and so are those whose
//! node is.

use std::process::{Command, Stdio};
use std::time::Duration;

use taskloom::{JobError, StateName};

use crate::bodies::{be_deaf, leave_another};
use crate::support::{Pids, fail_on, in_memory, lives, soon, told, until, view, with_children};

async fn gone(pids: Vec<u32>) {
    assert_eq!(pids.len(), 2);
    until(|| pids.iter().all(|&it| !lives(it))).await;
}

#[tokio::test]
async fn a_timeout_kills_the_child_and_what_it_has_started() {
    let (system, pids) = (in_memory().await, Pids::new());
    let job = be_deaf(pids.file()).timeout("1s").max_attempts(1);
    let told = fail_on(&system, job).await;
    assert_eq!((told.outcomes.as_slice(), told.code()), (&["timed_out"][..], "task.timeout"));
    told.check_logged("warn the child was killed by SIGKILL (9)");
    gone(pids.written().await).await;
}

#[tokio::test]
async fn what_a_child_leaves_behind_ends_with_it() {
    let (system, pids) = (in_memory().await, Pids::new());
    let handle = system.submit(leave_another(pids.file())).await.unwrap();
    soon(handle).await.unwrap();
    gone(pids.written().await).await;
}

#[tokio::test]
async fn a_cancelled_child_that_does_not_listen_is_killed() {
    let (system, pids) = (in_memory().await, Pids::new());
    let handle = system.submit(be_deaf(pids.file())).await.unwrap();
    let numbers = pids.written().await;
    assert!(numbers.iter().all(|&it| lives(it)));
    handle.cancel().await.unwrap();
    let error = soon(handle.clone()).await.unwrap_err();
    assert!(matches!(error, JobError::Cancelled { .. }), "{error}");
    assert_eq!(told(&system, &handle).await.outcomes, ["cancelled"]);
    gone(numbers).await;
}

#[tokio::test]
async fn a_drain_kills_the_child_and_gives_the_job_back() {
    let pids = Pids::new();
    let builder = with_children("sqlite::memory:", "child");
    let system = builder.drain_deadline(Duration::ZERO).start().await.unwrap();
    let handle = system.submit(be_deaf(pids.file())).await.unwrap();
    let numbers = pids.written().await;
    soon(system.drain()).await.unwrap();
    let job = view(&handle).await;
    assert_eq!((job.state, job.attempts, job.crashes), (StateName::Ready, 0, 0));
    assert_eq!(told(&system, &handle).await.outcomes, ["interrupted"]);
    gone(numbers).await;
}

#[tokio::test]
async fn a_node_that_is_dropped_kills_its_children() {
    let (system, pids) = (in_memory().await, Pids::new());
    let handle = system.submit(be_deaf(pids.file())).await.unwrap();
    let numbers = pids.written().await;
    drop((system, handle));
    gone(numbers).await;
}

const STORE: &str = "TASKLOOM_TEST_PROCESS_STORE";

/// A node that is killed. In a run of the tests it does nothing.
#[tokio::test]
async fn node() {
    let Ok(folder) = std::env::var(STORE) else { return };
    let url = format!("sqlite://{folder}/jobs.db");
    let system = with_children(&url, "child").start().await.unwrap();
    system.submit(be_deaf(format!("{folder}/pids"))).await.unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_node_leaves_no_child() {
    let pids = Pids::new();
    let mut node = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "killing::node", "--nocapture"])
        .env(STORE, pids.folder())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let numbers = pids.written().await;
    assert!(numbers.iter().all(|&it| lives(it)));
    node.kill().unwrap();
    node.wait().unwrap();
    gone(numbers).await;
}
