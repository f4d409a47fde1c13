//! Why a store could not do what was asked, with a stable code and a cure for each cause.

use std::path::PathBuf;

use taskloom_model::{JobId, RetryPolicyError};

/// Why a store could not do what was asked. Nothing that was accepted before is lost by any of
/// these, and nothing of the refused call is kept.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A payload is over its bound.
    #[error(
        "{what} is {bytes} bytes, over the limit of {max}; pass a reference to the data instead"
    )]
    TooLarge {
        /// Which payload.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// A name is empty.
    #[error("{what} is empty; give it at least one character, or leave it out")]
    Empty {
        /// Which one.
        what: &'static str,
    },
    /// A job was to wait for one that the store does not have.
    #[error("no job {id} to depend on; it was never accepted here, or is pruned")]
    UnknownDependency {
        /// The missing job.
        id: JobId,
    },
    /// A retry policy is out of bounds.
    #[error("the retry policy is out of bounds: {0}")]
    Policy(RetryPolicyError),
    /// The arguments are no JSON.
    #[error("the arguments of task `{task}` are no valid JSON: {why}")]
    Args {
        /// The task.
        task: String,
        /// What the parser says.
        why: String,
    },
    /// The store belongs to a newer program.
    #[error(
        "{} has schema version {found}, this program knows versions up to {known}; use a newer \
         taskloom, or another file", path.display()
    )]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest known.
        known: i64,
    },
    /// The file is another program's, or no database at all.
    #[error("{} is no store of Taskloom, and stays as it is; name another file", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file lies on a network file system, where SQLite's locks can't be trusted.
    #[error(
        "{} lies on a network file system ({kind}), where locks can't be trusted; use a local \
         disk", path.display()
    )]
    NetworkFileSystem {
        /// The file.
        path: PathBuf,
        /// The file system.
        kind: String,
    },
    /// The file can't be opened.
    #[error("can't open {}: {why}", path.display())]
    CantOpen {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// The address of the store is not understood.
    #[error(
        "`{url}` names no store; use sqlite://FILE, sqlite::memory: or postgres://USER@HOST/DATABASE"
    )]
    Url {
        /// What was given.
        url: String,
    },
    /// The disk is full.
    #[error("the disk is full; free some space, and the store goes on by itself")]
    DiskFull,
    /// The file is damaged.
    #[error(
        "the database file is damaged ({why}); stop all programs that use it, keep a copy, and \
         restore a backup or try `sqlite3 FILE .recover`"
    )]
    Corrupt {
        /// What SQLite says.
        why: String,
    },
    /// Another program holds the file for too long.
    #[error(
        "the database is locked by another program for more than {waited_secs} s; end its \
         transaction"
    )]
    Locked {
        /// How long the store waited.
        waited_secs: u64,
    },
    /// The file can't be written.
    #[error("the database is read-only; check the permissions of the file and its folder")]
    ReadOnly,
    /// A read took too long and was stopped, so that it does not hold up the store.
    #[error("the read took more than {max_secs} s; narrow the filter")]
    ReadTimeout {
        /// The bound.
        max_secs: u64,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// A name has a character that the database keeps in no text.
    #[error("{what} contains a NUL character; leave it out")]
    Nul {
        /// Which one.
        what: &'static str,
    },
    /// The server can't be reached, or the connection was cut in the middle of a transaction.
    #[error("the database server can't be reached: {why}")]
    Unreachable {
        /// What the system or the server says.
        why: String,
    },
    /// The server has no room for another connection.
    #[error("the database server takes no more connections: {why}")]
    TooManyConnections {
        /// What the server says.
        why: String,
    },
    /// The server does not let this program in, or not do what it must.
    #[error("the database server refuses: {why}")]
    Denied {
        /// What the server says.
        why: String,
    },
    /// A pooler in transaction mode stands between, and the address does not say so.
    #[error(
        "a pooler stands between this program and PostgreSQL; say `?pgbouncer=true` in the address \
         when it gives each transaction another connection, `?pgbouncer=session` when it does not"
    )]
    Pooler,
    /// Other transactions came in between again and again.
    #[error("other transactions came in between too often: {why}")]
    Contended {
        /// What the server says.
        why: String,
    },
    /// A job was to be submitted in a transaction that can't write for sure.
    #[error(
        "the connection has no transaction that writes; begin it with BEGIN IMMEDIATE \
         (TransactionBehavior::Immediate)"
    )]
    Deferred,
    /// Anything else the database says.
    #[error("the database says: {0}")]
    Database(String),
}

impl StoreError {
    /// The stable code, for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            StoreError::TooLarge { .. } => "store.too_large",
            StoreError::Empty { .. } => "store.empty",
            StoreError::UnknownDependency { .. } => "store.unknown_dependency",
            StoreError::Policy(_) => "store.policy",
            StoreError::Args { .. } => "store.args",
            StoreError::NewerSchema { .. } => "store.newer_schema",
            StoreError::Foreign { .. } => "store.foreign",
            StoreError::NetworkFileSystem { .. } => "store.network_file_system",
            StoreError::CantOpen { .. } => "store.cant_open",
            StoreError::Url { .. } => "store.url",
            StoreError::DiskFull => "store.disk_full",
            StoreError::Corrupt { .. } => "store.corrupt",
            StoreError::Locked { .. } => "store.locked",
            StoreError::ReadOnly => "store.read_only",
            StoreError::ReadTimeout { .. } => "store.read_timeout",
            StoreError::Closed => "store.closed",
            StoreError::Nul { .. } => "store.nul",
            StoreError::Unreachable { .. } => "store.unreachable",
            StoreError::TooManyConnections { .. } => "store.too_many_connections",
            StoreError::Denied { .. } => "store.denied",
            StoreError::Pooler => "store.pooler",
            StoreError::Contended { .. } => "store.contended",
            StoreError::Deferred => "store.deferred",
            StoreError::Database(_) => "store.database",
        }
    }

    /// Whether the error came from the database in the middle of a transaction, which must then be
    /// taken back, and not from a refusal before the first row.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(crate) fn is_fatal(&self) -> bool {
        matches!(
            self,
            StoreError::DiskFull
                | StoreError::Corrupt { .. }
                | StoreError::Locked { .. }
                | StoreError::ReadOnly
                | StoreError::ReadTimeout { .. }
                | StoreError::Unreachable { .. }
                | StoreError::TooManyConnections { .. }
                | StoreError::Denied { .. }
                | StoreError::Pooler
                | StoreError::Contended { .. }
                | StoreError::Database(_)
        )
    }

    /// Whether the same call may succeed later without a change of its arguments.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            StoreError::DiskFull
                | StoreError::Locked { .. }
                | StoreError::ReadOnly
                | StoreError::ReadTimeout { .. }
                | StoreError::Unreachable { .. }
                | StoreError::TooManyConnections { .. }
                | StoreError::Contended { .. }
                | StoreError::Database(_)
        )
    }
}
