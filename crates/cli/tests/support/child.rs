//! A child process: its lines as they come, with a deadline, and its signals.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// How long a wait may last before the test is broken; far over what it should take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many lines may wait to be read; then the child waits at its pipe.
const LINES_MAX: usize = 10_000;

/// A child process. Dropping it kills it.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    errors: Receiver<String>,
}

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

fn follow(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = sync_channel(LINES_MAX);
    std::thread::spawn(move || read_lines(pipe, &sender));
    lines
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Running {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let lines = follow(child.stdout.take().expect("it is piped"));
        let errors = follow(child.stderr.take().expect("it is piped"));
        Running { child, lines, errors }
    }

    /// The next line of its output; `None` after its end.
    pub(crate) fn line(&self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no line for {PATIENCE:?}"),
        }
    }

    /// Reads on until a line is as wanted, and gives it.
    pub(crate) fn line_with(&self, wanted: &str) -> String {
        loop {
            let Some(line) = self.line() else {
                panic!("it ended without `{wanted}`: {:?}", self.rest_of_errors());
            };
            if line.contains(wanted) {
                return line;
            }
        }
    }

    /// What it still says until its end.
    pub(crate) fn rest(&self) -> Vec<String> {
        std::iter::from_fn(|| self.line()).collect()
    }

    /// What it said on standard error, once it has ended.
    pub(crate) fn rest_of_errors(&self) -> Vec<String> {
        std::iter::from_fn(|| self.errors.recv_timeout(PATIENCE).ok()).collect()
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it has ended");
    }

    /// Sends it a signal by name: `INT`, `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.expect("there is a kill").success());
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let began = Instant::now();
        // It has ended, or is about to, once its output has.
        while let Some(_line) = self.line() {}
        assert!(began.elapsed() < PATIENCE, "its output goes on and on");
        self.child.wait().expect("it ends")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
