//! Opening the file: what it must be, how it is set up, which version it has.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior, params};
use taskloom_model::Time;

use super::engine::{Engine, Result};
use super::read::READ_MAX_SECS;
use super::says::BUSY_TIMEOUT_SECS;
use crate::{PAYLOAD_MAX, StoreError};

/// How durable a commit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Synchronous {
    /// A commit survives a power cut: one fsync each.
    #[default]
    Full,
    /// A commit survives the death of the process; a power cut may take back the last ones. The
    /// file stays whole.
    Normal,
}

/// How a store is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SqliteOptions {
    /// How durable a commit is.
    pub synchronous: Synchronous,
    /// The largest arguments, in bytes.
    pub payload_max: usize,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        SqliteOptions { synchronous: Synchronous::Full, payload_max: PAYLOAD_MAX }
    }
}

/// `PRAGMA application_id` of our files: "Tkl1".
pub(super) const APPLICATION_ID: i64 = 0x546B_6C31;

/// The migrations, oldest first; the version of a file is how many of them it has seen.
pub(super) const MIGRATIONS: &[&str] = &[include_str!("schema.sql")];

/// WAL pages (4 KiB) before a commit moves them into the file.
const CHECKPOINT_PAGES: u32 = 16_000;
/// Bytes that an empty WAL keeps on the disk.
const WAL_KEPT: u32 = 64 * 1024 * 1024;
/// KiB of pages the writer keeps in memory.
const CACHE_KIB: u32 = 16 * 1024;

pub(super) fn engine(path: &Path, options: &SqliteOptions, now: Time) -> Result<Engine> {
    refuse_network(path)?;
    if let Some(folder) = path.parent().filter(|it| !it.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|error| cant_open(path, &error.to_string()))?;
    }
    let mut conn = Connection::open(path).map_err(|error| cant_open(path, &error.to_string()))?;
    conn.busy_timeout(Duration::from_secs(BUSY_TIMEOUT_SECS))?;
    // Before the journal mode is changed: another program's file stays as it is. In one snapshot:
    // another process may be making the file just now.
    let snapshot = conn.transaction_with_behavior(TransactionBehavior::Deferred)?;
    identify(&snapshot, path).map_err(|error| match error {
        // Our own files begin as every SQLite file does, whatever has happened to the rest.
        StoreError::Corrupt { .. } if !begins_as_sqlite(path) => {
            StoreError::Foreign { path: path.to_owned() }
        }
        error => error,
    })?;
    snapshot.commit()?;
    set_up(&conn, options)?;
    migrate(conn, path, now)
}

pub(super) fn engine_in_memory(now: Time) -> Result<Engine> {
    let conn = Connection::open_in_memory()?;
    migrate(conn, Path::new(":memory:"), now)
}

fn cant_open(path: &Path, why: &str) -> StoreError {
    StoreError::CantOpen { path: path.to_owned(), why: why.to_owned() }
}

fn set_up(conn: &Connection, options: &SqliteOptions) -> Result<()> {
    write_ahead(conn)?;
    let synchronous = match options.synchronous {
        Synchronous::Full => "full",
        Synchronous::Normal => "normal",
    };
    conn.pragma_update(None, "synchronous", synchronous)?;
    conn.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    conn.pragma_update(None, "journal_size_limit", WAL_KEPT)?;
    conn.pragma_update(None, "cache_size", -i64::from(CACHE_KIB))?;
    Ok(())
}

/// Turns the write-ahead log on. For that SQLite needs the file for itself, and where two
/// connections want it at once it refuses one of them without waiting; so the waiting is here.
fn write_ahead(conn: &Connection) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(BUSY_TIMEOUT_SECS);
    loop {
        match conn.pragma_update(None, "journal_mode", "wal").map_err(StoreError::from) {
            Err(StoreError::Locked { .. }) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            turned_on_or_failed => return turned_on_or_failed,
        }
    }
}

fn begins_as_sqlite(path: &Path) -> bool {
    let mut magic = [0; 16];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && &magic == b"SQLite format 3\0"
}

pub(super) fn known_version() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// The version of the file and whether it is new, or why it is none of ours.
pub(super) fn identify(conn: &Connection, path: &Path) -> Result<(i64, bool)> {
    let number = |name: &str| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (found, application) = (number("user_version")?, number("application_id")?);
    let sql = "SELECT count(*) FROM sqlite_schema";
    let n_tables: i64 = conn.query_row(sql, [], |row| row.get(0))?;
    let is_new = n_tables == 0 && found == 0;
    if !is_new && application != APPLICATION_ID {
        return Err(StoreError::Foreign { path: path.to_owned() });
    }
    let known = known_version();
    if known < found {
        return Err(StoreError::NewerSchema { path: path.to_owned(), found, known });
    }
    Ok((found, is_new))
}

/// Refuses a connection to anything but a store of this program's version.
pub(super) fn check_version(conn: &Connection) -> Result<()> {
    let path = Path::new(conn.path().unwrap_or(":memory:"));
    match identify(conn, path)? {
        (found, false) if found == known_version() => Ok(()),
        _ => Err(StoreError::Foreign { path: path.to_owned() }),
    }
}

fn migrate(mut conn: Connection, path: &Path, now: Time) -> Result<Engine> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let (found, is_new) = identify(&tx, path)?;
    let known = known_version();
    for migration in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        tx.execute_batch(migration)?;
    }
    if found < known {
        tx.pragma_update(None, "user_version", known)?;
        tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    if is_new {
        let random = uuid::Uuid::new_v4().as_u128();
        let salt = u32::try_from(random & u128::from(u32::MAX)).unwrap_or(0);
        tx.execute(
            "INSERT INTO meta (name, value) VALUES ('salt', ?1), ('created', ?2)",
            params![salt, now.as_millis()],
        )?;
    }
    tx.commit()?;
    Engine::new(conn)
}

/// Opens a connection that may write to a file that is there already.
#[cfg(feature = "torture")]
pub(super) fn writer(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)
        .map_err(|error| cant_open(path, &error.to_string()))?;
    conn.busy_timeout(Duration::from_secs(BUSY_TIMEOUT_SECS))?;
    Ok(conn)
}

/// Opens a connection that only reads.
pub(super) fn reader(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)
        .map_err(|error| cant_open(path, &error.to_string()))?;
    conn.busy_timeout(Duration::from_secs(BUSY_TIMEOUT_SECS))?;
    conn.pragma_update(None, "query_only", true)?;
    keep_plans(&conn)?;
    Ok(conn)
}

/// Keeps SQLite from planning a cached statement anew whenever another number is bound to its
/// `LIMIT`: parsing it cost more than running it.
pub(super) fn keep_plans(conn: &Connection) -> Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// Runs one read as one snapshot, and stops it when it takes too long.
pub(super) fn with_deadline<T>(
    conn: &mut Connection,
    read: impl FnOnce(&Connection) -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + Duration::from_secs(READ_MAX_SECS);
    conn.progress_handler(10_000, Some(move || deadline < Instant::now()))?;
    conn.execute_batch("BEGIN")?;
    let answer = read(conn);
    conn.execute_batch("ROLLBACK").ok();
    conn.progress_handler(0, None::<fn() -> bool>)?;
    answer
}

/// File systems whose locks SQLite can't trust.
const NETWORK_FILE_SYSTEMS: [&str; 11] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "afs",
    "ceph",
    "glusterfs",
    "lustre",
    "fuse.sshfs",
    "fuse.glusterfs",
];

fn refuse_network(path: &Path) -> Result<()> {
    // Elsewhere than on Linux there is no such list, and the check is left out.
    let Ok(mounts) = std::fs::read_to_string("/proc/self/mounts") else { return Ok(()) };
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let folder = absolute.ancestors().find_map(|it| it.canonicalize().ok()).unwrap_or(absolute);
    match file_system(&mounts, &folder) {
        Some(kind) if NETWORK_FILE_SYSTEMS.contains(&kind) => {
            Err(StoreError::NetworkFileSystem { path: path.to_owned(), kind: kind.to_owned() })
        }
        _ => Ok(()),
    }
}

/// The kind of the file system that `path` lies on, from the text of `/proc/mounts`.
fn file_system<'a>(mounts: &'a str, path: &Path) -> Option<&'a str> {
    let mut best: Option<(usize, &str)> = None;
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        let (Some(_), Some(point), Some(kind)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        // Spaces in a mount point are written in octal.
        let point = point.replace("\\040", " ");
        // The last mount on one point hides those before it.
        if path.starts_with(&point) && best.is_none_or(|(len, _)| len <= point.len()) {
            best = Some((point.len(), kind));
        }
    }
    best.map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_file_system(path: &str, expected: &str) {
        let mounts = "/dev/vda / ext4 rw 0 0\n\
                      host:/x /home nfs4 rw 0 0\n\
                      tmpfs /home/me/my\\040disk tmpfs rw 0 0\n\
                      //win/share /home/shared cifs rw 0 0\n";
        assert_eq!(file_system(mounts, Path::new(path)), Some(expected), "{path}");
    }

    #[test]
    fn the_longest_mount_point_decides() {
        check_file_system("/jobs.db", "ext4");
        check_file_system("/home/me/jobs.db", "nfs4");
        check_file_system("/home/me/my disk/jobs.db", "tmpfs");
        check_file_system("/home/shared/jobs.db", "cifs");
        check_file_system("/homestead/jobs.db", "ext4");
    }
}
