//! Submitting inside the application's own transaction: its commit accepts the jobs, its rollback
//! means that they never were.
//!
//! On PostgreSQL the transaction is one of `tokio_postgres` or of `sqlx`, or of any other client
//! by `statement`; on SQLite it is one of `rusqlite` on the file of the store. The crates are
//! given on here, in the versions that fit. Other languages call the function `taskloom.submit`:
//! `docs/transactional-enqueue.md`.
//!
//! Nobody but the transaction knows of a job before the commit; waiting for it in there would
//! never end. Afterwards [`crate::TaskSystem::job`] gives the handle, and
//! [`crate::TaskSystem::look_again`] saves the short time until a node looks by itself.
//!
//! What a system was opened with does not hold here: arguments may have 1 MiB.

use taskloom_store::NewJob;
pub use taskloom_store::sqlite::rusqlite;

use crate::{Clock, Error, Submit, SystemClock};
#[cfg(feature = "sqlx")]
pub use taskloom_store::postgres::sqlx;
#[cfg(feature = "postgres")]
pub use taskloom_store::postgres::{SubmitStatement, tokio_postgres};

fn jobs<S: Submit>(invocations: S) -> Result<Vec<NewJob>, Error> {
    Ok(invocations.into_requests()?.into_iter().map(NewJob::from).collect())
}

/// Accepts invocations in the transaction that `client` has open: one, a tuple, an array or a
/// vector, all or none, in one round trip. The client is a [`tokio_postgres::Transaction`], or a
/// [`tokio_postgres::Client`]; without an open transaction they are accepted at once.
///
/// ```no_run
/// # use taskloom::prelude::*;
/// # use taskloom::submit_in::{self, tokio_postgres};
/// # #[task]
/// # async fn receipt(order: i64) -> Result<(), TaskError> { Ok(()) }
/// # async fn example(
/// #     system: TaskSystem, client: &mut tokio_postgres::Client,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// let tx = client.transaction().await?;
/// tx.execute("INSERT INTO orders (id) VALUES (7)", &[]).await?;
/// let accepted = submit_in::postgres(&tx, receipt(7).unique("receipt 7")).await?;
/// tx.commit().await?;
/// let handle: JobHandle<()> = system.job(accepted.id);
/// # Ok(()) }
/// ```
///
/// # Errors
/// As [`crate::TaskSystem::submit`]. After an error that the server has told, the transaction can
/// only be rolled back, if need be to a savepoint.
///
/// # Cancel safety
/// After a dropped call, roll the transaction back.
#[cfg(feature = "postgres")]
pub async fn postgres<S: Submit>(
    client: &impl tokio_postgres::GenericClient,
    invocations: S,
) -> Result<S::Accepted, Error> {
    let jobs = jobs(invocations)?;
    let accepted = taskloom_store::postgres::submit_in(client, &jobs).await?;
    Ok(S::accepted(accepted))
}

/// Accepts invocations in the transaction that a connection of sqlx has open: as [`postgres`].
///
/// ```no_run
/// # use taskloom::prelude::*;
/// # use taskloom::submit_in::{self, sqlx};
/// # #[task]
/// # async fn invoice(order: i64) -> Result<(), TaskError> { Ok(()) }
/// # async fn example(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// let mut tx = pool.begin().await?;
/// sqlx::query("INSERT INTO orders (id) VALUES (7)").execute(&mut *tx).await?;
/// submit_in::sqlx(&mut tx, invoice(7)).await?;
/// tx.commit().await?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// As [`postgres`].
///
/// # Cancel safety
/// After a dropped call, roll the transaction back.
#[cfg(feature = "sqlx")]
pub async fn sqlx<S: Submit>(
    connection: &mut sqlx::PgConnection,
    invocations: S,
) -> Result<S::Accepted, Error> {
    let jobs = jobs(invocations)?;
    let accepted = taskloom_store::postgres::submit_in_sqlx(connection, &jobs).await?;
    Ok(S::accepted(accepted))
}

/// The statement that submits an invocation, with its parameters, for any client of PostgreSQL.
///
/// # Errors
/// As [`crate::TaskSystem::submit`], as far as that needs no look at the store.
#[cfg(feature = "postgres")]
pub fn statement<T>(invocation: crate::Invocation<T>) -> Result<SubmitStatement, Error> {
    Ok(SubmitStatement::new(&NewJob::from(invocation.into_request()?))?)
}

/// Accepts invocations in the transaction that `connection` has open, all or none. It is a
/// [`rusqlite::Transaction`] on the file of the store, begun as `Immediate`; while it is open no
/// node can write, so keep it short. The nodes see the jobs some milliseconds after the commit.
///
/// ```no_run
/// # use taskloom::prelude::*;
/// # use taskloom::submit_in::{self, rusqlite};
/// # use rusqlite::{Connection, TransactionBehavior};
/// # #[task]
/// # async fn reminder(order: i64) -> Result<(), TaskError> { Ok(()) }
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let mut connection = Connection::open("jobs.db")?;
/// let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
/// tx.execute("INSERT INTO orders (id) VALUES (7)", [])?;
/// submit_in::sqlite(&tx, reminder(7))?;
/// tx.commit()?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// As [`crate::TaskSystem::submit`], and with the code `store.deferred` for a transaction that is
/// not `Immediate`. The transaction stays open, without anything of the refused call.
pub fn sqlite<S: Submit>(
    connection: &rusqlite::Connection,
    invocations: S,
) -> Result<S::Accepted, Error> {
    let jobs = jobs(invocations)?;
    let accepted = taskloom_store::sqlite::submit_in(connection, &jobs, SystemClock.now())?;
    Ok(S::accepted(accepted))
}
