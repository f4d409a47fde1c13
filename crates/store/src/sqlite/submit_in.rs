//! Submitting inside the application's own transaction, on the application's own connection to the
//! file of a store.
//!
//! For the nodes on the file it is another process that commits: `PRAGMA data_version` tells them,
//! and they read anew what they have cached.

use rusqlite::{Connection, TransactionState};
use taskloom_model::Time;

use super::engine::{Engine, Result};
use super::open::check_version;
use crate::{Accepted, NewJob, PAYLOAD_MAX, StoreError};

/// Accepts `jobs` at `now` in the transaction that `connection` has open, all or none; they are
/// durable when it commits, and as durable as the connection's `PRAGMA synchronous` makes them.
///
/// The connection is to the file of the store, as its main database, and the transaction began with
/// `BEGIN IMMEDIATE`. While it is open no node can write: keep it short.
///
/// # Errors
/// As [`crate::Store::submit`], and [`StoreError::Deferred`], [`StoreError::Foreign`],
/// [`StoreError::NewerSchema`]. The transaction stays open, without anything of the refused call.
pub fn submit_in(connection: &Connection, jobs: &[NewJob], now: Time) -> Result<Vec<Accepted>> {
    crate::check::check(jobs, PAYLOAD_MAX)?;
    if connection.transaction_state(Some("main"))? != TransactionState::Write {
        return Err(StoreError::Deferred);
    }
    check_version(connection)?;
    connection.execute_batch("SAVEPOINT taskloom_submit")?;
    let accepted = submit(connection, jobs, now);
    if accepted.is_err() {
        connection.execute_batch("ROLLBACK TO taskloom_submit")?;
    }
    connection.execute_batch("RELEASE taskloom_submit")?;
    accepted
}

fn submit(connection: &Connection, jobs: &[NewJob], now: Time) -> Result<Vec<Accepted>> {
    let mut engine = Engine::lent(connection, now)?;
    let accepted = engine.submit(jobs)?;
    engine.flush()?;
    Ok(accepted)
}
