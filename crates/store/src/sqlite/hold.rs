//! A writer that holds the file and does nothing: for tests and for `taskloom torture`.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::engine::Result;
use super::open;
use crate::StoreError;

/// The one right to write to a file, taken from everybody else until this is dropped.
///
/// It is what a long transaction of another program is to a store: reads go on, and whatever
/// writes waits for some seconds and is then refused as [`StoreError::Locked`].
#[derive(Debug)]
pub struct WriteHold {
    /// Closing it takes the transaction back.
    _conn: Connection,
}

impl WriteHold {
    /// Takes the right to write to the store at `path`, waiting for it as any writer does.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when others write for too long, [`StoreError::CantOpen`] when there
    /// is no such file.
    ///
    /// # Cancel safety
    /// A dropped call may still take it, and lets it go at once.
    pub async fn take(path: impl Into<PathBuf>) -> Result<WriteHold> {
        let path = path.into();
        let taking = tokio::task::spawn_blocking(move || begin(&path));
        taking.await.unwrap_or(Err(StoreError::Closed))
    }
}

fn begin(path: &Path) -> Result<WriteHold> {
    let conn = open::writer(path)?;
    conn.execute_batch("BEGIN IMMEDIATE")?;
    Ok(WriteHold { _conn: conn })
}
