//! What an error of PostgreSQL means for the caller.

use std::error::Error;

use tokio_postgres::error::SqlState;

use super::LOCK_MAX_SECS;
use super::read::READ_MAX_SECS;
use crate::StoreError;

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(said) = error.as_db_error() else {
            let why = with_causes(&error);
            // What the client itself finds wrong is no matter of the connection.
            let is_cut = error.is_closed() || has_io_cause(&error) || error.source().is_none();
            return if is_cut {
                StoreError::Unreachable { why }
            } else {
                StoreError::Database(why)
            };
        };
        let why = || match said.detail() {
            Some(detail) => format!("{} ({}; {detail})", said.message(), said.code().code()),
            None => format!("{} ({})", said.message(), said.code().code()),
        };
        match *said.code() {
            SqlState::DISK_FULL => StoreError::DiskFull,
            SqlState::DATA_CORRUPTED | SqlState::INDEX_CORRUPTED => {
                StoreError::Corrupt { why: why() }
            }
            SqlState::LOCK_NOT_AVAILABLE => StoreError::Locked { waited_secs: LOCK_MAX_SECS },
            SqlState::READ_ONLY_SQL_TRANSACTION => StoreError::ReadOnly,
            SqlState::QUERY_CANCELED => StoreError::ReadTimeout { max_secs: READ_MAX_SECS },
            SqlState::TOO_MANY_CONNECTIONS => StoreError::TooManyConnections { why: why() },
            SqlState::ADMIN_SHUTDOWN
            | SqlState::CRASH_SHUTDOWN
            | SqlState::CANNOT_CONNECT_NOW
            | SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT => {
                StoreError::Unreachable { why: why() }
            }
            SqlState::T_R_SERIALIZATION_FAILURE | SqlState::T_R_DEADLOCK_DETECTED => {
                StoreError::Contended { why: why() }
            }
            SqlState::INVALID_PASSWORD
            | SqlState::INVALID_AUTHORIZATION_SPECIFICATION
            | SqlState::INVALID_CATALOG_NAME
            | SqlState::INSUFFICIENT_PRIVILEGE => StoreError::Denied { why: why() },
            _ => StoreError::Database(why()),
        }
    }
}

fn has_io_cause(error: &dyn Error) -> bool {
    error.source().is_some_and(|it| it.is::<std::io::Error>() || has_io_cause(it))
}

/// The client says in one word what failed, and why in the causes under it.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
