//! What happens to servers: they stop, restart, freeze, lose their disk, hand over to another.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::{PrivateServer, START_MAX};

/// How a server stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It ends every connection and writes down what it has.
    Fast,
    /// As a crash does.
    Immediate,
}

impl PrivateServer {
    /// Stops the server.
    ///
    /// # Errors
    /// What `pg_ctl` says.
    pub fn stop(&self, stop: Stop) -> Result<(), String> {
        let mode = match stop {
            Stop::Fast => "fast",
            Stop::Immediate => "immediate",
        };
        self.control(&format!("stop -m {mode}"))
    }

    /// Starts the server again after a stop.
    ///
    /// # Errors
    /// What `pg_ctl` says, with the server's log.
    pub fn start_again(&self) -> Result<(), String> {
        self.start_again_with("")
    }

    /// Starts the server again, with these arguments beside its own.
    ///
    /// # Errors
    /// What `pg_ctl` says, with the server's log.
    pub fn start_again_with(&self, more: &str) -> Result<(), String> {
        let (arguments, at) = (&self.arguments, self.folder.display());
        // Its output goes to a file, or it would be waited for.
        self.control(&format!("start -l {at}/data/again -o '{arguments} {more}' > {at}/ctl"))
    }

    /// Makes a standby take over.
    ///
    /// # Errors
    /// What `pg_ctl` says.
    pub fn promote(&self) -> Result<(), String> {
        self.control("promote")
    }

    fn control(&self, what: &str) -> Result<(), String> {
        let (user, bin, at) = (self.user, self.programs.display(), self.folder.display());
        run(&format!("{user}{bin}/pg_ctl -w -D {at}/data {what}"))
    }

    /// A second server that follows this one.
    ///
    /// # Errors
    /// What `pg_basebackup` says.
    pub fn standby(&self, parent: &Path) -> Result<PrivateServer, String> {
        let (from, bin) = (self.folder.display(), "pg_basebackup -U postgres -R -c fast");
        let make = format!("{bin} -h {from} -D {{at}}/data");
        Self::launch(parent, (&make, ""), &super::settings_of(super::Durability::None))
    }

    /// Ends the connections of Taskloom, and returns how many there were.
    ///
    /// # Errors
    /// What the server says.
    pub fn cut(&self) -> Result<usize, String> {
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
             WHERE application_name = 'taskloom'";
        self.psql("postgres", sql)?.parse().map_err(|_| "no number".to_owned())
    }

    /// Sets a setting of the whole server; `None` resets it.
    ///
    /// # Errors
    /// What the server says.
    pub fn set(&self, name: &str, value: Option<&str>) -> Result<(), String> {
        let set = match value {
            Some(value) => format!("ALTER SYSTEM SET {name} = '{value}'"),
            None => format!("ALTER SYSTEM RESET {name}"),
        };
        self.psql("postgres", &set)?;
        self.psql("postgres", "SELECT pg_reload_conf()").map(drop)
    }

    /// Stops all processes of the server in their tracks: it takes connections and never answers.
    ///
    /// # Errors
    /// When the server is gone.
    pub fn freeze(&self) -> Result<(), String> {
        self.signal("STOP")
    }

    /// Lets a frozen server go on.
    ///
    /// # Errors
    /// When the server is gone.
    pub fn thaw(&self) -> Result<(), String> {
        self.signal("CONT")?;
        let deadline = Instant::now() + START_MAX;
        while !self.is_up() {
            if deadline < Instant::now() {
                return Err("the server does not go on".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn signal(&self, name: &str) -> Result<(), String> {
        let first = self.pid()?;
        // One that ends at that moment is none to be told.
        let others = format!("kill -{name} $(cat /proc/{first}/task/*/children) 2> /dev/null");
        run(&format!("kill -{name} {first} && {{ {others}; true; }}"))
    }

    /// Whether [`PrivateServer::fill_disk`] can do anything.
    #[must_use]
    pub fn has_disk(&self) -> bool {
        self.has_disk
    }

    /// Leaves no room on the disk of the databases, or gives the room back.
    ///
    /// # Errors
    /// When it has no disk of its own, or what the system says.
    pub fn fill_disk(&self, is_full: bool) -> Result<(), String> {
        if !self.has_disk {
            return Err("the databases have no disk of their own".into());
        }
        let disk = self.folder.join("disk").display().to_string();
        let resize = |size: &str| run(&format!("mount -o remount,size={size} {disk}"));
        if !is_full {
            return resize(super::DISK);
        }
        let output = Command::new("df").args(["-k", "--output=used", &disk]).output();
        let output = output.map_err(|error| format!("df: {error}"))?;
        let used = String::from_utf8_lossy(&output.stdout);
        let used: u64 = used.lines().last().and_then(|it| it.trim().parse().ok()).ok_or("df")?;
        // It may grow between the look and the deed.
        resize(&format!("{used}k")).or_else(|_| resize(&format!("{}k", used + 256)))
    }

    /// A database on a disk of its own, of `megabytes`; its address and its folder.
    ///
    /// # Errors
    /// When this process may not mount a disk in memory.
    pub fn small_database(&self, megabytes: usize) -> Result<(String, PathBuf), String> {
        let small = self.folder.join("small");
        let at = small.display();
        run(&format!(
            "mkdir {at} && {{ mount -t tmpfs -o size={megabytes}m tmpfs {at} || \
             {{ rmdir {at}; exit 1; }}; }} && chown postgres {at} && chmod 700 {at}"
        ))?;
        self.psql("postgres", &format!("CREATE TABLESPACE small LOCATION '{at}'"))?;
        self.psql("postgres", "CREATE DATABASE small TABLESPACE small")?;
        Ok((self.url("small"), small))
    }
}

fn run(script: &str) -> Result<(), String> {
    let output = Command::new("sh").arg("-c").arg(script).output();
    let output = output.map_err(|error| format!("no shell: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stderr, output.stdout].concat();
    Err(format!("`{script}`: {}", String::from_utf8_lossy(&said)))
}
