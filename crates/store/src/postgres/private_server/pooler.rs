//! PgBouncer in front of a private server, in transaction mode.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{PrivateServer, START_MAX};

/// A pooler that runs as long as this value, reached by a Unix socket.
#[derive(Debug)]
pub struct PrivatePooler {
    folder: String,
    /// A shell that ends it when its own input ends.
    keeper: Child,
}

const PORT: u16 = 6432;

impl PrivatePooler {
    /// Starts a pooler with `n` connections to each database of `server`.
    ///
    /// # Errors
    /// How to install it, or what it says.
    pub fn start(server: &PrivateServer, n: usize) -> Result<PrivatePooler, String> {
        let program = "/usr/sbin/pgbouncer";
        if !Path::new(program).exists() {
            return Err("PgBouncer is not installed (Debian: apt-get install pgbouncer)".into());
        }
        let at = server.folder.display().to_string();
        let port = server.port();
        let settings = format!(
            "[databases]\n* = host={at} port={port} user=postgres\n[pgbouncer]\n\
             unix_socket_dir = {at}\nlisten_port = {PORT}\nauth_type = any\n\
             pool_mode = transaction\ndefault_pool_size = {n}\nmax_client_conn = 200\n\
             logfile = {at}/data/pgbouncer\n"
        );
        let file = format!("{at}/pgbouncer.ini");
        std::fs::write(&file, settings).map_err(|error| error.to_string())?;
        let user = server.user;
        let script = format!("{user}{program} -q {file} & read -r _\nkill $!\nwait\n");
        let shell = Command::new("sh").arg("-c").arg(script).stdin(Stdio::piped()).spawn();
        let keeper = shell.map_err(|error| format!("no shell: {error}"))?;
        let pooler = PrivatePooler { folder: at, keeper };
        let deadline = Instant::now() + START_MAX;
        while !Path::new(&format!("{}/.s.PGSQL.{PORT}", pooler.folder)).exists() {
            if deadline < Instant::now() {
                return Err("PgBouncer did not start".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(pooler)
    }

    /// The address of a database of the server, through the pooler, without saying so.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let folder = self.folder.replace('/', "%2F");
        format!("postgres://postgres@{folder}:{PORT}/{database}")
    }
}

impl Drop for PrivatePooler {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        self.keeper.wait().ok();
    }
}
