//! Starts children, and sees them end.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child as Process, Command, ExitStatus, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use taskloom_flow::Offload;
use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::oneshot;

use super::child::CHILD_VARIABLE;
use super::output::Output;

/// Starts children of this program, each on a thread that then waits for its end.
#[derive(Debug)]
pub(crate) struct Launcher {
    args: Vec<OsString>,
    threads: Offload,
}

/// A child under way. Dropping it kills it, with everything it has started.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) pid: u32,
    pub(super) line: UnixStream,
    pub(super) output: Output,
    /// Fires once the child has ended and nothing of its group is left; `None`: another part of the
    /// program has taken its exit status.
    pub(super) exited: oneshot::Receiver<Option<ExitStatus>>,
    pub(super) group: Group,
}

impl Launcher {
    /// Children get `args`, and at most `n` live at a time.
    pub(crate) fn new(args: Vec<OsString>, n: usize) -> Launcher {
        Launcher { args, threads: Offload::new("taskloom-process", n) }
    }

    /// Starts a child that is to run one attempt of `task`.
    ///
    /// # Cancel safety
    /// Safe: a child whose start was dropped is killed.
    pub(super) async fn launch(&self, task: &str) -> io::Result<Child> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let line = UnixStream::from_std(ours)?;
        let mut command = Command::new(program()?);
        command
            .args(&self.args)
            .env(CHILD_VARIABLE, task)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        if let Some(name) = std::env::args_os().next() {
            command.arg0(name);
        }
        let group = Group::default();
        let (born, is_born) = oneshot::channel();
        let (gone, exited) = oneshot::channel();
        let life = Arc::clone(&group.0);
        let whole_life = move || {
            let spawned = command.spawn();
            // It holds the child's end of the socket, which only the child may hold.
            drop(command);
            let mut process = match spawned {
                Ok(process) => process,
                Err(error) => return drop(born.send(Err(error))),
            };
            life.begin(&process);
            let pipes = (process.stdout.take(), process.stderr.take());
            born.send(Ok((process.id(), pipes))).ok();
            gone.send(life.end(&mut process).ok()).ok();
        };
        self.threads.try_submit(whole_life).map_err(io::Error::other)?;
        let (pid, (stdout, stderr)) = is_born.await.map_err(io::Error::other)??;
        let output = Output::new(pipe(stdout)?, pipe(stderr)?);
        Ok(Child { pid, line, output, exited, group })
    }
}

fn pipe(end: Option<impl Into<OwnedFd>>) -> io::Result<Receiver> {
    let end = end.ok_or_else(|| io::Error::other("the child has no pipe"))?;
    Receiver::from_owned_fd(end.into())
}

/// The program of this process. Where another file has taken its place since, as a deployment
/// does, it is the old one all the same: only that is sure to know the same tasks.
fn program() -> io::Result<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let path = std::env::current_exe()?;
    let own = PathBuf::from("/proc/self/exe");
    let file = |path: &PathBuf| std::fs::metadata(path).ok().map(|it| (it.dev(), it.ino()));
    let is_replaced = file(&own).is_some_and(|it| Some(it) != file(&path));
    Ok(if is_replaced { own } else { path })
}

/// The process group of a child. Dropping it kills the group.
#[derive(Debug, Default)]
pub(super) struct Group(Arc<Life>);

impl Group {
    /// Kills every process of it, now or as soon as it is born.
    pub(super) fn kill(&self) {
        let mut stage = self.0.stage.lock();
        match *stage {
            Stage::Unborn => *stage = Stage::Unwanted,
            Stage::Alive(pid) => kill(pid),
            Stage::Unwanted | Stage::Gone => {}
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How far a child's life has come. The lock is held while a signal is sent: a number that was
/// given back to the system may be another process's by then.
#[derive(Debug, Default)]
struct Life {
    stage: Mutex<Stage>,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Unborn,
    /// Killed before it was born.
    Unwanted,
    Alive(Pid),
    Gone,
}

impl Life {
    fn begin(&self, process: &Process) {
        let pid = Pid::from_child(process);
        let mut stage = self.stage.lock();
        if matches!(*stage, Stage::Unwanted) {
            kill(pid);
        }
        *stage = Stage::Alive(pid);
    }

    /// Waits for its end, and then ends what it has left behind.
    fn end(&self, process: &mut Process) -> io::Result<ExitStatus> {
        let pid = Pid::from_child(process);
        // Without reaping it: as long as it is a zombie, its number and its group's are its own.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while let Err(error) = waitid(WaitId::Pid(pid), options) {
            if error != rustix::io::Errno::INTR {
                break;
            }
        }
        let mut stage = self.stage.lock();
        kill(pid);
        *stage = Stage::Gone;
        process.wait()
    }
}

fn kill(pid: Pid) {
    // It can only say that nobody is left.
    kill_process_group(pid, Signal::KILL).ok();
}
