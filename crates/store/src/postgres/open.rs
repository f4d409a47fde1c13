//! Reaching the server: what it must be, how sessions are set up, which version the schema has.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use taskloom_model::{NodeId, Time};

use super::address::Target;
use super::pooled::{Kind, Setup};
use super::read::READ_MAX_SECS;
use super::rows::big;
use super::session::{Driver, Session};
use super::{LOCK_MAX_SECS, Result};
use crate::{Clock, PAYLOAD_MAX, StoreError};

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// The largest arguments, in bytes.
    pub payload_max: usize,
    /// Where the time comes from, for tests. `None`: from the server, the same for every process.
    pub clock: Option<Arc<dyn Clock>>,
    /// How long the server may take for one transaction or one read, connecting included. Then its
    /// connection is given up, and the calls are refused as [`StoreError::Unreachable`]. A call
    /// that waits behind another one is answered within twice this time.
    pub answer_max: Duration,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        PostgresOptions { payload_max: PAYLOAD_MAX, clock: None, answer_max: ANSWER_MAX }
    }
}

/// Less than a lease, so that a node that lost its server gives its next sign of life in time.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// How long one host may take until a connection to it stands.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// The migrations, oldest first; the version of a schema is how many of them it has seen.
pub(super) const MIGRATIONS: &[&str] =
    &[concat!(include_str!("schema.sql"), include_str!("submit.sql"))];

/// The oldest server that this is tested with.
const SERVER_VERSION_MIN: i32 = 150_000;

// Advisory locks of one bigint: the upper half says what for.
pub(super) const LOCK_MIGRATE: i64 = 0x546B_6C31 << 32;
const LOCK_NODE: i64 = 0x546B_6C32 << 32;
pub(super) const LOCK_WRITER: i64 = 0x546B_6C33 << 32;
/// Shared by all that listen.
pub(super) const LOCK_LISTENER: i64 = 0x546B_6C36 << 32;

/// The advisory lock that a live node holds.
pub(super) fn node_lock(node: NodeId) -> i64 {
    LOCK_NODE | (big(node.0) & i64::from(u32::MAX))
}

/// What all sessions have in common. Every statement of ours finds its rows by a key, and has a
/// plan for that which no statistics can spoil.
const SETTINGS: [(&str, &str); 10] = [
    ("search_path", "taskloom"),
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_memoize", "off"),
    ("enable_material", "off"),
    ("jit", "off"),
    ("client_min_messages", "warning"),
    ("default_transaction_isolation", "read committed"),
];

fn setup(kind: Kind, more: &[(&'static str, String)]) -> Setup {
    let common = SETTINGS.iter().map(|it| (it.0, it.1.to_owned()));
    Setup { settings: common.chain(more.iter().cloned()).collect(), kind }
}

/// Where the time comes from.
#[derive(Debug)]
pub(super) struct ServerClock {
    given: Option<Arc<dyn Clock>>,
    origin: Instant,
    /// What the server's time was at `origin`, in milliseconds.
    at_origin: AtomicI64,
}

impl ServerClock {
    pub(super) fn now(&self) -> Time {
        if let Some(given) = &self.given {
            return given.now();
        }
        let at_origin = Time::from_millis(self.at_origin.load(Ordering::Relaxed));
        at_origin + self.origin.elapsed()
    }

    async fn read(&self, session: &Session) -> Result<()> {
        let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
        let rows = session.query(sql, &[]).await?;
        let now: i64 = rows.first().map_or(Ok(0), |row| row.try_get(0))?;
        let elapsed = i64::try_from(self.origin.elapsed().as_millis()).unwrap_or(0);
        self.at_origin.store(now - elapsed, Ordering::Relaxed);
        Ok(())
    }
}

/// The server, and what never changes about the store in it.
#[derive(Debug)]
pub(super) struct Server {
    target: Target,
    pub(super) salt: u32,
    pub(super) clock: ServerClock,
    pub(super) answer_max: Duration,
    /// Grows when a server was found to take no writes any more: another host may be the one that
    /// does, so every connection is made anew.
    moves: AtomicU64,
}

impl Clock for Server {
    fn now(&self) -> Time {
        self.clock.now()
    }
}

/// A session that writes.
pub(super) struct Opened {
    pub(super) session: Session,
    pub(super) driver: Driver,
    pub(super) writer: i16,
}

impl Server {
    /// A server that nobody has connected to.
    pub(super) fn unopened(url: &str, options: &PostgresOptions) -> Result<Server> {
        let target = Target::parse(url)?;
        let clock = ServerClock {
            given: options.clock.clone(),
            origin: Instant::now(),
            at_origin: AtomicI64::new(0),
        };
        let answer_max = options.answer_max;
        Ok(Server { target, salt: 0, clock, answer_max, moves: AtomicU64::new(0) })
    }

    /// Connects, and makes or updates the schema.
    pub(super) async fn open(url: &str, options: &PostgresOptions) -> Result<Server> {
        let mut server = Server::unopened(url, options)?;
        let opening = async {
            let (session, mut driver) = server.plain().await?;
            let address = server.address();
            let opening = async {
                if let Some(mark) = server.target.mark {
                    check_no_pooler(&session, mark).await?;
                }
                server.clock.read(&session).await?;
                migrate(&session, &address, server.clock.now()).await
            };
            driver.drive(opening).await
        };
        server.salt = in_time(server.answer_max, opening).await?;
        Ok(server)
    }

    /// A session as the server gives it, for whom the schema may be missing.
    pub(super) async fn plain(&self) -> Result<(Session, Driver)> {
        self.connect(&Setup::default()).await
    }

    /// A connection to the first host that answers and is of the kind that is asked for.
    async fn connect(&self, setup: &Setup) -> Result<(Session, Driver)> {
        let mut failed = None;
        for config in &self.target.hosts {
            match in_time(CONNECT_MAX, Session::connect(config, (&self.target, setup))).await {
                Ok(connected) => return Ok(connected),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| StoreError::Unreachable { why: "no host is named".into() }))
    }

    /// How often the server was found to take no writes: a connection that was made before the
    /// last time is given up.
    pub(super) fn moves(&self) -> u64 {
        self.moves.load(Ordering::SeqCst)
    }

    pub(super) fn has_moved(&self) {
        self.moves.fetch_add(1, Ordering::SeqCst);
    }

    /// Where the store lies, for people, without what is secret.
    pub(super) fn address(&self) -> String {
        self.target.address()
    }

    /// A session for a lane, with a writer of its own.
    pub(super) async fn writer(&self) -> Result<Opened> {
        let more = [
            ("enable_bitmapscan", "off".to_owned()),
            ("statement_timeout", format!("{}ms", self.answer_max.as_millis())),
            ("lock_timeout", format!("{LOCK_MAX_SECS}s")),
            ("idle_in_transaction_session_timeout", "30s".to_owned()),
        ];
        let (session, mut driver) = self.connect(&setup(Kind::Write, &more)).await?;
        let taking = async {
            self.clock.read(&session).await?;
            if session.is_pooled() {
                return Ok(0);
            }
            // The first free one; taking it stops the search.
            let sql = "SELECT n::smallint FROM generate_series(1, 30000) AS n \
                 WHERE pg_try_advisory_lock($1::bigint + n) LIMIT 1";
            let rows = session.query(sql, &[&LOCK_WRITER]).await?;
            let none = StoreError::TooManyConnections { why: "no writer is free".into() };
            let writer: i16 = rows.first().ok_or(none)?.try_get(0)?;
            Ok(writer)
        };
        let writer = driver.drive(taking).await?;
        Ok(Opened { session, driver, writer })
    }

    /// A session that only reads, each statement for a bounded time.
    pub(super) async fn reader(&self) -> Result<(Session, Driver)> {
        let more = [
            ("statement_timeout", format!("{READ_MAX_SECS}s")),
            ("default_transaction_read_only", "on".to_owned()),
        ];
        self.connect(&setup(Kind::Read, &more)).await
    }

    /// A session that listens, tells others, and holds the locks of nodes.
    pub(super) async fn listener(&self) -> Result<(Session, Driver)> {
        // What it commits is notices: they need not survive a crash.
        let more =
            [("synchronous_commit", "off".to_owned()), ("statement_timeout", "5s".to_owned())];
        self.connect(&setup(Kind::Listen, &more)).await
    }

    /// A session that does whatever is asked, and is none of a node's.
    #[cfg(feature = "torture")]
    pub(super) async fn stranger(&self) -> Result<(Session, Driver)> {
        let settings = [("application_name", "taskloom torture"), ("search_path", "taskloom")];
        let settings = settings.iter().map(|it| (it.0, it.1.to_owned())).collect();
        self.connect(&Setup { settings, kind: Kind::Open }).await
    }

    /// Reads the server's time anew: clocks drift.
    pub(super) async fn set_clock(&self, session: &Session) -> Result<()> {
        if self.clock.given.is_some() {
            return Ok(());
        }
        self.clock.read(session).await
    }
}

/// Whether the setting that the connection was made with came through. PgBouncer keeps it back, or
/// refuses it.
async fn check_no_pooler(session: &Session, (name, value): (&str, &str)) -> Result<()> {
    let sql = "SELECT current_setting($1)";
    let rows = session.query(sql, &[&name]).await?;
    let found: String = rows.first().map_or(Ok(String::new()), |row| row.try_get(0))?;
    if found == value { Ok(()) } else { Err(StoreError::Pooler) }
}

/// Waits for `work`, at most `max`.
pub(super) async fn in_time<T>(max: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    let why = || format!("it does not answer within {} s", max.as_secs_f32());
    let late = |_| StoreError::Unreachable { why: why() };
    tokio::time::timeout(max, work).await.map_err(late)?
}

/// Brings the schema to the version of this program, and returns the salt of the store.
async fn migrate(session: &Session, address: &str, now: Time) -> Result<u32> {
    let row = session.query("SELECT current_setting('server_version_num')::int", &[]).await?;
    let version: i32 = row.first().map_or(Ok(0), |row| row.try_get(0))?;
    if version < SERVER_VERSION_MIN {
        let why = format!("the server has version {version}, it must be at least 15");
        return Err(StoreError::Database(why));
    }
    if let Some(salt) = look(session, address).await? {
        return Ok(salt);
    }
    session.begin().await?;
    session.batch(&format!("SELECT pg_advisory_xact_lock({LOCK_MIGRATE})")).await?;
    // Another process may have done it meanwhile.
    let found = found_version(session, address).await?;
    if found.is_none() {
        session.batch("CREATE SCHEMA IF NOT EXISTS taskloom").await?;
    }
    session.batch("SET LOCAL search_path = taskloom").await?;
    for migration in MIGRATIONS.iter().skip(usize::try_from(found.unwrap_or(0)).unwrap_or(0)) {
        session.batch(migration).await?;
    }
    let salt = i64::from(u32::from_be_bytes(first_four(*uuid::Uuid::new_v4().as_bytes())));
    let known = known_version();
    let created = now.as_millis();
    let put = format!(
        "INSERT INTO meta (name, value) VALUES ('salt', {salt}), ('created', {created}), \
         ('events_from', 0), ('version', 0) ON CONFLICT DO NOTHING; \
         UPDATE meta SET value = {known} WHERE name = 'version'"
    );
    session.batch(&put).await?;
    session.end("COMMIT").await?;
    let missing = StoreError::Foreign { path: PathBuf::from(address) };
    look(session, address).await?.ok_or(missing)
}

fn first_four(bytes: [u8; 16]) -> [u8; 4] {
    let [a, b, c, d, ..] = bytes;
    [a, b, c, d]
}

pub(super) fn known_version() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// The salt of a store that needs nothing done.
async fn look(session: &Session, address: &str) -> Result<Option<u32>> {
    if found_version(session, address).await? != Some(known_version()) {
        return Ok(None);
    }
    let rows = session.query("SELECT value FROM taskloom.meta WHERE name = 'salt'", &[]).await?;
    let salt: i64 = rows.first().map_or(Ok(0), |row| row.try_get(0))?;
    Ok(u32::try_from(salt).ok())
}

/// The version of the schema; `None` when there is none yet.
pub(super) async fn found_version(session: &Session, address: &str) -> Result<Option<i64>> {
    let path = || PathBuf::from(address);
    let sql = "SELECT (SELECT count(*) FROM pg_class c JOIN pg_namespace n \
         ON n.oid = c.relnamespace WHERE n.nspname = 'taskloom'), \
         to_regclass('taskloom.meta') IS NOT NULL";
    let rows = session.query(sql, &[]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let (n_relations, has_meta): (i64, bool) = (row.try_get(0)?, row.try_get(1)?);
    if !has_meta {
        // A schema with other things in it is somebody else's.
        return if n_relations == 0 { Ok(None) } else { Err(StoreError::Foreign { path: path() }) };
    }
    let sql = "SELECT value FROM taskloom.meta WHERE name = 'version'";
    let rows = session.query(sql, &[]).await?;
    let found: i64 = match rows.first() {
        Some(row) => row.try_get(0)?,
        None => return Err(StoreError::Foreign { path: path() }),
    };
    let known = known_version();
    if known < found {
        return Err(StoreError::NewerSchema { path: path(), found, known });
    }
    Ok(Some(found))
}
