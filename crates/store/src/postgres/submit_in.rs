//! Submitting inside the application's own transaction, on the application's own connection: by
//! `taskloom.submit` (submit.sql), with what can be known here checked here.

use serde_json::{Map, Value};
use taskloom_model::{DependencyPolicy, Jitter};
use tokio_postgres::GenericClient;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use super::Result;
#[cfg(feature = "sqlx")]
use super::says;
use crate::{Accepted, NewJob, PAYLOAD_MAX, StoreError};

const SUBMIT_ONE: &str =
    "SELECT id::text, duplicate FROM taskloom.submit($1::text, $2::text::jsonb, $3::text::jsonb)";
const SUBMIT_MANY: &str = "SELECT s.id::text, s.duplicate \
     FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS j (task, args, options, n), \
     LATERAL taskloom.submit(j.task, j.args::jsonb, j.options::jsonb) AS s ORDER BY j.n";

/// A job as a statement with its parameters, for any client of PostgreSQL. The answer is one row:
/// the id, as a text, and whether it is a duplicate.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubmitStatement {
    /// The statement; its parameters are `$1` to `$3`, all of the type `text`.
    pub sql: &'static str,
    /// `$1`: the task.
    pub task: String,
    /// `$2`: the arguments, as JSON.
    pub args: String,
    /// `$3`: the options, as JSON.
    pub options: String,
}

impl SubmitStatement {
    /// The statement that submits `job`.
    ///
    /// # Errors
    /// What [`crate::Store::submit`] refuses without a look at the store.
    pub fn new(job: &NewJob) -> Result<SubmitStatement> {
        check(std::slice::from_ref(job))?;
        let (task, args) = (job.task.to_string(), job.args.clone());
        Ok(SubmitStatement { sql: SUBMIT_ONE, task, args, options: options(job) })
    }
}

/// Accepts `jobs` in the transaction that `client` has open, all or none, in one round trip.
/// Without an open transaction, they are accepted at once.
///
/// # Errors
/// As [`crate::Store::submit`]. After an error that the server has told, the transaction can only
/// be rolled back, if need be to a savepoint.
///
/// # Cancel safety
/// After a dropped call, roll the transaction back.
pub async fn submit_in(client: &impl GenericClient, jobs: &[NewJob]) -> Result<Vec<Accepted>> {
    check(jobs)?;
    let [tasks, args, options] = columns(jobs);
    let columns: &[(&(dyn ToSql + Sync), Type)] =
        &[(&tasks, Type::TEXT_ARRAY), (&args, Type::TEXT_ARRAY), (&options, Type::TEXT_ARRAY)];
    let rows = client.query_typed(SUBMIT_MANY, columns).await.map_err(|error| {
        match error.as_db_error() {
            // Not by a bound of ours.
            Some(said) if *said.code() == SqlState::QUERY_CANCELED => {
                StoreError::Database(said.message().to_owned())
            }
            _ => error.into(),
        }
    })?;
    rows.iter().map(|row| accepted(row.try_get(0)?, row.try_get(1)?)).collect()
}

/// Accepts `jobs` in the transaction that a connection of sqlx has open: see [`submit_in`].
///
/// # Errors
/// As [`submit_in`].
///
/// # Cancel safety
/// After a dropped call, roll the transaction back.
#[cfg(feature = "sqlx")]
pub async fn submit_in_sqlx(
    connection: &mut sqlx::PgConnection,
    jobs: &[NewJob],
) -> Result<Vec<Accepted>> {
    use sqlx::Row;

    check(jobs)?;
    let [tasks, args, options] = columns(jobs);
    let query = sqlx::query(SUBMIT_MANY).bind(tasks).bind(args).bind(options);
    let rows = query.fetch_all(connection).await.map_err(said_by_sqlx)?;
    let answer = |row: &sqlx::postgres::PgRow| {
        let id = row.try_get(0).map_err(said_by_sqlx)?;
        accepted(id, row.try_get(1).map_err(said_by_sqlx)?)
    };
    rows.iter().map(answer).collect()
}

#[cfg(feature = "sqlx")]
fn said_by_sqlx(error: sqlx::Error) -> StoreError {
    let why = error.to_string();
    match error.as_database_error() {
        Some(said) => {
            let state = SqlState::from_code(said.code().as_deref().unwrap_or(""));
            match state {
                SqlState::QUERY_CANCELED => StoreError::Database(why),
                state => says::meaning(&state, said.message(), why),
            }
        }
        None if matches!(error, sqlx::Error::Io(_)) => StoreError::Unreachable { why },
        None => StoreError::Database(why),
    }
}

fn check(jobs: &[NewJob]) -> Result<()> {
    crate::check::check(jobs, PAYLOAD_MAX)?;
    crate::check::check_nul(jobs)
}

fn accepted(id: &str, duplicate: bool) -> Result<Accepted> {
    let id = id.parse().map_err(|_| StoreError::Corrupt { why: format!("`{id}` is no id") })?;
    Ok(Accepted { id, duplicate })
}

/// The tasks, the arguments and the options.
fn columns(jobs: &[NewJob]) -> [Vec<String>; 3] {
    [
        jobs.iter().map(|it| it.task.to_string()).collect(),
        jobs.iter().map(|it| it.args.clone()).collect(),
        jobs.iter().map(options).collect(),
    ]
}

/// What is beside the task and the arguments, as submit.sql reads it.
fn options(job: &NewJob) -> String {
    let millis = |it: std::time::Duration| i64::try_from(it.as_millis()).unwrap_or(i64::MAX);
    let NewJob { rules, .. } = job;
    let backoff = rules.retry.backoff;
    let mut options: Map<String, Value> = Map::new();
    let mut put = |name: &str, value: Value| options.insert(name.to_owned(), value);
    put("queue", (*job.queue).into());
    put("priority", job.priority.level().into());
    put("max_attempts", rules.retry.max_attempts.into());
    put("delay_first_ms", millis(backoff.delay_first).into());
    put("factor", backoff.factor.into());
    put("delay_max_ms", millis(backoff.delay_max).into());
    put(
        "jitter",
        match backoff.jitter {
            Jitter::Full => "full".into(),
            Jitter::None => "none".into(),
        },
    );
    put(
        "on_dependency_failure",
        match rules.on_dependency_failure {
            DependencyPolicy::Cancel => "cancel".into(),
            DependencyPolicy::Run => "run".into(),
        },
    );
    if let Some(delay) = job.delay {
        put("delay_ms", millis(delay).into());
    } else if let Some(at) = rules.run_at {
        put("run_at", at.as_millis().into());
    }
    if let Some(at) = rules.deadline {
        put("deadline", at.as_millis().into());
    }
    if let Some(timeout) = job.timeout {
        put("timeout_ms", millis(timeout).into());
    }
    for (name, text) in [("key", &job.key), ("unique", &job.unique)] {
        if let Some(text) = text {
            put(name, text.as_str().into());
        }
    }
    if !job.after.is_empty() {
        put("after", job.after.iter().map(|it| Value::from(it.to_string())).collect());
    }
    Value::Object(options).to_string()
}
