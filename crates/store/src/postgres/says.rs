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
        let why = match said.detail() {
            Some(detail) => format!("{} ({}; {detail})", said.message(), said.code().code()),
            None => format!("{} ({})", said.message(), said.code().code()),
        };
        meaning(said.code(), said.message(), why)
    }
}

/// What `state` means, which the server has told with `message`; `why` is for people.
pub(super) fn meaning(state: &SqlState, message: &str, why: String) -> StoreError {
    if let Some(refused) = refused(state.code(), message) {
        return refused;
    }
    // What is no matter of one connection, but of what stands between.
    if message.contains("unsupported startup parameter") {
        return StoreError::Pooler;
    }
    if message.starts_with("no more connections allowed") {
        return StoreError::TooManyConnections { why };
    }
    match *state {
        SqlState::UNDEFINED_PSTATEMENT | SqlState::DUPLICATE_PSTATEMENT => StoreError::Pooler,
        ref code if code.code().starts_with("08") => StoreError::Unreachable { why },
        SqlState::DISK_FULL => StoreError::DiskFull,
        SqlState::DATA_CORRUPTED | SqlState::INDEX_CORRUPTED => StoreError::Corrupt { why },
        SqlState::LOCK_NOT_AVAILABLE => StoreError::Locked { waited_secs: LOCK_MAX_SECS },
        SqlState::READ_ONLY_SQL_TRANSACTION => StoreError::ReadOnly,
        SqlState::QUERY_CANCELED => StoreError::ReadTimeout { max_secs: READ_MAX_SECS },
        SqlState::TOO_MANY_CONNECTIONS => StoreError::TooManyConnections { why },
        SqlState::ADMIN_SHUTDOWN
        | SqlState::CRASH_SHUTDOWN
        | SqlState::CANNOT_CONNECT_NOW
        | SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT => StoreError::Unreachable { why },
        SqlState::T_R_SERIALIZATION_FAILURE | SqlState::T_R_DEADLOCK_DETECTED => {
            StoreError::Contended { why }
        }
        SqlState::INVALID_PASSWORD
        | SqlState::INVALID_AUTHORIZATION_SPECIFICATION
        | SqlState::INVALID_CATALOG_NAME
        | SqlState::INSUFFICIENT_PRIVILEGE => StoreError::Denied { why },
        _ => StoreError::Database(why),
    }
}

/// What `taskloom.submit` refuses and this program can't know beforehand (submit.sql).
fn refused(state: &str, message: &str) -> Option<StoreError> {
    match state {
        "TL004" => {
            let id = message.split(' ').find_map(|it| it.parse().ok())?;
            Some(StoreError::UnknownDependency { id })
        }
        // As jsonb they may be longer than they were.
        "TL003" => {
            let mut numbers = message.split(' ').filter_map(|it| it.parse().ok());
            let (bytes, max) = (numbers.next()?, numbers.next()?);
            Some(StoreError::TooLarge { what: "the arguments", bytes, max })
        }
        // Of JSON that it can't keep as jsonb.
        "22P05" => Some(StoreError::Nul { what: "the arguments" }),
        _ => None,
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
