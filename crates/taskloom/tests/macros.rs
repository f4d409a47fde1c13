//! What a `#[task]` function becomes, and what a wrong one is told.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use taskloom::{
    Backoff, Ctx, Entry, Invocation, Jitter, Priority, ProcessOptions, RetryPolicy, Task,
    TaskError, TaskErrorKind, TaskOptions, task,
};
use taskloom_dispatch::{Runner, SlotKind};

/// Fetches something.
#[task("api_fetch")]
#[retry(max_attempts = 3, backoff = 2)]
#[timeout(seconds = 30)]
#[priority(level = 5)]
#[log_execution]
#[measure_performance]
async fn fetch_api_data(ctx: &Ctx, url: String) -> Result<Value, TaskError> {
    ctx.log("fetching");
    if url.is_empty() {
        return Err(TaskError::permanent("no url"));
    }
    Ok(json!({ "url": url }))
}

#[task(
    name = "api_fetch_2",
    retry(max_attempts = 3, backoff = "2s", factor = 2, max = "5m", jitter = "full"),
    timeout = "30s",
    priority = 5,
    log_execution,
    measure_performance
)]
async fn fetch_in_one_attribute(url: String) -> Result<Value, TaskError> {
    Ok(json!(url))
}

#[task]
async fn by_its_own_name() -> Result<(), TaskError> {
    Ok(())
}

#[task(queue = "web", retry(backoff = "1h", jitter = "none"))]
async fn on_a_queue(n: u32) -> Result<u32, std::num::TryFromIntError> {
    u32::try_from(u64::from(n) * 2_000_000_000)
}

#[task]
#[queue("cpu")]
fn sum(ctx: &Ctx, numbers: Vec<i64>) -> Result<i64, TaskError> {
    if ctx.is_cancelled() {
        return Err(TaskError::cancelled());
    }
    Ok(numbers.iter().sum())
}

#[task(blocking)]
fn sum_said_to_block(numbers: Vec<i64>) -> Result<i64, TaskError> {
    Ok(numbers.iter().sum())
}

#[task(process)]
async fn in_a_child(ctx: &Ctx) -> Result<(), TaskError> {
    ctx.log("in a child");
    Ok(())
}

#[task(process(memory = "64MiB", grace = "5s"))]
fn in_a_small_child() -> Result<(), TaskError> {
    Ok(())
}

#[task(process = false)]
async fn in_no_child() -> Result<(), TaskError> {
    Ok(())
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Args {
    name: String,
}

type AliasResult<T> = Result<T, TaskError>;

/// Its parameters are named like what the expansion uses.
#[task]
async fn odd_names(
    ctx: Args,
    args: Option<Args>,
    mut options: Vec<u8>,
    #[serde(default)] output: bool,
    r#type: u8,
) -> AliasResult<(String, usize, u8)> {
    options.push(r#type);
    let n_names = usize::from(args.is_some()) + usize::from(output);
    Ok((ctx.name, n_names + options.len(), r#type))
}

mod inside {
    use super::*;

    #[task("inside.public")]
    #[expect(unreachable_pub, reason = "this is a test of `pub`")]
    pub async fn public(args: Args) -> Result<String, TaskError> {
        Ok(args.name)
    }

    #[task("inside.crate")]
    pub(crate) async fn for_the_crate() -> Result<(), TaskError> {
        Ok(())
    }
}

#[taskloom::task("by.path")]
#[taskloom::timeout("1m30s")]
#[taskloom::priority(3)]
async fn by_path(_ctx: &taskloom::Ctx) -> std::result::Result<(), taskloom::TaskError> {
    Ok(())
}

macro_rules! make_task {
    ($name:ident, $ty:ty) => {
        #[task]
        async fn $name(ctx: &Ctx, value: $ty) -> Result<$ty, TaskError> {
            ctx.log("made by a macro");
            Ok(value)
        }
    };
}

make_task!(made_by_a_macro, Option<u8>);

#[cfg(any())]
#[task]
async fn not_built(missing: Missing) -> Result<(), TaskError> {
    Ok(())
}

#[track_caller]
fn entry(name: &str) -> Entry {
    let entries = taskloom::__private::inventory::iter::<taskloom::__private::Registration>();
    entries.map(|it| (it.0)()).find(|it| &*it.name == name).unwrap_or_else(|| panic!("no {name}"))
}

async fn run(name: &str, args: &str) -> Result<String, TaskError> {
    match entry(name).runner {
        Runner::Async(run) => run(Ctx::detached(), args.into()).await,
        Runner::Blocking(run) => run(&Ctx::detached(), args),
    }
}

#[track_caller]
fn check_args<T>(invocation: Invocation<T>, task: &str, args: &Value) {
    let request = invocation.into_request().expect("its options are right");
    assert_eq!(&*request.task, task);
    assert_eq!(&request.args.parse::<Value>().expect("arguments are JSON"), args);
}

#[test]
fn both_forms_of_settings_mean_the_same() {
    let expected = TaskOptions {
        queue: None,
        priority: Priority::new(5).unwrap(),
        retry: RetryPolicy {
            max_attempts: 3,
            backoff: Backoff {
                delay_first: Duration::from_secs(2),
                factor: 2.0,
                delay_max: Duration::from_secs(300),
                jitter: Jitter::Full,
            },
        },
        timeout: Some(Duration::from_secs(30)),
        log_execution: true,
        measure_performance: true,
        process: None,
    };
    assert_eq!(entry("api_fetch").options, expected);
    assert_eq!(entry("api_fetch_2").options, expected);
    assert_eq!(Task::options(&fetch_api_data {}), expected);
}

#[test]
fn what_is_not_set_has_its_default() {
    assert_eq!(entry("by_its_own_name").options, TaskOptions::default());
    let options = entry("on_a_queue").options;
    assert_eq!(options.queue, Some("web"));
    assert_eq!(options.retry.max_attempts, RetryPolicy::default().max_attempts);
}

#[test]
fn attributes_may_be_written_with_their_path() {
    let options = entry("by.path").options;
    assert_eq!(options.timeout, Some(Duration::from_secs(90)));
    assert_eq!(options.priority.level(), 3);
}

#[test]
fn a_first_delay_over_the_default_maximum_means_what_it_says() {
    let backoff = entry("on_a_queue").options.retry.backoff;
    assert_eq!(backoff.delay_first, Duration::from_secs(3600));
    assert_eq!(backoff.delay_max, Duration::from_secs(3600));
    assert_eq!(backoff.jitter, Jitter::None);
}

#[test]
fn a_call_is_an_invocation_with_the_tasks_defaults() {
    check_args(fetch_api_data("u".into()), "api_fetch", &json!({ "url": "u" }));
    check_args(fetch_in_one_attribute("u".into()), "api_fetch_2", &json!({ "url": "u" }));
    check_args(by_its_own_name(), "by_its_own_name", &json!({}));
    check_args(
        inside::public(Args { name: "n".into() }),
        "inside.public",
        &json!({
            "args": { "name": "n" }
        }),
    );
    check_args(inside::for_the_crate(), "inside.crate", &json!({}));
    let request = on_a_queue(1).priority(9).into_request().unwrap();
    assert_eq!((&*request.queue, request.priority), ("web", Priority::MAX));
    let request = fetch_api_data("u".into()).into_request().unwrap();
    assert_eq!(request.timeout, Some(Duration::from_secs(30)));
}

#[tokio::test]
async fn the_body_is_called_without_a_system() {
    let ctx = Ctx::detached();
    let fetched = fetch_api_data::body(&ctx, "u".into()).await;
    assert_eq!(fetched, Ok(json!({ "url": "u" })));
    assert_eq!(ctx.take_signs().1.len(), 1);
    assert_eq!(on_a_queue::body(2).await.unwrap(), 4_000_000_000);
    assert_eq!(sum::body(&ctx, vec![1, 2]), Ok(3));
    assert_eq!(sum_said_to_block::body(vec![1, 2]), Ok(3));
}

#[tokio::test]
async fn a_registered_task_takes_and_gives_json() {
    assert_eq!(run("api_fetch", r#"{"url":"u"}"#).await.unwrap(), r#"{"url":"u"}"#);
    assert_eq!(run("by_its_own_name", "{}").await.unwrap(), "null");
    assert_eq!(run("sum", r#"{"numbers":[1,2]}"#).await.unwrap(), "3");
    assert_eq!(run("made_by_a_macro", "{}").await.unwrap(), "null");
    assert_eq!(run("made_by_a_macro", r#"{"value":7}"#).await.unwrap(), "7");
    let error = run("api_fetch", r#"{"url":""}"#).await.unwrap_err();
    assert_eq!(error, TaskError::permanent("no url"));
}

#[tokio::test]
async fn an_error_of_another_type_turns_into_a_task_error() {
    let error = run("on_a_queue", r#"{"n":3}"#).await.unwrap_err();
    assert_eq!(error.kind(), TaskErrorKind::Transient);
    assert!(error.message().contains("out of range"), "{error}");
}

#[tokio::test]
async fn an_option_and_a_serde_default_may_be_missing_but_nothing_else() {
    let full = r#"{"ctx":{"name":"n"},"args":{"name":"m"},"options":[1],"output":true,"type":7}"#;
    assert_eq!(run("odd_names", full).await.unwrap(), r#"["n",4,7]"#);
    let short = r#"{"ctx":{"name":"n"},"options":[1],"type":7}"#;
    assert_eq!(run("odd_names", short).await.unwrap(), r#"["n",2,7]"#);
    let error = run("odd_names", r#"{"options":[1],"type":7}"#).await.unwrap_err();
    assert!(error.message().contains("missing field `ctx`"), "{error}");
    let error = run("by_its_own_name", r#"{"more":1}"#).await.unwrap_err();
    assert_eq!(error.kind(), TaskErrorKind::Permanent);
    assert!(error.message().contains("unknown field `more`"), "{error}");
}

#[tokio::test]
async fn a_task_may_be_defined_inside_a_function() {
    #[derive(Serialize, Deserialize)]
    struct Local(u8);

    #[task("local")]
    async fn local(it: Local) -> Result<Local, TaskError> {
        Ok(Local(it.0 + 1))
    }

    check_args(local(Local(1)), "local", &json!({ "it": 1 }));
    assert_eq!(run("local", r#"{"it":1}"#).await.unwrap(), "2");
}

#[test]
fn async_functions_take_slots_and_plain_ones_take_threads() {
    assert!(matches!(entry("api_fetch").runner, Runner::Async(_)));
    for name in ["sum", "sum_said_to_block"] {
        assert!(matches!(entry(name).runner, Runner::Blocking(_)), "{name}");
    }
}

#[test]
fn either_kind_of_function_may_ask_for_a_child_process() {
    let entry_of = |name| (entry(name).slot_kind(), entry(name).options.process);
    let plain = ProcessOptions::default();
    assert_eq!(entry_of("in_a_child"), (SlotKind::Process, Some(plain)));
    let small = ProcessOptions { memory: Some(64 << 20), grace: Some(Duration::from_secs(5)) };
    assert_eq!(entry_of("in_a_small_child"), (SlotKind::Process, Some(small)));
    assert_eq!(entry_of("in_no_child"), (SlotKind::Async, None));
    assert_eq!(entry_of("sum"), (SlotKind::Blocking, None));
}

#[test]
fn a_wrong_task_is_told_where_and_what_to_do() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/*.rs");
    cases.pass("tests/ui/pass/*.rs");
}
