//! What others do to a store in a bad year: connections are cut, locks and snapshots held. For tests
//! and for `taskloom torture`.

use tokio::sync::oneshot;

use super::open::{PostgresOptions, Server};
use super::{Result, open_apart};
use crate::StoreError;

/// Which connections of nodes are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// One in three, by chance; at least one.
    Some,
    /// Every one.
    All,
}

/// What a transaction of somebody else holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// The rows of up to 500 unfinished jobs: whoever would move one of them waits.
    Rows,
    /// A snapshot: nothing that is deleted meanwhile can be cleaned away.
    Snapshot,
}

/// A transaction that is held open until this is dropped.
#[derive(Debug)]
pub struct Held {
    /// Its end tells the thread that owns the connection.
    _stop: oneshot::Sender<()>,
}

const CUT_ALL: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
     WHERE application_name = 'taskloom' AND datname = current_database()";
const CUT_SOME: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
     WHERE application_name = 'taskloom' AND datname = current_database() \
     ORDER BY random() \
     LIMIT (SELECT greatest(1, count(*) / 3) FROM pg_stat_activity \
     WHERE application_name = 'taskloom' AND datname = current_database())";

/// Cuts connections of the nodes of the store at `url`. Returns how many.
///
/// # Errors
/// As [`super::PostgresStore::open`]; [`StoreError::Denied`] when the user may not.
///
/// # Cancel safety
/// A dropped call may still cut them.
pub async fn cut(url: String, which: Cut) -> Result<usize> {
    let sql = if which == Cut::All { CUT_ALL } else { CUT_SOME };
    let cutting = move || {
        let server = open_apart(url, PostgresOptions::default())?;
        runtime()?.block_on(async {
            let (session, mut driver) = server.stranger().await?;
            Ok(driver.drive(session.query(sql, &[])).await?.len())
        })
    };
    tokio::task::spawn_blocking(cutting).await.unwrap_or(Err(StoreError::Closed))
}

/// Begins a transaction of somebody else on the store at `url`.
///
/// # Errors
/// As [`super::PostgresStore::open`].
///
/// # Cancel safety
/// A dropped call may still begin it, and ends it at once.
pub async fn hold(url: String, what: Hold) -> Result<Held> {
    let sql = match what {
        Hold::Rows => {
            "BEGIN; SELECT FROM hot WHERE job IN \
             (SELECT job FROM hot ORDER BY job LIMIT 500) FOR UPDATE SKIP LOCKED"
        }
        Hold::Snapshot => "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT n FROM counts LIMIT 1",
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let (began, begun) = oneshot::channel();
    let holding = move || {
        let server = match open_apart(url, PostgresOptions::default()) {
            Ok(server) => server,
            Err(error) => return drop(began.send(Err(error))),
        };
        match runtime() {
            Ok(runtime) => runtime.block_on(hold_until(&server, sql, (began, stopped))),
            Err(error) => drop(began.send(Err(error))),
        }
    };
    let thread = std::thread::Builder::new().name("taskloom-hold".into()).spawn(holding);
    thread.map_err(|error| StoreError::Unreachable { why: error.to_string() })?;
    begun.await.unwrap_or(Err(StoreError::Closed))?;
    Ok(Held { _stop: stop })
}

async fn hold_until(
    server: &Server,
    sql: &str,
    (began, stopped): (oneshot::Sender<Result<()>>, oneshot::Receiver<()>),
) {
    let (session, mut driver) = match server.stranger().await {
        Ok(connected) => connected,
        Err(error) => return drop(began.send(Err(error))),
    };
    let held = driver.drive(session.batch(sql)).await;
    let is_held = held.is_ok();
    if began.send(held).is_err() || !is_held {
        return;
    }
    // The server may end it first: then there is nothing to hold any more.
    driver
        .drive(async {
            stopped.await.ok();
            Ok(())
        })
        .await
        .ok();
}

pub(super) fn runtime() -> Result<tokio::runtime::Runtime> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| StoreError::Unreachable { why: error.to_string() })
}
