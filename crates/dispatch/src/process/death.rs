//! What became of a child that ended without saying how its attempt did.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::Signal;

use crate::TaskError;

/// How many lines of its output go into the error; the log of the attempt has more.
const LINES_TOLD: usize = 20;
/// What allocators print before they abort.
const ALLOCATION_FAILED: [&str; 2] = ["memory allocation of", "bad_alloc"];
const SIGNALS: [(Signal, &str); 12] = [
    (Signal::ABORT, "SIGABRT"),
    (Signal::SEGV, "SIGSEGV"),
    (Signal::KILL, "SIGKILL"),
    (Signal::BUS, "SIGBUS"),
    (Signal::ILL, "SIGILL"),
    (Signal::FPE, "SIGFPE"),
    (Signal::TRAP, "SIGTRAP"),
    (Signal::SYS, "SIGSYS"),
    (Signal::XCPU, "SIGXCPU"),
    (Signal::TERM, "SIGTERM"),
    (Signal::INT, "SIGINT"),
    (Signal::HUP, "SIGHUP"),
];

/// What is known of a child that ended.
#[derive(Debug)]
pub(super) struct Death {
    /// `None`: it could not be learned, or it lives on against our wish.
    pub(super) status: Option<ExitStatus>,
    /// Whether it came to the task.
    pub(super) has_begun: bool,
    /// The cap on its memory, in bytes.
    pub(super) memory: Option<u64>,
    /// The most memory it was seen with, in bytes.
    pub(super) peak: Option<u64>,
    /// What it printed last.
    pub(super) output: Vec<String>,
}

impl Death {
    /// The error of its attempt.
    pub(super) fn error(&self) -> TaskError {
        let (how, peak) = (self.how(), self.peak_told());
        let signal = self.status.and_then(|it| it.signal());
        let error = match (self.memory, signal) {
            _ if !self.has_begun => {
                let message = format!(
                    "{how} before it came to the task: a child runs `main` up to \
                     `TaskSystem::start` or `run_child_if_asked`"
                );
                return self.shown(message).code("task.process.start");
            }
            (Some(memory), Some(n)) if n == Signal::ABORT.as_raw() && self.lacked_memory() => {
                let memory = Bytes(memory);
                let message = format!("the body needed more memory than its {memory}: {how}{peak}");
                return self.shown(message).code("task.out_of_memory");
            }
            (_, Some(n)) if n == Signal::KILL.as_raw() => {
                let by = "by somebody else or by a system out of memory";
                self.shown(format!("{how}, {by}{peak}"))
            }
            _ => self.shown(format!("{how} and gave no result{peak}")),
        };
        error.code(match signal {
            Some(_) => "task.process.killed",
            None => "task.process.exited",
        })
    }

    /// How it ended, in one line, for the log.
    pub(super) fn told(&self) -> String {
        format!("{}{}", self.how(), self.peak_told())
    }

    fn how(&self) -> String {
        match self.status.map(|it| (it.code(), it.signal())) {
            Some((Some(code), _)) => format!("the child exited with code {code}"),
            Some((None, Some(n))) => {
                let name = SIGNALS.iter().find(|(it, _)| it.as_raw() == n).map(|(_, name)| *name);
                format!("the child was killed by {} ({n})", name.unwrap_or("a signal"))
            }
            Some((None, None)) | None => "the child is gone".to_owned(),
        }
    }

    fn peak_told(&self) -> String {
        self.peak.map_or_else(String::new, |it| format!(", with a peak memory of {}", Bytes(it)))
    }

    fn lacked_memory(&self) -> bool {
        let says = |line: &String| ALLOCATION_FAILED.iter().any(|it| line.contains(it));
        self.output.iter().rev().take(LINES_TOLD).any(says)
    }

    fn shown(&self, message: String) -> TaskError {
        let from = self.output.len().saturating_sub(LINES_TOLD);
        let last = &self.output[from..];
        if last.is_empty() {
            return TaskError::new(message);
        }
        TaskError::new(format!("{message}; it printed last:\n{}", last.join("\n")))
    }
}

/// A number of bytes, for people.
struct Bytes(u64);

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (tenths, unit) = match self.0 {
            0..1_000_000 => (self.0 / 100, "kB"),
            1_000_000..1_000_000_000 => (self.0 / 100_000, "MB"),
            _ => (self.0 / 100_000_000, "GB"),
        };
        write!(f, "{}.{} {unit}", tenths / 10, tenths % 10)
    }
}
