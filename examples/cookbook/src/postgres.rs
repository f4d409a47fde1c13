//! A PostgreSQL of one's own: it listens on a socket in its folder, and is gone with this.
//!
//! PostgreSQL refuses to run as root. There its programs run as the user `postgres`, whom the
//! package has made.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use taskloom_flow::BoxError;
use tempfile::TempDir;
use tokio_postgres::NoTls;

use crate::process::Process;

const MISSING: &str =
    "PostgreSQL is missing. Install it (Debian, Ubuntu: sudo apt-get install postgresql)";
/// Debian keeps the programs of a server here, in a folder for each version.
const VERSIONS: &str = "/usr/lib/postgresql";
const SUPERUSER: &str = "cookbook";

/// A running PostgreSQL with an empty database. Dropping this ends it; nothing is kept.
#[derive(Debug)]
pub struct Postgres {
    // Dropped before the folder it works in.
    _server: Process,
    folder: TempDir,
}

impl Postgres {
    /// Makes a database and starts a server for it, which answers when this returns.
    ///
    /// # Errors
    /// When PostgreSQL is not installed, with a word on how to install it, or when it does not
    /// start, with its own words.
    ///
    /// # Cancel safety
    /// Safe: dropping this future ends what was started.
    pub async fn start() -> Result<Postgres, BoxError> {
        let init =
            ["-D", "data", "-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--no-locale", "-N"];
        let stop = ["stop", "-D", "data", "-m", "immediate"];

        let (folder, user) = folder()?;
        let socket = folder.path().to_str().ok_or("a temporary folder with a name in UTF-8")?;
        // It lives for a test: what it writes need not reach the disk (`-N`, `-F`).
        let run = ["-D", "data", "-k", socket, "-c", "listen_addresses=", "-F"];
        let programs = Programs { path: path(), user, folder: folder.path() };
        let explain = |it| format!("initdb: {it}. {MISSING}");
        let status = tokio::process::Command::from(programs.command("initdb", &init)?)
            .kill_on_drop(true)
            .status()
            .await
            .map_err(explain)?;
        if !status.success() {
            return Err(programs.words("initdb", &status.to_string()));
        }
        let stop = programs.command("pg_ctl", &stop)?;
        let mut server = Process::spawn(&mut programs.command("postgres", &run)?, Some(stop))?;
        let config = config(folder.path());
        let answered = server.answers(async || Ok(config.connect(NoTls).await.map(drop)?)).await;
        answered.map_err(|it| programs.words("postgres", &it.to_string()))?;
        Ok(Postgres { _server: server, folder })
    }

    /// How to connect to it.
    #[must_use]
    pub fn config(&self) -> tokio_postgres::Config {
        config(self.folder.path())
    }
}

fn config(folder: &Path) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host_path(folder).user(SUPERUSER).dbname("postgres");
    config
}

/// The programs of one version, as they run in a folder.
struct Programs<'a> {
    /// Where they are; without it, wherever `PATH` leads.
    path: Option<PathBuf>,
    user: Option<User>,
    folder: &'a Path,
}

impl Programs<'_> {
    /// A program that writes what it says to a file: a pipe that nobody reads fills up.
    fn command(&self, name: &str, arguments: &[&str]) -> Result<Command, BoxError> {
        let mut command = Command::new(self.path.as_deref().unwrap_or(Path::new("")).join(name));
        command.args(arguments).current_dir(self.folder);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(self.log(name))?);
        if let Some(User { uid, gid }) = self.user {
            command.uid(uid).gid(gid);
        }
        Ok(command)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join(name).with_extension("log")
    }

    /// What a program that failed had to say.
    fn words(&self, name: &str, failure: &str) -> BoxError {
        let words = fs::read_to_string(self.log(name)).unwrap_or_default();
        format!("{name}: {failure}\n{words}").into()
    }
}

/// Whom the programs run as.
#[derive(Debug, Clone, Copy)]
struct User {
    uid: u32,
    gid: u32,
}

/// A folder that its programs may use, and whom they run as instead of root.
fn folder() -> Result<(TempDir, Option<User>), BoxError> {
    let folder = tempfile::tempdir()?;
    if folder.path().metadata()?.uid() != 0 {
        return Ok((folder, None));
    }
    let user = User { uid: id_of_postgres("-u")?, gid: id_of_postgres("-g")? };
    // Root's own folder for temporary files may be closed to others.
    let folder = tempfile::tempdir_in("/tmp")?;
    chown(&folder, Some(user.uid), Some(user.gid))?;
    Ok((folder, Some(user)))
}

fn id_of_postgres(option: &str) -> Result<u32, BoxError> {
    let output = Command::new("id").args([option, "postgres"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.trim().parse().map_err(|_| MISSING)?)
}

/// The programs of the newest version in Debian's place for them.
fn path() -> Option<PathBuf> {
    let versions = fs::read_dir(VERSIONS).ok()?.flatten();
    let paths = versions.filter_map(|it| {
        let number: u32 = it.file_name().to_str()?.parse().ok()?;
        let path = it.path().join("bin");
        path.join("initdb").exists().then_some((number, path))
    });
    paths.max().map(|(_, path)| path)
}
