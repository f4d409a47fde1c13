//! What an attempt leaves behind: results and their bounds, panics, progress, lines of log.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use taskloom::testing::TestSystem;
use taskloom::{Ctx, FailReason, LogLevel, StateName, Store, Task, TaskError};

use crate::support::{Body, Said, body, echo, error_code, in_memory, outcomes, soon, view};

/// A task with arguments that not everything fits.
struct Typed;

impl Task for Typed {
    const NAME: &'static str = "typed";
    type Args = Vec<u8>;
    type Output = usize;

    async fn run(&self, _ctx: &Ctx, args: Vec<u8>) -> Result<usize, TaskError> {
        Ok(args.len())
    }
}

#[tokio::test(start_paused = true)]
async fn arguments_that_do_not_fit_fail_the_job_at_once() {
    let system = TestSystem::start().await.unwrap().task(Typed);
    let named = |args: Value| taskloom::Invocation::named("typed", args);
    let good = system.submit(named(json!([1, 2]))).await.unwrap();
    for bad in [json!({}), json!([1, 256]), json!("x")] {
        let handle = system.submit(named(bad)).await.unwrap();
        system.run_all().await.unwrap();
        assert_eq!(error_code(&handle).await.as_deref(), Some("task.args"));
        assert_eq!(view(&handle).await.reason, Some(FailReason::Permanent));
    }
    assert_eq!(good.await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_result_over_the_bound_fails_the_job_at_once() {
    let task = Body(|_ctx: Ctx, args: Value| async move {
        Ok(json!("x".repeat(usize::try_from(args.as_u64().unwrap()).unwrap())))
    });
    let system = TestSystem::start().await.unwrap().task(task);
    let fits = taskloom_store::PAYLOAD_MAX - 2;
    let handles = system.submit([body(fits), body(fits + 1)]).await.unwrap();
    system.run_all().await.unwrap();
    assert_eq!(view(&handles[0]).await.state, StateName::Succeeded);
    assert_eq!(error_code(&handles[1]).await.as_deref(), Some("task.result_too_large"));
    assert_eq!(view(&handles[1]).await.reason, Some(FailReason::Permanent));
}

#[tokio::test(start_paused = true)]
async fn arguments_over_the_bound_are_not_accepted() {
    let system = TestSystem::start().await.unwrap();
    let error = system.submit(body("x".repeat(2 << 20))).await.unwrap_err();
    assert_eq!(error.code(), "store.too_large", "{error}");
    system.assert_enqueued("body", 0).await;
}

#[tokio::test]
async fn a_panic_is_an_errored_attempt_and_the_worker_lives_on() {
    let task = Body(|_ctx: Ctx, args: Value| async move {
        assert!(args != json!("bad"), "these arguments are {args}");
        Ok(args)
    });
    let system = in_memory().max_workers(1).task(task).start().await.unwrap();
    let bad = system.submit(body("bad").max_attempts(1)).await.unwrap();
    let good = system.submit(body("good")).await.unwrap();
    assert_eq!(soon(good.into_future()).await.unwrap(), "good");
    let view = view(&bad).await;
    assert_eq!((view.state, view.reason), (StateName::Failed, Some(FailReason::Exhausted)));
    let error = view.error.unwrap();
    assert_eq!(error.code.as_deref(), Some("task.panic"));
    assert!(error.message.contains("these arguments are \"bad\""), "{}", error.message);
    assert!(error.message.contains("ends.rs:"), "it tells where: {}", error.message);
    assert!(!error.backtrace.unwrap().is_empty());
    assert_eq!(outcomes(&system, &bad).await, ["errored"]);
}

#[tokio::test(start_paused = true)]
async fn progress_and_log_are_durable_with_the_heartbeat() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let store: Arc<Mutex<Option<Arc<dyn Store>>>> = Arc::default();
    let (to_see, its_store) = (Arc::clone(&seen), Arc::clone(&store));
    let task = Body(move |ctx: Ctx, _| {
        let (seen, store) = (Arc::clone(&to_see), its_store.lock().clone().unwrap());
        async move {
            ctx.progress(0.25, "a quarter");
            ctx.log("the first line");
            tokio::time::sleep(Duration::from_millis(1500)).await;
            let view = store.get(vec![ctx.job_id()]).await?.pop().flatten().unwrap();
            let logs = store.logs(ctx.job_id(), 10).await?;
            seen.lock().push((view.progress, logs.len()));
            ctx.log_at(LogLevel::Warn, "the last line");
            Ok(json!(null))
        }
    });
    let system = TestSystem::start().await.unwrap().task(task);
    *store.lock() = Some(Arc::clone(system.store()));
    let handle = system.submit(body(0)).await.unwrap();
    system.run_all().await.unwrap();
    let (progress, n_lines) = seen.lock().pop().unwrap();
    let progress = progress.expect("the heartbeat brought it");
    assert_eq!((progress.fraction, &*progress.message, n_lines), (0.25, "a quarter", 1));
    let logs = system.store().logs(handle.id(), 10).await.unwrap();
    let lines: Vec<_> = logs.iter().map(|it| (&*it.level, &*it.text)).collect();
    assert_eq!(lines, [("info", "the first line"), ("warn", "the last line")]);
    store.lock().take();
}

#[tokio::test(start_paused = true)]
async fn a_context_knows_its_job() {
    let task = Body(|ctx: Ctx, _| async move {
        if ctx.attempt() < 2 {
            return Err(TaskError::new("once more"));
        }
        let left = ctx.time_left().unwrap().as_secs();
        let key = ctx.idempotency_key().to_owned();
        Ok(json!([ctx.attempt(), ctx.max_attempts(), ctx.queue(), ctx.task(), left, key]))
    });
    let system = TestSystem::start().await.unwrap().task(task);
    let invocation = body(0).queue("web").max_attempts(3).timeout("60s");
    let handle = system.submit(invocation).await.unwrap();
    let id = handle.id().to_string();
    system.run_all().await.unwrap();
    assert_eq!(handle.await.unwrap(), json!([2, 3, "web", "body", 60, id]));
}

#[tokio::test(start_paused = true)]
async fn an_idle_node_commits_its_heartbeat_and_nothing_else() {
    const SECS: u64 = 30;
    let store: Arc<Mutex<Option<Arc<dyn Store>>>> = Arc::default();
    let its_store = Arc::clone(&store);
    let idle = Body(move |_ctx, _| {
        let store = its_store.lock().clone().unwrap();
        async move {
            let before = store.info().n_commits;
            tokio::time::sleep(Duration::from_secs(SECS)).await;
            Ok(json!(store.info().n_commits - before)) as Said
        }
    });
    let system = TestSystem::start().await.unwrap().task(idle);
    *store.lock() = Some(Arc::clone(system.store()));
    let handle = system.submit(body(0)).await.unwrap();
    system.run_all().await.unwrap();
    let n_commits = handle.await.unwrap().as_u64().unwrap();
    assert!((SECS - 1..=SECS + 1).contains(&n_commits), "{n_commits} commits in {SECS} s");
    store.lock().take();
}

#[tokio::test(start_paused = true)]
async fn a_task_of_another_program_waits() {
    let system = TestSystem::start().await.unwrap().task(Body(echo));
    let other = taskloom::Invocation::named("other", json!({}));
    let other = system.submit(other).await.unwrap();
    let known = system.submit(body(1)).await.unwrap();
    tokio::select! {
        _ = system.run_all() => panic!("the other job is unfinished"),
        known = known.into_future() => assert_eq!(known.unwrap(), 1),
    }
    assert_eq!(view(&other).await.state, StateName::Ready);
}
