//! Testing programs that use tasks: a system in memory, on a clock that may be paused.
//!
//! ```
//! use taskloom::prelude::*;
//! use taskloom::testing::TestSystem;
//!
//! #[task]
//! async fn double(n: i64) -> Result<i64, TaskError> {
//!     Ok(2 * n)
//! }
//!
//! #[tokio::main(flavor = "current_thread", start_paused = true)]
//! async fn main() -> Result<(), taskloom::Error> {
//!     // The body alone, without a system:
//!     assert_eq!(double::body(4).await.unwrap(), 8);
//!     // What is submitted, and then what comes of it; an hour passes at once:
//!     let system = TestSystem::start().await?;
//!     let handle = system.submit(double(21).delay("1h")).await?;
//!     system.assert_enqueued("double", 1).await;
//!     system.run_all().await?;
//!     assert_eq!(handle.await?, 42);
//!     Ok(())
//! }
//! ```

use std::ops::Deref;
use std::sync::Arc;

use taskloom_dispatch::{BlockingTask, Entry, Task};
use taskloom_store::{Filter, JobView, Page, Store, StoreError};

use crate::{Builder, Error, TaskSystem, TokioClock};

/// A system in memory that runs nothing before [`TestSystem::run_all`]. Its clock is Tokio's, so a
/// paused one jumps over delays and backoffs.
///
/// Blocking tasks run on threads that a paused clock does not wait for: don't give them timeouts
/// in such tests. Attempts that ask for a child process run inside the test.
#[derive(Debug)]
pub struct TestSystem {
    system: TaskSystem,
    store: Arc<dyn Store>,
    url: String,
    clock: TokioClock,
    entries: Vec<Entry>,
}

impl TestSystem {
    /// A system in memory.
    ///
    /// # Errors
    /// What the store says.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn start() -> Result<TestSystem, Error> {
        Self::start_on("sqlite::memory:").await
    }

    /// A system on a file, for tests that open it a second time. Leave the clock unpaused: the
    /// store has a thread of its own.
    ///
    /// # Errors
    /// What the store says.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn start_on(url: &str) -> Result<TestSystem, Error> {
        let clock = TokioClock::start();
        let mut builder = TaskSystem::open(url);
        builder.clock = Arc::new(clock);
        let store = builder.open_store()?;
        let system = TaskSystem::new(Arc::clone(&store), None, std::time::Duration::ZERO);
        Ok(TestSystem { system, store, url: url.to_owned(), clock, entries: Vec::new() })
    }

    /// Adds a task that is a type, with its state: fakes, fixtures.
    #[must_use]
    pub fn task<T: Task>(mut self, task: T) -> Self {
        self.entries.push(Entry::of(task));
        self
    }

    /// Adds a blocking task that is a type.
    #[must_use]
    pub fn blocking_task<T: BlockingTask>(mut self, task: T) -> Self {
        self.entries.push(Entry::of_blocking(task));
        self
    }

    /// The jobs of a task that were accepted, oldest first, at most 1000.
    ///
    /// # Errors
    /// What the store says.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn enqueued(&self, task: &str) -> Result<Vec<JobView>, StoreError> {
        let filter = Filter { task: Some(task.to_owned()), ..Filter::default() };
        let page = Page { before: None, limit: Page::LIMIT_MAX };
        let mut jobs = self.store.list(filter, page).await?.jobs;
        jobs.reverse();
        Ok(jobs)
    }

    /// Asserts how many jobs of a task were accepted.
    ///
    /// # Panics
    /// When it is another number, or the store can't be read.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn assert_enqueued(&self, task: &str, n: usize) {
        let jobs = self.enqueued(task).await.expect("the store of a test can be read");
        let args: Vec<&str> = jobs.iter().map(|it| it.args.get()).collect();
        assert_eq!(args.len(), n, "jobs of task `{task}`: {args:?}");
    }

    /// Runs everything that was accepted, and what that submits, until no job is unfinished.
    ///
    /// # Errors
    /// What the store says.
    ///
    /// # Cancel safety
    /// A dropped run leaves the rest unfinished.
    pub async fn run_all(&self) -> Result<(), Error> {
        let mut builder: Builder = TaskSystem::open(&self.url);
        builder.clock = Arc::new(self.clock);
        builder.heartbeat_thread = false;
        builder.childless = true;
        for entry in &self.entries {
            builder = builder.entry(entry.clone());
        }
        let mut changed = self.store.notices().changed;
        let node = builder.start_on(Arc::clone(&self.store)).await?;
        loop {
            changed.borrow_and_update();
            let counts = self.store.counts().await?;
            if counts.iter().all(|it| it.state.is_ended()) {
                break;
            }
            if changed.changed().await.is_err() {
                break;
            }
        }
        node.drain().await
    }
}

impl Deref for TestSystem {
    type Target = TaskSystem;

    fn deref(&self) -> &TaskSystem {
        &self.system
    }
}
