//! Systems whose children are this binary, and ways to wait for a fact.

use std::future::IntoFuture;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use taskloom::{AttemptError, Builder, Invocation, JobError, JobHandle, JobView, TaskSystem};
use tempfile::TempDir;

/// How long a wait may last before the test is broken; far over what it should take.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn with_children(url: &str, test: &str) -> Builder {
    let system = TaskSystem::open(url).grace(Duration::from_millis(50));
    system.max_processes(2).child_args(["--exact", test, "--nocapture"])
}

/// A system in memory that works.
pub(crate) async fn in_memory() -> TaskSystem {
    with_children("sqlite::memory:", "child").start().await.unwrap()
}

pub(crate) async fn soon<F: IntoFuture>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future.into_future()).await.expect("it takes far too long")
}

/// Waits until `is_so`, which no notice tells of: it is about processes and files.
pub(crate) async fn until(mut is_so: impl FnMut() -> bool) {
    soon(async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// The result of one job.
pub(crate) async fn run<T: DeserializeOwned + Send + 'static>(
    job: Invocation<T>,
) -> Result<T, JobError> {
    let system = in_memory().await;
    let result = soon(system.submit(job).await.unwrap()).await;
    system.drain().await.unwrap();
    result
}

pub(crate) async fn view<T>(handle: &JobHandle<T>) -> JobView {
    handle.view().await.unwrap().unwrap()
}

/// What a job ended with, its outcomes, and its log as `level text`.
pub(crate) struct Told {
    pub(crate) error: Option<AttemptError>,
    pub(crate) outcomes: Vec<&'static str>,
    pub(crate) log: Vec<String>,
}

impl Told {
    pub(crate) fn code(&self) -> &str {
        self.error.as_ref().and_then(|it| it.code.as_deref()).unwrap_or("")
    }

    pub(crate) fn message(&self) -> &str {
        self.error.as_ref().map_or("", |it| &it.message)
    }

    #[track_caller]
    pub(crate) fn check_logged(&self, text: &str) {
        assert!(self.log.iter().any(|it| it.contains(text)), "no `{text}` in {:#?}", self.log);
    }
}

pub(crate) async fn told<T>(system: &TaskSystem, handle: &JobHandle<T>) -> Told {
    let attempts = system.store().attempts(handle.id()).await.unwrap();
    let logs = system.store().logs(handle.id(), 2_000).await.unwrap();
    Told {
        error: attempts.last().and_then(|it| it.error.clone()),
        outcomes: attempts.iter().map(|it| it.outcome).collect(),
        log: logs.iter().map(|it| format!("{} {}", it.level, it.text)).collect(),
    }
}

/// Runs a job that ends badly, on `system`.
pub(crate) async fn fail_on<T>(system: &TaskSystem, job: Invocation<T>) -> Told
where
    T: DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let handle = system.submit(job).await.unwrap();
    soon(handle.clone()).await.unwrap_err();
    told(system, &handle).await
}

pub(crate) async fn fail<T>(job: Invocation<T>) -> Told
where
    T: DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    fail_on(&in_memory().await, job).await
}

/// A file in which a body writes numbers of processes.
pub(crate) struct Pids(TempDir);

impl Pids {
    pub(crate) fn new() -> Pids {
        Pids(tempfile::tempdir().unwrap())
    }

    pub(crate) fn folder(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn file(&self) -> String {
        self.0.path().join("pids").display().to_string()
    }

    /// The numbers, once they are there.
    pub(crate) async fn written(&self) -> Vec<u32> {
        let file = PathBuf::from(self.file());
        until(|| file.exists()).await;
        let text = std::fs::read_to_string(file).unwrap();
        text.split(' ').map(|it| it.parse().unwrap()).collect()
    }
}

/// Whether a process lives; a zombie, which waits for somebody to hear of its end, does not.
pub(crate) fn lives(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let state = status.lines().find_map(|it| it.strip_prefix("State:"));
    state.is_some_and(|it| !it.trim().starts_with('Z'))
}
