//! Children that don't do what a child should, and tasks that are types.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use serde_json::Value;
use taskloom::{BlockingTask, Ctx, Invocation, ProcessOptions, TaskError, TaskOptions, TaskSystem};

use crate::bodies::{double, start_itself};
use crate::support::{fail_on, soon, with_children};

const CHILD: &str = "TASKLOOM_CHILD";

fn line() -> Option<UnixStream> {
    std::env::var_os(CHILD)?;
    Some(UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap()))
}

/// A child that says nonsense.
#[test]
fn liar() {
    let Some(mut line) = line() else { return };
    line.write_all(b"\0\0\0\x02{]").unwrap();
    std::io::copy(&mut line, &mut std::io::sink()).ok();
}

/// A child that breaks off in the middle of a message.
#[test]
fn mumbler() {
    let Some(mut line) = line() else { return };
    line.write_all(b"\0\0\0\x10{").unwrap();
    std::process::exit(0);
}

/// A child that says more than anybody should hear.
#[test]
fn shouter() {
    let Some(mut line) = line() else { return };
    line.write_all(b"\xFF\0\0\0").unwrap();
    std::io::copy(&mut line, &mut std::io::sink()).ok();
}

async fn check_child(test: &str, code: &str, message: &str) {
    let test = format!("wrong_children::{test}");
    let system = with_children("sqlite::memory:", &test).start().await.unwrap();
    let told = fail_on(&system, double(1).max_attempts(1)).await;
    assert_eq!(told.code(), code, "{test}: {}", told.message());
    assert!(told.message().contains(message), "{test}: {}", told.message());
    assert_eq!(told.outcomes, ["errored"]);
}

#[tokio::test]
async fn a_message_that_is_wrong_or_too_long_or_breaks_off_is_an_errored_attempt() {
    let code = "task.process.message";
    check_child("liar", code, "a message is not understood").await;
    check_child("mumbler", code, "a message breaks off").await;
    check_child("shouter", code, "over the limit").await;
}

#[tokio::test]
async fn a_child_that_does_not_come_to_the_task_is_an_errored_attempt() {
    check_child("nothing_is_called_so", "task.process.start", "before it came to the task").await;
    check_child("stranger", "task.process.start", "does not know the task `double`").await;
}

/// A child whose `main` starts a system that does not have the task.
#[tokio::test]
async fn stranger() {
    if std::env::var_os(CHILD).is_some() {
        let system = TaskSystem::open("sqlite::memory:").without_registered_tasks();
        system.start().await.unwrap();
    }
}

/// A task with state.
struct Greet {
    greeting: String,
}

impl BlockingTask for Greet {
    const NAME: &'static str = "greet";
    type Args = Value;
    type Output = (String, u32);

    fn options(&self) -> TaskOptions {
        let process = ProcessOptions { memory: Some(512 << 20), ..ProcessOptions::default() };
        TaskOptions { process: Some(process), ..TaskOptions::default() }
    }

    fn run(&self, _ctx: &Ctx, name: Value) -> Result<(String, u32), TaskError> {
        Ok((format!("{}, {name}", self.greeting), std::process::id()))
    }
}

/// The program of a task with state, whose children come to `start` as well.
#[tokio::test]
async fn a_task_type_has_its_state_in_the_child() {
    let greet = Greet { greeting: "Hello".into() };
    let this = "wrong_children::a_task_type_has_its_state_in_the_child";
    let system = with_children("sqlite::memory:", this).blocking_task(greet).start().await;
    assert!(std::env::var_os(CHILD).is_none(), "a child does not come back from `start`");
    let system = system.unwrap();
    let job = Invocation::named("greet", Value::from(7));
    let said = soon(system.submit(job).await.unwrap()).await.unwrap();
    assert_eq!(said[0], "Hello, 7");
    assert_ne!(said[1], std::process::id());
}

#[tokio::test]
async fn a_test_system_runs_the_body_inside_the_test() {
    let system = taskloom::testing::TestSystem::start().await.unwrap();
    let handle = system.submit(start_itself()).await.unwrap();
    let doubled = system.submit(double(4)).await.unwrap();
    system.run_all().await.unwrap();
    assert_eq!(doubled.await.unwrap(), 8);
    assert!(handle.await.unwrap());
}
