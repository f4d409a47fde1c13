//! Reaching the server: what it must be, how sessions are set up, which version the schema has.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use taskloom_model::{NodeId, Time};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

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
}

impl Default for PostgresOptions {
    fn default() -> Self {
        PostgresOptions { payload_max: PAYLOAD_MAX, clock: None }
    }
}

/// The migrations, oldest first; the version of a schema is how many of them it has seen.
const MIGRATIONS: &[&str] = &[concat!(include_str!("schema.sql"), include_str!("submit.sql"))];

/// The oldest server that this is tested with.
const SERVER_VERSION_MIN: i32 = 150_000;

// Advisory locks of one bigint: the upper half says what for.
const LOCK_MIGRATE: i64 = 0x546B_6C31 << 32;
const LOCK_NODE: i64 = 0x546B_6C32 << 32;
pub(super) const LOCK_WRITER: i64 = 0x546B_6C33 << 32;

/// The advisory lock that a live node holds.
pub(super) fn node_lock(node: NodeId) -> i64 {
    LOCK_NODE | (big(node.0) & i64::from(u32::MAX))
}

/// What all sessions have in common. Every statement of ours finds its rows by a key, and has a
/// plan for that which no statistics can spoil.
const SETTINGS: &str = "SET search_path = taskloom; SET plan_cache_mode = force_generic_plan; \
     SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; \
     SET enable_memoize = off; SET enable_material = off; \
     SET jit = off; SET client_min_messages = warning; \
     SET default_transaction_isolation = 'read committed'; \
     SELECT set_config('synchronous_commit', 'on', false) \
     WHERE current_setting('synchronous_commit') = 'off'; ";

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
    config: Config,
    pub(super) salt: u32,
    pub(super) clock: ServerClock,
}

/// A session that writes.
pub(super) struct Opened {
    pub(super) session: Session,
    pub(super) driver: Driver,
    pub(super) writer: i16,
}

impl Server {
    /// Connects, and makes or updates the schema.
    pub(super) async fn open(url: &str, options: &PostgresOptions) -> Result<Server> {
        let config = configure(url)?;
        let clock = ServerClock {
            given: options.clock.clone(),
            origin: Instant::now(),
            at_origin: AtomicI64::new(0),
        };
        let mut server = Server { config, salt: 0, clock };
        let (session, mut driver) = Session::connect(&server.config, "").await?;
        let address = server.address();
        let opening = async {
            server.clock.read(&session).await?;
            migrate(&session, &address, server.clock.now()).await
        };
        server.salt = driver.drive(opening).await?;
        Ok(server)
    }

    /// Where the store lies, for people, without what is secret.
    pub(super) fn address(&self) -> String {
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(name)) => name.clone(),
            #[cfg(unix)]
            Some(Host::Unix(folder)) => folder.display().to_string(),
            None => String::new(),
        };
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        let database = self.config.get_dbname().or(self.config.get_user()).unwrap_or("");
        format!("postgres://{host}:{port}/{database}")
    }

    /// A session for a lane, with a writer of its own.
    pub(super) async fn writer(&self) -> Result<Opened> {
        let settings = format!(
            "{SETTINGS} SET enable_bitmapscan = off; SET statement_timeout = '60s'; \
             SET lock_timeout = '{LOCK_MAX_SECS}s'; \
             SET idle_in_transaction_session_timeout = '30s'"
        );
        let (session, mut driver) = Session::connect(&self.config, &settings).await?;
        let taking = async {
            self.clock.read(&session).await?;
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
        let settings = format!(
            "{SETTINGS} SET statement_timeout = '{READ_MAX_SECS}s'; \
             SET default_transaction_read_only = on"
        );
        Session::connect(&self.config, &settings).await
    }

    /// A session that listens, tells others, and holds the locks of nodes.
    pub(super) async fn listener(&self) -> Result<(Session, Driver)> {
        // What it commits is notices: they need not survive a crash.
        let settings = format!(
            "{SETTINGS} SET synchronous_commit = off; SET statement_timeout = '5s'; \
             LISTEN taskloom"
        );
        Session::connect(&self.config, &settings).await
    }

    /// Reads the server's time anew: clocks drift.
    pub(super) async fn set_clock(&self, session: &Session) -> Result<()> {
        if self.clock.given.is_some() {
            return Ok(());
        }
        self.clock.read(session).await
    }
}

fn configure(url: &str) -> Result<Config> {
    let mut config: Config =
        url.parse().map_err(|_| StoreError::Url { url: without_password(url) })?;
    if config.get_ssl_mode() == SslMode::Require {
        let why = "this build has no TLS, which sslmode=require asks for; use a Unix socket, a \
                   tunnel, or sslmode=prefer in a trusted network";
        return Err(StoreError::Denied { why: why.into() });
    }
    if config.get_application_name().is_none() {
        config.application_name("taskloom");
    }
    config.keepalives_idle(Duration::from_secs(30));
    config.tcp_user_timeout(Duration::from_secs(30));
    Ok(config)
}

/// An address without what stands between `:` and `@`.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "(not a URL)".into() };
    let Some((user, place)) = rest.rsplit_once('@') else { return url.to_owned() };
    let user = user.split(':').next().unwrap_or("");
    format!("{scheme}://{user}@{place}")
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
    let lock = format!("BEGIN; SELECT pg_advisory_xact_lock({LOCK_MIGRATE})");
    session.batch(&lock).await?;
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
         UPDATE meta SET value = {known} WHERE name = 'version'; COMMIT"
    );
    session.batch(&put).await?;
    let missing = StoreError::Foreign { path: PathBuf::from(address) };
    look(session, address).await?.ok_or(missing)
}

fn first_four(bytes: [u8; 16]) -> [u8; 4] {
    let [a, b, c, d, ..] = bytes;
    [a, b, c, d]
}

fn known_version() -> i64 {
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
async fn found_version(session: &Session, address: &str) -> Result<Option<i64>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        let shown = without_password("postgres://me:p@ss@host/db");
        assert_eq!(shown, "postgres://me@host/db");
    }

    #[test]
    fn tls_that_is_required_is_refused_and_not_left_out() {
        let refused = configure("postgres://host/db?sslmode=require").unwrap_err();
        assert_eq!(refused.code(), "store.denied");
    }
}
