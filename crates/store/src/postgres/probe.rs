//! What a server has done and used, for `taskloom bench`; and making sure that it leaves nothing.

use super::open::{PostgresOptions, Server};
use super::session::Session;
use super::{Result, torture};
use crate::StoreError;

/// What a server has done since it was started.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ServerUse {
    /// Bytes of write-ahead log, by all its databases.
    pub wal_bytes: i64,
    /// Transactions that have written something, of all its databases.
    pub n_commits: i64,
    /// The server's first process, when it runs on this machine.
    pub pid: Option<u32>,
}

/// Asks the server at `url` what it has done so far.
///
/// # Errors
/// As [`super::PostgresStore::open`].
///
/// # Cancel safety
/// Safe.
pub async fn server_use(url: String) -> Result<ServerUse> {
    const SQL: &str = "SELECT (pg_current_wal_lsn() - '0/0')::bigint, \
         pg_snapshot_xmax(pg_current_snapshot())::text::bigint, \
         pg_backend_pid(), coalesce(host(inet_server_addr()) IN ('127.0.0.1', '::1'), true)";
    apart(url, async |session: &Session| {
        let rows = session.query(SQL, &[]).await?;
        let row = rows.first().ok_or(StoreError::Closed)?;
        let (backend, is_here): (i32, bool) = (row.try_get(2)?, row.try_get(3)?);
        let pid = if is_here { parent_of(backend) } else { None };
        Ok(ServerUse { wal_bytes: row.try_get(0)?, n_commits: row.try_get(1)?, pid })
    })
    .await
}

/// The parent of a process of the server, if that is what it is.
fn parent_of(backend: i32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{backend}/stat")).ok()?;
    let (name, rest) = stat.rsplit_once(')')?;
    name.contains("(postgres").then(|| rest.split_whitespace().nth(1)?.parse().ok())?
}

/// Whether the database at `url` has no schema `taskloom`.
///
/// # Errors
/// As [`super::PostgresStore::open`].
///
/// # Cancel safety
/// Safe.
pub async fn is_vacant(url: String) -> Result<bool> {
    apart(url, async |session: &Session| {
        let rows = session.query("SELECT to_regnamespace('taskloom') IS NULL", &[]).await?;
        Ok(rows.first().map_or(Ok(false), |row| row.try_get(0))?)
    })
    .await
}

/// Drops the schema `taskloom` with all that is in it.
///
/// # Errors
/// As [`super::PostgresStore::open`].
///
/// # Cancel safety
/// A dropped call may still do it.
pub async fn drop_schema(url: String) -> Result<()> {
    apart(url, async |session: &Session| session.batch("DROP SCHEMA taskloom CASCADE").await).await
}

/// Does `work` on a connection of its own, on a thread of its own, without making a schema.
async fn apart<T: Send + 'static>(
    url: String,
    work: impl AsyncFnOnce(&Session) -> Result<T> + Send + 'static,
) -> Result<T> {
    let working = move || {
        torture::runtime()?.block_on(async {
            let server = Server::unopened(&url, &PostgresOptions::default())?;
            let (session, mut driver) = server.plain().await?;
            driver.drive(session.shared(work(&session))).await
        })
    };
    tokio::task::spawn_blocking(working).await.unwrap_or(Err(StoreError::Closed))
}
