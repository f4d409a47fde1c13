//! A PostgreSQL server of one's own, for tests and for `taskloom torture`: made in a folder, reached
//! by a Unix socket, gone with the value, and with the process however that ends.

mod faults;
mod pooler;

pub use faults::Stop;
pub use pooler::PrivatePooler;

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Whether commits reach the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// As a server is shipped.
    Default,
    /// No fsync at all: for tests, which lose nothing with a power cut.
    None,
}

/// A server that runs as long as this value.
#[derive(Debug)]
pub struct PrivateServer {
    folder: PathBuf,
    programs: PathBuf,
    /// As whom its programs are run: a prefix, or nothing. It becomes the program, so that a
    /// signal to the server is one to what the keeper waits for.
    user: &'static str,
    /// What the server is started with.
    arguments: String,
    /// The port, when it is reached by TCP.
    port: Option<u16>,
    /// A shell that stops the server and removes the folder when its input ends.
    keeper: Child,
    n_databases: AtomicU32,
    /// Whether its databases lie on a disk of their own, which can be filled.
    has_disk: bool,
}

const START_MAX: Duration = Duration::from_secs(60);
const INITDB: &str = "initdb -D {at}/data -U postgres -A trust -N --locale=C.UTF-8 -E UTF8";
/// Room on the disk of its own, which is memory: only what is used is taken.
const DISK: &str = "4g";

impl PrivateServer {
    /// Makes and starts a server in a folder under `parent`.
    ///
    /// # Errors
    /// What is missing and how to install it, or what the server says.
    pub fn start(parent: &Path, durability: Durability) -> Result<PrivateServer, String> {
        Self::launch(parent, (INITDB, ""), &settings_of(durability))
    }

    /// As [`PrivateServer::start`], with the databases on a disk of their own that can be filled,
    /// where this process may make one: as root, on Linux.
    ///
    /// # Errors
    /// As [`PrivateServer::start`].
    pub fn start_with_disk(parent: &Path, durability: Durability) -> Result<PrivateServer, String> {
        // Where there may be no mount, the disk is left out.
        let mount = format!(
            "mkdir {{at}}/disk && mount -t tmpfs -o size={DISK},mode=0700,uid=postgres tmpfs \
             {{at}}/disk 2> /dev/null && touch {{at}}/has-disk\n"
        );
        let mut server = Self::launch(parent, (INITDB, &mount), &settings_of(durability))?;
        if server.folder.join("has-disk").exists() {
            let at = server.folder.join("disk");
            server
                .psql("postgres", &format!("CREATE TABLESPACE disk LOCATION '{}'", at.display()))?;
            server.has_disk = true;
        }
        Ok(server)
    }

    /// The same, reached by TCP too, on a free port of this machine, with settings of its own: for
    /// what does not go through a Unix socket.
    ///
    /// # Errors
    /// As [`PrivateServer::start`]; the port may be taken by another at the last moment.
    pub fn start_on_tcp(parent: &Path, settings: &[(&str, &str)]) -> Result<PrivateServer, String> {
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr());
        let port = free.map_err(|error| error.to_string())?.port().to_string();
        let mut all = settings_of(Durability::None);
        all.extend([("port", &*port), ("listen_addresses", "localhost")]);
        all.extend(settings);
        Self::launch(parent, (INITDB, ""), &all)
    }

    /// The port of a server that is reached by TCP.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(5432)
    }

    /// The folder of its files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes the folder of the data by `make`, after `first` has been done as the own user, and
    /// starts a server on it; `{at}` is the folder of all.
    fn launch(
        parent: &Path,
        (make, first): (&str, &str),
        settings: &[(&str, &str)],
    ) -> Result<PrivateServer, String> {
        let programs = programs()?;
        let folder =
            parent.join(format!("tkl-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]));
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let (at, bin) = (folder.display(), programs.display());
        // The server refuses to run as root.
        let is_root = std::fs::metadata("/proc/self").is_ok_and(|it| it.uid() == 0);
        let (give, user) = match is_root {
            true => (
                format!("chown postgres {at}\n"),
                "setpriv --reuid=postgres --regid=postgres --init-groups ",
            ),
            false => (String::new(), ""),
        };
        let mut arguments = format!("-k {at}");
        let port = settings.iter().find(|it| it.0 == "port").and_then(|it| it.1.parse().ok());
        if port.is_none() {
            arguments.push_str(" -c listen_addresses=");
        }
        for (name, value) in settings {
            write!(arguments, " -c {name}={value}").map_err(|error| error.to_string())?;
        }
        let [make, first] = [make, first].map(|it| it.replace("{at}", &at.to_string()));
        // A server that was frozen hears nothing before it goes on.
        let script = format!(
            "{give}{first}{user}test -w {at} || {{ echo 'the user postgres may not pass through to \
             {at}: run this in a folder that is open to all (chmod a+x), or not as root' > {at}/log; \
             exit 1; }}\n\
             {user}{bin}/{make} > {at}/log 2>&1 || exit 1\n\
             {user}{bin}/postgres -D {at}/data {arguments} >> {at}/log 2>&1 &\n\
             kept=\n\
             while read -r word; do case $word in keep) kept=1 ;; esac; done\n\
             first=$(head -n 1 {at}/data/postmaster.pid 2> /dev/null)\n\
             [ -z \"$first\" ] || kill -CONT $first $(cat /proc/$first/task/*/children) 2> /dev/null\n\
             {user}{bin}/pg_ctl -D {at}/data stop -m immediate > /dev/null 2>&1\n\
             wait\n[ -z \"$kept\" ] || exit\n\
             [ ! -d {at}/small ] || umount {at}/small\n\
             [ ! -e {at}/has-disk ] || umount {at}/disk\nrm -rf {at}\n"
        );
        // A group of its own: Ctrl-C is for the program, which ends the server in good order.
        let mut shell = Command::new("sh");
        let shell = shell.arg("-c").arg(script).stdin(Stdio::piped()).process_group(0).spawn();
        let keeper = shell.map_err(|error| format!("no shell: {error}"))?;
        let n_databases = AtomicU32::new(0);
        let mut server = PrivateServer {
            folder,
            programs,
            user,
            arguments,
            port,
            keeper,
            n_databases,
            has_disk: false,
        };
        server.wait()?;
        Ok(server)
    }

    fn wait(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + START_MAX;
        while !self.is_up() {
            let has_ended = self.keeper.try_wait().map_err(|error| error.to_string())?.is_some();
            if has_ended || deadline < Instant::now() {
                let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                return Err(format!("the private PostgreSQL server did not start:\n{log}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn is_up(&self) -> bool {
        self.psql("postgres", "SELECT 1").is_ok_and(|it| it == "1")
    }

    /// Makes an empty database and returns its address.
    ///
    /// # Errors
    /// What the server says.
    pub fn database(&self) -> Result<String, String> {
        let name = format!("db{}", self.n_databases.fetch_add(1, Ordering::Relaxed));
        let place = if self.has_disk { " TABLESPACE disk" } else { "" };
        self.psql("postgres", &format!("CREATE DATABASE {name}{place}"))?;
        Ok(self.url(&name))
    }

    /// The address of a database, by the Unix socket.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let folder = self.folder.display().to_string().replace('/', "%2F");
        let port = self.port.unwrap_or(5432);
        format!("postgres://postgres@{folder}:{port}/{database}")
    }

    /// Says one statement to a database, and returns what it answers.
    ///
    /// # Errors
    /// What the server says.
    pub fn psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let port = self.port.unwrap_or(5432).to_string();
        let output = Command::new(self.programs.join("psql"))
            .args(["-h", &self.folder.display().to_string(), "-p", &port])
            .args(["-U", "postgres", "-XAtq"])
            .args(["-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql])
            .output()
            .map_err(|error| format!("psql: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// The process id of the server's first process.
    ///
    /// # Errors
    /// When the server is gone.
    pub fn pid(&self) -> Result<u32, String> {
        let file = std::fs::read_to_string(self.folder.join("data/postmaster.pid"));
        let file = file.map_err(|error| error.to_string())?;
        file.lines().next().and_then(|it| it.trim().parse().ok()).ok_or("no process id".into())
    }
}

impl PrivateServer {
    /// Ends the server and leaves its folder as it is.
    ///
    /// # Errors
    /// When nobody is there to do it any more.
    pub fn keep(mut self) -> Result<PathBuf, String> {
        let input = self.keeper.stdin.as_mut().ok_or("the keeper of the server is gone")?;
        writeln!(input, "keep").map_err(|error| error.to_string())?;
        Ok(self.folder.clone())
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        // The end of its input tells the keeper.
        drop(self.keeper.stdin.take());
        self.keeper.wait().ok();
    }
}

fn settings_of<'s>(durability: Durability) -> Vec<(&'s str, &'s str)> {
    let mut settings = vec![
        ("max_connections", "300"),
        ("shared_buffers", "128MB"),
        ("log_min_messages", "error"),
    ];
    match durability {
        Durability::Default => settings.push(("max_wal_size", "4GB")),
        Durability::None => {
            settings.extend([("fsync", "off"), ("full_page_writes", "off")]);
        }
    }
    settings
}

/// The folder of the server's programs: the newest that Debian keeps, or the one in `PATH`.
fn programs() -> Result<PathBuf, String> {
    let version = |it: &PathBuf| -> u32 {
        it.file_name().and_then(|it| it.to_str()?.parse().ok()).unwrap_or(0)
    };
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = installed.map(|it| it.path()).max_by_key(version).map(|it| it.join("bin"));
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&in_path).collect::<Vec<_>>();
    let has_all = |it: &PathBuf| it.join("initdb").exists() && it.join("postgres").exists();
    newest.into_iter().chain(in_path).find(has_all).ok_or_else(|| {
        "PostgreSQL is not installed (Debian, Ubuntu: sudo apt-get install postgresql)".to_owned()
    })
}
