//! Setting up a system: which store, which tasks, how many slots.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use taskloom_dispatch::{
    BlockingTask, Entry, Node, NodeConfig, PoolConfig, Registry, Retention, Task,
};
use taskloom_store::sqlite::{SqliteOptions, SqliteStore, Synchronous};
use taskloom_store::{Clock, Queues, Schema, Store, StoreError};

use crate::registration::Registration;
use crate::{Error, SystemClock, TaskSystem};

/// Slots for async attempts unless said otherwise.
pub const MAX_WORKERS_DEFAULT: usize = 100;

/// A system about to start. Made by [`TaskSystem::open`].
#[derive(Debug)]
#[must_use = "nothing is opened before `start` or `connect`"]
pub struct Builder {
    url: String,
    pub(crate) clock: Arc<dyn Clock>,
    entries: Vec<Entry>,
    with_registered: bool,
    max_workers: usize,
    queues: Vec<(Arc<str>, usize)>,
    blocking_workers: usize,
    max_processes: usize,
    child_args: Option<Vec<OsString>>,
    /// Run what asks for a child process inside this one.
    pub(crate) childless: bool,
    pub(crate) heartbeat_thread: bool,
    options: SqliteOptions,
    drain_deadline: Duration,
    grace: Duration,
    retention: Retention,
    name: String,
}

impl Builder {
    pub(crate) fn new(url: String) -> Self {
        Builder {
            url,
            clock: Arc::new(SystemClock),
            entries: Vec::new(),
            with_registered: true,
            max_workers: MAX_WORKERS_DEFAULT,
            queues: Vec::new(),
            blocking_workers: n_cores(),
            max_processes: n_cores(),
            child_args: None,
            childless: false,
            heartbeat_thread: true,
            options: SqliteOptions::default(),
            drain_deadline: Duration::from_secs(30),
            grace: Duration::from_secs(5),
            retention: Retention::default(),
            name: host_name(),
        }
    }

    /// How many async attempts run at once on this node; 100 unless said otherwise. Queues that
    /// have slots of their own don't count.
    pub fn max_workers(mut self, n: usize) -> Self {
        self.max_workers = n;
        self
    }

    /// Gives a queue slots of its own.
    pub fn queue(mut self, name: impl Into<Arc<str>>, slots: usize) -> Self {
        self.queues.push((name.into(), slots));
        self
    }

    /// How many blocking attempts run at once, each on a thread of its own; as many as there are
    /// cores unless said otherwise.
    pub fn blocking_workers(mut self, n: usize) -> Self {
        self.blocking_workers = n;
        self
    }

    /// How many attempts run at once in child processes; as many as there are cores unless said
    /// otherwise. See [`crate::ProcessOptions`].
    pub fn max_processes(mut self, n: usize) -> Self {
        self.max_processes = n;
        self
    }

    /// The arguments of child processes, without the name of the program; those of this process
    /// unless said otherwise. For a program that comes to `start` another way when it has others,
    /// as a test does: `["--exact", "name_of_a_test", "--nocapture"]`.
    pub fn child_args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.child_args = Some(args.into_iter().map(Into::into).collect());
        self
    }

    /// Adds a task that is a type.
    pub fn task<T: Task>(self, task: T) -> Self {
        self.entry(Entry::of(task))
    }

    /// Adds a blocking task that is a type.
    pub fn blocking_task<T: BlockingTask>(self, task: T) -> Self {
        self.entry(Entry::of_blocking(task))
    }

    /// Adds a task whose type is erased.
    pub fn entry(mut self, entry: Entry) -> Self {
        self.entries.push(entry);
        self
    }

    /// Adds the built-in tasks `http`, `data` and `email`.
    #[cfg(feature = "tasks")]
    pub fn builtin_tasks(mut self) -> Self {
        self.entries.extend(taskloom_tasks::entries());
        self
    }

    /// Leaves out the `#[task]` functions of this program, which are known without being named.
    pub fn without_registered_tasks(mut self) -> Self {
        self.with_registered = false;
        self
    }

    /// How durable a commit is; [`Synchronous::Full`] unless said otherwise.
    pub fn synchronous(mut self, synchronous: Synchronous) -> Self {
        self.options.synchronous = synchronous;
        self
    }

    /// The largest arguments of a job, in bytes; 1 MiB unless said otherwise.
    pub fn payload_max(mut self, bytes: usize) -> Self {
        self.options.payload_max = bytes;
        self
    }

    /// How long a drain lets attempts go on; 30 s unless said otherwise.
    pub fn drain_deadline(mut self, deadline: Duration) -> Self {
        self.drain_deadline = deadline;
        self
    }

    /// How long a body has between the wish to cancel it and its drop; 5 s unless said otherwise.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// How long ended jobs and events are kept.
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// The name of this node, for people; the host's unless said otherwise.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Opens the store and starts a node that works on it. In a child process, which such a node
    /// has started, it runs an attempt instead and ends the process.
    ///
    /// # Errors
    /// [`Error::Store`] when the store can't be opened, [`Error::Registry`] when two tasks have
    /// one name.
    ///
    /// # Cancel safety
    /// A dropped start may leave a node behind, which is rescued as a dead one.
    pub async fn start(self) -> Result<TaskSystem, Error> {
        self.run_if_child("TaskSystem::start").await?;
        let store = self.open_store()?;
        self.start_on(store).await
    }

    pub(crate) async fn start_on(self, store: Arc<dyn Store>) -> Result<TaskSystem, Error> {
        let registry = self.registry()?;
        let config = self.node_config();
        let deadline = self.drain_deadline;
        let clock = store.clock();
        let node = Node::start(Arc::clone(&store), clock, registry, config).await?;
        Ok(TaskSystem::new(store, Some(node), deadline))
    }

    /// Opens the store without a node: to submit, read, cancel and wait. A child process of a node
    /// goes no further than [`Builder::start`] does.
    ///
    /// # Errors
    /// [`Error::Store`] when the store can't be opened.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn connect(self) -> Result<TaskSystem, Error> {
        self.run_if_child("connect").await?;
        let store = self.open_store()?;
        Ok(TaskSystem::new(store, None, self.drain_deadline))
    }

    /// Takes the right to write to the store from everybody, until the value is dropped: for tests
    /// and for `taskloom torture`.
    ///
    /// # Errors
    /// [`Error::Address`] for a store in memory, which no other process writes to;
    /// [`Error::Store`] when others write for too long or there is no such store.
    ///
    /// # Cancel safety
    /// A dropped call may still take it, and lets it go at once.
    #[cfg(feature = "torture")]
    pub async fn hold_writes(self) -> Result<taskloom_store::sqlite::WriteHold, Error> {
        let in_memory = || Error::Address("a store in memory, where nothing is held up".into());
        let path = address(&self.url, self.options)?.0.ok_or_else(in_memory)?;
        Ok(taskloom_store::sqlite::WriteHold::take(path).await?)
    }

    /// The version of the store's schema, and the one that this program wants. Changes nothing;
    /// [`Builder::connect`] and [`Builder::start`] bring the schema there.
    ///
    /// # Errors
    /// [`Error::Store`] when the store can't be read, is another program's or a newer one's.
    pub fn schema(&self) -> Result<Schema, Error> {
        #[cfg(feature = "postgres")]
        if self.is_on_server() {
            return Ok(taskloom_store::postgres::PostgresStore::schema(&self.url)?);
        }
        match address(&self.url, self.options)?.0 {
            Some(path) => Ok(SqliteStore::schema(&path)?),
            None => Err(Error::Address("a store in memory, which is always new".into())),
        }
    }

    /// The SQL that brings the schema from version `from`, 0 for none, to the one that this program
    /// wants: for `psql`, or for `sqlite3`. The store is not looked at.
    ///
    /// # Errors
    /// [`Error::Address`] or [`Error::Store`] for an address that names no store.
    pub fn migration_sql(&self, from: u32) -> Result<String, Error> {
        #[cfg(feature = "postgres")]
        if self.is_on_server() {
            return Ok(taskloom_store::postgres::PostgresStore::migration_sql(from));
        }
        address(&self.url, self.options)?;
        Ok(SqliteStore::migration_sql(from))
    }

    #[cfg(feature = "postgres")]
    fn is_on_server(&self) -> bool {
        self.url.starts_with("postgres://") || self.url.starts_with("postgresql://")
    }

    pub(crate) fn open_store(&self) -> Result<Arc<dyn Store>, Error> {
        #[cfg(feature = "postgres")]
        if self.is_on_server() {
            use taskloom_store::postgres::{PostgresOptions, PostgresStore};
            let payload_max = self.options.payload_max;
            // All nodes go by the server's time.
            let options = PostgresOptions { payload_max, ..PostgresOptions::default() };
            return Ok(Arc::new(PostgresStore::open(&self.url, options)?));
        }
        let (path, options) = address(&self.url, self.options)?;
        let clock = Arc::clone(&self.clock);
        Ok(match path {
            None => Arc::new(SqliteStore::in_memory(options, clock)?),
            Some(path) => Arc::new(SqliteStore::open(path, options, clock)?),
        })
    }

    /// Never comes back in a child process.
    async fn run_if_child(&self, place: &str) -> Result<(), Error> {
        let Some(wish) = crate::child::wish() else { return Ok(()) };
        match self.registry()?.get(wish.task()) {
            Some(entry) => wish.run(entry, Arc::clone(&self.clock)).await,
            None => wish.refuse(place).await,
        }
    }

    fn registry(&self) -> Result<Registry, Error> {
        let mut registry = Registry::default();
        let registered = inventory::iter::<Registration>.into_iter().map(|it| (it.0)());
        let registered = registered.filter(|_| self.with_registered);
        for mut entry in self.entries.iter().cloned().chain(registered) {
            if self.childless {
                entry.options.process = None;
            }
            registry.add(entry)?;
        }
        Ok(registry)
    }

    fn node_config(&self) -> NodeConfig {
        let own: Arc<[Arc<str>]> = self.queues.iter().map(|(name, _)| Arc::clone(name)).collect();
        let mut pools = vec![PoolConfig { queues: Queues::Except(own), slots: self.max_workers }];
        for (name, slots) in &self.queues {
            let queues = Queues::Only(Arc::from([Arc::clone(name)]));
            pools.push(PoolConfig { queues, slots: *slots });
        }
        let all = Queues::Except(Arc::from([]));
        NodeConfig {
            name: self.name.clone(),
            pools,
            blocking: vec![PoolConfig { queues: all.clone(), slots: self.blocking_workers }],
            processes: vec![PoolConfig { queues: all, slots: self.max_processes }],
            child_args: self.child_args.clone().unwrap_or_else(own_args),
            grace: self.grace,
            retention: self.retention,
            heartbeat_thread: self.heartbeat_thread,
        }
    }
}

/// The file of an address, `None` for memory, with the settings behind the question mark.
fn address(
    url: &str,
    mut options: SqliteOptions,
) -> Result<(Option<PathBuf>, SqliteOptions), Error> {
    let rest = match url.split_once(':') {
        Some(("sqlite", rest)) => rest.strip_prefix("//").unwrap_or(rest),
        Some((scheme, rest)) if rest.starts_with("//") || scheme == "postgres" => {
            return Err(StoreError::Url { url: url.to_owned() }.into());
        }
        _ => url,
    };
    let (path, settings) = rest.split_once('?').unwrap_or((rest, ""));
    for setting in settings.split('&').filter(|it| !it.is_empty()) {
        options.synchronous = match setting {
            "synchronous=full" => Synchronous::Full,
            "synchronous=normal" => Synchronous::Normal,
            other => return Err(Error::Address(format!("the unknown setting `{other}`"))),
        };
    }
    match path {
        "" => Err(StoreError::Url { url: url.to_owned() }.into()),
        ":memory:" => Ok((None, options)),
        path => Ok((Some(PathBuf::from(path)), options)),
    }
}

fn n_cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

fn own_args() -> Vec<OsString> {
    std::env::args_os().skip(1).collect()
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "node".into() } else { name.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_address(url: &str, expected: Option<(&str, Synchronous)>) {
        let actual = address(url, SqliteOptions::default()).ok();
        let actual = actual.map(|(path, options)| {
            (path.map_or(":memory:".into(), |it| it.display().to_string()), options.synchronous)
        });
        let expected = expected.map(|(path, synchronous)| (path.to_owned(), synchronous));
        assert_eq!(actual, expected, "{url}");
    }

    #[test]
    fn addresses_name_files() {
        let full = Synchronous::Full;
        check_address("sqlite://jobs.db", Some(("jobs.db", full)));
        check_address("sqlite:///var/jobs.db", Some(("/var/jobs.db", full)));
        check_address("sqlite:jobs.db", Some(("jobs.db", full)));
        check_address("jobs.db", Some(("jobs.db", full)));
        check_address("sqlite::memory:", Some((":memory:", full)));
        check_address("sqlite://a.db?synchronous=normal", Some(("a.db", Synchronous::Normal)));
        check_address("sqlite://a.db?sync=no", None);
        check_address("sqlite://", None);
        check_address("mysql://host/jobs", None);
        check_address("postgres://host/jobs", None);
    }

    /// A machine whose clock is an hour ahead of the server's.
    #[cfg(all(unix, feature = "postgres"))]
    #[derive(Debug)]
    struct Ahead;

    #[cfg(all(unix, feature = "postgres"))]
    impl Clock for Ahead {
        fn now(&self) -> taskloom_model::Time {
            SystemClock.now() + Duration::from_secs(3_600)
        }
    }

    #[cfg(all(unix, feature = "postgres"))]
    #[tokio::test(flavor = "multi_thread")]
    async fn a_wrong_clock_of_the_machine_changes_nothing_with_postgresql() {
        use taskloom_store::conformance::{Durability, PrivateServer};
        let server = PrivateServer::start(&std::env::temp_dir(), Durability::None).unwrap();
        let url = server.database().unwrap();
        let mut builder = TaskSystem::open(url).task(Left);
        builder.clock = Arc::new(Ahead);
        let system = builder.start().await.unwrap();
        let deadline = system.store().clock().now() + Duration::from_secs(60);
        let mut job = taskloom_store::NewJob::new("left", "null");
        job.rules.deadline = Some(deadline);
        job.delay = Some(Duration::from_millis(100));
        let accepted = system.store().submit(vec![job]).await.unwrap();
        let left: u64 = system.job(accepted[0].id).await.unwrap();
        assert!((50..=60).contains(&left), "it had {left} s until its deadline");
        system.drain().await.unwrap();
    }

    /// Tells how many seconds it has until its deadline.
    #[cfg(all(unix, feature = "postgres"))]
    struct Left;

    #[cfg(all(unix, feature = "postgres"))]
    impl Task for Left {
        const NAME: &'static str = "left";
        type Args = ();
        type Output = u64;

        async fn run(&self, ctx: &crate::Ctx, _args: ()) -> Result<u64, crate::TaskError> {
            let deadline = ctx.deadline().expect("the job has one");
            Ok(deadline.saturating_duration_since(tokio::time::Instant::now()).as_secs())
        }
    }
}
