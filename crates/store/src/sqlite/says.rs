//! What an error of SQLite means for the caller.

use rusqlite::ErrorCode;

use crate::StoreError;

/// How long a writer waits for another process before it gives up.
pub(super) const BUSY_TIMEOUT_SECS: u64 = 5;

/// Says what an error of SQLite means for the caller.
impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => StoreError::DiskFull,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                StoreError::Corrupt { why: error.to_string() }
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                StoreError::Locked { waited_secs: BUSY_TIMEOUT_SECS }
            }
            Some(ErrorCode::ReadOnly) => StoreError::ReadOnly,
            Some(ErrorCode::OperationInterrupted) => {
                StoreError::ReadTimeout { max_secs: super::read::READ_MAX_SECS }
            }
            _ => StoreError::Database(error.to_string()),
        }
    }
}
