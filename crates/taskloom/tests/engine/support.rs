//! Tasks made of closures, and ways to wait for a fact without sleeping.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use taskloom::{
    AttemptView, BlockingTask, Builder, Ctx, Invocation, JobHandle, JobId, JobView, Store, Task,
    TaskError, TaskSystem,
};
use tempfile::TempDir;
use tokio::sync::watch;

/// How long a wait may last before the test is broken; far over what it should take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a body says.
pub(crate) type Said = Result<Value, TaskError>;

/// The task `body`, made of a closure.
pub(crate) struct Body<F>(pub(crate) F);

impl<F, Fut> Task for Body<F>
where
    F: Fn(Ctx, Value) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Said> + Send,
{
    const NAME: &'static str = "body";
    type Args = Value;
    type Output = Value;

    fn run(&self, ctx: &Ctx, args: Value) -> impl Future<Output = Said> + Send {
        (self.0)(ctx.clone(), args)
    }
}

/// The blocking task `block`, made of a closure.
pub(crate) struct Block<F>(pub(crate) F);

impl<F> BlockingTask for Block<F>
where
    F: Fn(&Ctx, Value) -> Said + Send + Sync + 'static,
{
    const NAME: &'static str = "block";
    type Args = Value;
    type Output = Value;

    fn run(&self, ctx: &Ctx, args: Value) -> Said {
        (self.0)(ctx, args)
    }
}

/// An invocation of the task [`Body`].
pub(crate) fn body(args: impl Into<Value>) -> Invocation<Value> {
    Invocation::named("body", args.into())
}

/// An invocation of the task [`Block`].
pub(crate) fn block(args: impl Into<Value>) -> Invocation<Value> {
    Invocation::named("block", args.into())
}

/// A body that gives its arguments back.
pub(crate) async fn echo(_ctx: Ctx, args: Value) -> Said {
    Ok(args)
}

/// A file for a store, removed at the end of the test.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Place {
        Place(tempfile::tempdir().expect("the system gives us a folder"))
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("jobs.db")
    }

    pub(crate) fn open(&self) -> Builder {
        TaskSystem::open(format!("sqlite://{}", self.path().display()))
            .without_registered_tasks()
            .grace(Duration::from_millis(50))
    }
}

/// A system in memory that works.
pub(crate) fn in_memory() -> Builder {
    TaskSystem::open("sqlite::memory:").without_registered_tasks()
}

/// Waits, but not for ever.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes far too long")
}

/// A flag that bodies wait for.
#[derive(Clone)]
pub(crate) struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub(crate) fn closed() -> Gate {
        Gate(Arc::new(watch::Sender::new(false)))
    }

    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    pub(crate) async fn opened(&self) {
        let mut opened = self.0.subscribe();
        opened.wait_for(|it| *it).await.expect("a gate holds its own sender");
    }
}

/// A number that only grows, and that can be waited for.
#[derive(Clone)]
pub(crate) struct Counter(Arc<watch::Sender<usize>>);

impl Counter {
    pub(crate) fn new() -> Counter {
        Counter(Arc::new(watch::Sender::new(0)))
    }

    pub(crate) fn add(&self) -> usize {
        let mut n = 0;
        self.0.send_modify(|it| {
            *it += 1;
            n = *it;
        });
        n
    }

    pub(crate) fn get(&self) -> usize {
        *self.0.borrow()
    }

    pub(crate) async fn reach(&self, n: usize) {
        let mut counted = self.0.subscribe();
        soon(counted.wait_for(|it| n <= *it)).await.expect("a counter holds its own sender");
    }
}

/// Counts up when it is dropped.
pub(crate) struct OnDrop(pub(crate) Counter);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.add();
    }
}

/// How many are inside at a time, and how many were at most.
#[derive(Clone, Default)]
pub(crate) struct Crowd(Arc<(AtomicUsize, AtomicUsize)>);

impl Crowd {
    pub(crate) fn enter(&self) {
        let n = self.0.0.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.1.fetch_max(n, Ordering::SeqCst);
    }

    pub(crate) fn leave(&self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }

    pub(crate) fn max(&self) -> usize {
        self.0.1.load(Ordering::SeqCst)
    }
}

/// The job as it is now.
pub(crate) async fn view<T>(handle: &JobHandle<T>) -> JobView {
    handle.view().await.expect("the store reads").expect("the job is there")
}

/// Waits until a job is as wanted.
pub(crate) async fn until(
    store: &Arc<dyn Store>,
    id: JobId,
    is_wanted: impl Fn(&JobView) -> bool,
) -> JobView {
    let mut changed = store.notices().changed;
    soon(async {
        loop {
            changed.borrow_and_update();
            let view = store.get(vec![id]).await.expect("the store reads").pop().flatten();
            let view = view.expect("the job is there");
            if is_wanted(&view) {
                return view;
            }
            changed.changed().await.expect("the store is open");
        }
    })
    .await
}

/// The attempts of a job, oldest first.
pub(crate) async fn attempts<T>(system: &TaskSystem, handle: &JobHandle<T>) -> Vec<AttemptView> {
    system.store().attempts(handle.id()).await.expect("the store reads")
}

/// The outcomes of the attempts of a job, oldest first.
pub(crate) async fn outcomes<T>(system: &TaskSystem, handle: &JobHandle<T>) -> Vec<&'static str> {
    attempts(system, handle).await.iter().map(|it| it.outcome).collect()
}

/// The code of the error that a job ended with.
pub(crate) async fn error_code<T>(handle: &JobHandle<T>) -> Option<String> {
    view(handle).await.error.and_then(|it| it.code)
}

/// The numbers from 0, as arguments.
pub(crate) fn numbers(n: usize) -> Vec<Invocation<Value>> {
    (0..n).map(|it| body(json!(it))).collect()
}
