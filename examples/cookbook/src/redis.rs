//! A Redis server of one's own: it listens on a socket in its folder, and is gone with this.

use std::io;
use std::process::{Command, Stdio};

use taskloom_flow::BoxError;
use tempfile::TempDir;
use tokio::net::UnixStream;

use crate::process::Process;

/// A running `redis-server`. Dropping this ends it; nothing is kept.
#[derive(Debug)]
pub struct Redis {
    // Dropped before the folder it works in.
    _server: Process,
    folder: TempDir,
}

impl Redis {
    /// Starts one and waits until it listens.
    ///
    /// # Errors
    /// When `redis-server` is not installed, with a word on how to install it, or when it does
    /// not start.
    ///
    /// # Cancel safety
    /// Safe: dropping this future ends the server.
    pub async fn start() -> Result<Redis, BoxError> {
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("redis.sock");
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--unixsocket"]).arg(&socket);
        command.current_dir(&folder).stdin(Stdio::null()).stdout(Stdio::null());
        let mut server = Process::spawn(&mut command, None).map_err(explain)?;
        let answered = server.answers(async || Ok(UnixStream::connect(&socket).await?)).await;
        answered.map_err(|it| format!("redis-server: {it}"))?;
        Ok(Redis { _server: server, folder })
    }

    /// What `redis::Client::open` takes.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis+unix://{}/redis.sock", self.folder.path().display())
    }
}

fn explain(error: io::Error) -> BoxError {
    if error.kind() != io::ErrorKind::NotFound {
        return error.into();
    }
    "redis-server is missing. Install it (Debian, Ubuntu: sudo apt-get install redis-server)".into()
}
