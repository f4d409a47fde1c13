//! The tasks one node can run, by name, with their types erased.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{BlockingTask, Ctx, Task, TaskError, TaskOptions};

/// JSON in, JSON out, on the async slots.
type AsyncRunner =
    Arc<dyn Fn(Ctx, Arc<str>) -> BoxFuture<'static, Result<String, TaskError>> + Send + Sync>;
/// JSON in, JSON out, on a thread.
type BlockingRunner = Arc<dyn Fn(&Ctx, &str) -> Result<String, TaskError> + Send + Sync>;

/// What an attempt takes while it is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotKind {
    /// A place among the futures of the node.
    Async,
    /// A thread.
    Blocking,
    /// A child process.
    Process,
}

/// The body of a task: how to run it, once it is where it should run.
#[derive(Clone)]
#[expect(missing_docs, reason = "the kinds of bodies")]
pub enum Runner {
    Async(AsyncRunner),
    Blocking(BlockingRunner),
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Runner::Async(_) => "Async",
            Runner::Blocking(_) => "Blocking",
        })
    }
}

/// One task of a registry.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: Arc<str>,
    /// The defaults of its jobs.
    pub options: TaskOptions,
    /// Its body.
    pub runner: Runner,
}

impl Entry {
    /// The entry of an async task.
    pub fn of<T: Task>(task: T) -> Entry {
        let options = task.options();
        let task = Arc::new(task);
        let runner: AsyncRunner = Arc::new(move |ctx, args| {
            let task = Arc::clone(&task);
            Box::pin(async move {
                let args = decode::<T::Args>(&args)?;
                encode(&task.run(&ctx, args).await?)
            })
        });
        Entry { name: Arc::from(T::NAME), options, runner: Runner::Async(runner) }
    }

    /// The entry of a blocking task.
    pub fn of_blocking<T: BlockingTask>(task: T) -> Entry {
        let options = task.options();
        let runner: BlockingRunner =
            Arc::new(move |ctx, args| encode(&task.run(ctx, decode::<T::Args>(args)?)?));
        Entry { name: Arc::from(T::NAME), options, runner: Runner::Blocking(runner) }
    }

    /// Which kind of slot its attempts take.
    #[must_use]
    pub fn slot_kind(&self) -> SlotKind {
        match (&self.options.process, &self.runner) {
            (Some(_), _) => SlotKind::Process,
            (None, Runner::Async(_)) => SlotKind::Async,
            (None, Runner::Blocking(_)) => SlotKind::Blocking,
        }
    }
}

fn decode<T: DeserializeOwned>(args: &str) -> Result<T, TaskError> {
    serde_json::from_str(args).map_err(|error| {
        TaskError::permanent(format!("the arguments don't fit the task: {error}")).code("task.args")
    })
}

fn encode<T: Serialize>(output: &T) -> Result<String, TaskError> {
    serde_json::to_string(output).map_err(|error| {
        TaskError::permanent(format!("the result can't be written as JSON: {error}"))
            .code("task.result")
    })
}

/// Two tasks of one name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("two tasks are named `{name}`; a name stands for one task: rename one of them")]
pub struct RegistryError {
    /// The name.
    pub name: Arc<str>,
}

/// The tasks one node can run.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    entries: HashMap<Arc<str>, Entry>,
}

impl Registry {
    /// Adds a task.
    ///
    /// # Errors
    /// [`RegistryError`] when the name is taken.
    pub fn add(&mut self, entry: Entry) -> Result<(), RegistryError> {
        if self.entries.contains_key(&entry.name) {
            return Err(RegistryError { name: entry.name });
        }
        self.entries.insert(Arc::clone(&entry.name), entry);
        Ok(())
    }

    /// The task of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// Every task, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }
}
