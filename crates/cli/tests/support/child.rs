//! A child process: its lines as they come, with a deadline, and its signals.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// How long a wait may last before the test is broken; far over what it should take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many lines may wait to be read; then the child waits at its pipe.
const LINES_MAX: usize = 10_000;

/// The lines of a pipe, as they come.
pub(crate) struct Lines(Receiver<String>);

/// Hands on whole lines; one that was cut off by a kill was never said.
fn read_lines(pipe: impl Read, lines: &SyncSender<String>) {
    let mut pipe = BufReader::new(pipe);
    let mut line = String::new();
    while pipe.read_line(&mut line).is_ok_and(|n| 0 < n) && line.ends_with('\n') {
        if lines.send(line.trim_end().to_owned()).is_err() {
            return;
        }
        line.clear();
    }
}

impl Lines {
    fn of(pipe: impl Read + Send + 'static) -> Lines {
        let (sender, lines) = sync_channel(LINES_MAX);
        std::thread::spawn(move || read_lines(pipe, &sender));
        Lines(lines)
    }

    /// The next line; `None` after the last.
    pub(crate) fn next(&self) -> Option<String> {
        match self.0.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no line for {PATIENCE:?}"),
        }
    }

    /// Reads on until a line is as wanted, and gives it.
    pub(crate) fn with(&self, wanted: &str) -> String {
        let mut line = std::iter::from_fn(|| self.next());
        let line = line.find(|it| it.contains(wanted));
        line.unwrap_or_else(|| panic!("it ended without `{wanted}`"))
    }

    /// What comes until the end.
    pub(crate) fn rest(&self) -> Vec<String> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

/// A child process. Dropping it kills it.
pub(crate) struct Running {
    child: Child,
    pub(crate) out: Lines,
    pub(crate) err: Lines,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Running {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let out = Lines::of(child.stdout.take().expect("it is piped"));
        let err = Lines::of(child.stderr.take().expect("it is piped"));
        Running { child, out, err }
    }

    /// Sends it a signal by name: `INT`, `TERM`, `KILL`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.expect("there is a kill").success());
    }

    /// Waits for its end, and gives what it still said: its output, and what it told of errors.
    pub(crate) fn end(&mut self) -> (ExitStatus, Vec<String>, Vec<String>) {
        let (out, err) = (self.out.rest(), self.err.rest());
        (self.child.wait().expect("it has ended"), out, err)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
