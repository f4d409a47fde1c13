//! The worker processes: starts them, does to them what it is told, and remembers what that was.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use taskloom::{Clock, SystemClock};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::args::{Role, Sabotage};

/// What a file may grow to while the disk of a worker is full, in bytes.
#[cfg(target_os = "linux")]
const FULL_AT: u64 = 64 * 1024;

/// A worker is replaced this long after its start at the earliest.
const LIVES_MIN: Duration = Duration::from_millis(300);

/// How workers are started.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) store: String,
    /// Where the notes and the logs of the workers lie.
    pub(super) folder: PathBuf,
    pub(super) seed: u64,
    pub(super) sabotage: Option<Sabotage>,
}

impl Recipe {
    /// The file with the notes of all workers.
    pub(super) fn notes(&self) -> PathBuf {
        self.folder.join("notes")
    }

    /// What worker process `number` logged.
    pub(super) fn log(&self, number: usize) -> PathBuf {
        self.folder.join(format!("worker-{number}.log"))
    }
}

/// What was done to one worker process, and how it ended.
#[derive(Debug, Clone, Default)]
pub(super) struct Life {
    /// When it was killed, in milliseconds since 1970.
    pub(super) killed: Option<i64>,
    /// Whether it was told to drain.
    pub(super) is_drained: bool,
    /// When it was stopped, from and until, in milliseconds since 1970.
    pub(super) pauses: Vec<(i64, i64)>,
    /// How it ended; `None`: it goes on.
    pub(super) end: Option<ExitStatus>,
}

impl Life {
    /// Why it ended in a way that nothing done to it explains.
    pub(super) fn strange_end(&self) -> Option<String> {
        let end = self.end?;
        let is_strange = match (end.code(), end.signal()) {
            (Some(0), _) => !self.is_drained,
            // The store could not be used: its code is in the log.
            (Some(code), _) => code != i32::from(crate::exit::STORE),
            (None, signal) => match signal {
                Some(it) if it == Signal::KILL.as_raw() => self.killed.is_none(),
                // Told to drain before it listened.
                Some(it) if it == Signal::TERM.as_raw() => !self.is_drained,
                _ => true,
            },
        };
        is_strange.then(|| end.to_string())
    }
}

/// A place for a worker, and the process in it.
#[derive(Debug)]
struct Place {
    child: Child,
    number: usize,
    started: Instant,
    /// Since when it is stopped, in milliseconds since 1970.
    paused: Option<i64>,
}

/// The worker processes of a run. Dropping it kills them.
#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) recipe: Recipe,
    places: Vec<Place>,
    /// By the number of the process.
    pub(super) lives: Vec<Life>,
}

impl Fleet {
    /// Starts `n` workers.
    pub(super) fn start(recipe: Recipe, n: usize) -> Result<Fleet> {
        // A run that is cut short before a worker noted anything has notes too: none.
        File::create(recipe.notes()).context("the notes")?;
        let mut fleet = Fleet { recipe, places: Vec::new(), lives: Vec::new() };
        fleet.fill(n, Role::Storm)?;
        Ok(fleet)
    }

    /// Starts `n` workers in places that are all empty.
    pub(super) fn fill(&mut self, n: usize, role: Role) -> Result<()> {
        for _ in 0..n {
            let place = self.spawn(role)?;
            self.places.push(place);
        }
        Ok(())
    }

    fn spawn(&mut self, role: Role) -> Result<Place> {
        let number = self.lives.len();
        let Recipe { store, seed, sabotage, .. } = &self.recipe;
        let log = self.recipe.log(number);
        let log = File::options().create(true).append(true).open(&log).context("a worker's log")?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--store", store, "--json", "--log", "warn", "torture-worker"]);
        command.arg("--role").arg(role.as_str()).arg("--notes").arg(self.recipe.notes());
        command.arg("--number").arg(number.to_string());
        let seed = seed.wrapping_mul(1_000_003).wrapping_add(number as u64 * 10);
        command.arg("--seed").arg(seed.to_string());
        if let Some(sabotage) = sabotage {
            command.arg("--sabotage").arg(sabotage.as_str());
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // A group of its own: Ctrl-C is for the command, which ends its workers in good order.
        command.process_group(0).kill_on_drop(true);
        let child = command.spawn().context("a worker can't be started")?;
        self.lives.push(Life::default());
        Ok(Place { child, number, started: Instant::now(), paused: None })
    }

    fn signal(&self, place: usize, signal: Signal) {
        let id = self.places[place].child.id().and_then(|it| i32::try_from(it).ok());
        if let Some(pid) = id.and_then(Pid::from_raw) {
            // It may have ended just now, which is found out by looking after it.
            kill_process(pid, signal).ok();
        }
    }

    pub(super) fn kill(&mut self, place: usize) {
        let life = &mut self.lives[self.places[place].number];
        life.killed.get_or_insert(SystemClock.now().as_millis());
        self.signal(place, Signal::KILL);
    }

    pub(super) fn drain(&mut self, place: usize) {
        self.lives[self.places[place].number].is_drained = true;
        self.signal(place, Signal::TERM);
    }

    pub(super) fn pause(&mut self, place: usize) {
        self.places[place].paused.get_or_insert(SystemClock.now().as_millis());
        self.signal(place, Signal::STOP);
    }

    pub(super) fn go_on(&mut self, place: usize) {
        let Some(since) = self.places[place].paused.take() else { return };
        let life = &mut self.lives[self.places[place].number];
        life.pauses.push((since, SystemClock.now().as_millis()));
        self.signal(place, Signal::CONT);
    }

    /// Sets or lifts the limit on what the files of a worker may grow to.
    pub(super) fn limit(&self, place: usize, is_full: bool) {
        #[cfg(target_os = "linux")]
        {
            use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
            let own = getrlimit(Resource::Fsize);
            let limit = if is_full { Rlimit { current: Some(FULL_AT), ..own } } else { own };
            let id = self.places[place].child.id().and_then(|it| i32::try_from(it).ok());
            if let Some(pid) = id.and_then(Pid::from_raw) {
                prlimit(Some(pid), Resource::Fsize, limit).ok();
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (place, is_full);
    }

    /// Puts a new process where one has ended.
    pub(super) fn replace_ended(&mut self, role: Role) -> Result<()> {
        for place in 0..self.places.len() {
            // One that can't reach its store ends at once, and so would the next.
            if self.places[place].started.elapsed() < LIVES_MIN {
                continue;
            }
            let Some(end) = self.places[place].child.try_wait()? else { continue };
            self.go_on(place);
            self.lives[self.places[place].number].end = Some(end);
            self.places[place] = self.spawn(role)?;
        }
        Ok(())
    }

    /// Takes every fault back and drains every worker. Gives the numbers of those that have not
    /// ended by the `deadline`; they are killed.
    pub(super) async fn stop(&mut self, deadline: Duration) -> Result<Vec<usize>> {
        for place in 0..self.places.len() {
            self.limit(place, false);
            self.go_on(place);
            self.drain(place);
        }
        let at = Instant::now() + deadline;
        let mut late = Vec::new();
        for mut place in std::mem::take(&mut self.places) {
            let life = &mut self.lives[place.number];
            match taskloom_flow::deadline(at, place.child.wait()).await {
                Ok(end) => life.end = Some(end?),
                Err(_) => {
                    late.push(place.number);
                    life.killed.get_or_insert(SystemClock.now().as_millis());
                    place.child.kill().await?;
                    life.end = place.child.try_wait()?;
                }
            }
        }
        Ok(late)
    }
}

/// Where a run keeps its files; it stays until [`Folder::remove`].
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// A new one beside the working directory: a disk is what is tortured, not memory.
    pub(super) fn new() -> Result<Folder> {
        let folder = PathBuf::from(format!(".taskloom-torture-{}", std::process::id()));
        std::fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        Ok(Folder(folder))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn remove(self) {
        std::fs::remove_dir_all(self.0).ok();
    }
}
