//! The real binary in a folder of its own, with a store there.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::Running;

/// Where commands run, and the store they share.
pub(crate) struct Cli {
    folder: TempDir,
    /// What the environment says.
    store: Option<String>,
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// The exit code as a shell sees it.
pub(crate) fn code_of(status: ExitStatus) -> i32 {
    status.code().or(status.signal().map(|it| 128 + it)).expect("it has ended")
}

impl Cli {
    pub(crate) fn new() -> Cli {
        Cli::with_store("sqlite://jobs.db")
    }

    /// As for somebody whose store is elsewhere.
    pub(crate) fn with_store(store: &str) -> Cli {
        Cli { store: Some(store.to_owned()), ..Cli::without_store() }
    }

    /// As for somebody who has named no store.
    pub(crate) fn without_store() -> Cli {
        let folder = tempfile::tempdir().expect("the system gives us a folder");
        Cli { folder, store: None }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_taskloom"));
        command.args(args).current_dir(self.folder());
        command.env_remove("TASKLOOM_STORE").env_remove("TASKLOOM_LOG");
        command.envs(self.store.as_ref().map(|it| ("TASKLOOM_STORE", it)));
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Answer {
        let output = self.command(args).output().expect("the program starts");
        Answer {
            code: code_of(output.status),
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
        }
    }

    /// Runs a command that must succeed, and gives its output.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let answer = self.run(args);
        assert_eq!(answer.code, 0, "{args:?}: {answer:?}");
        answer.out.trim_end().to_owned()
    }

    /// Runs a command that must succeed and prints one JSON value.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let out = self.ok(&[args, &["--json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{args:?}: {error}: {out}"))
    }

    /// Starts a command that goes on.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        Running::start(&mut self.command(args))
    }

    /// Starts a node, and returns once it works.
    pub(crate) fn serve(&self, args: &[&str]) -> Running {
        let running = self.start(&[&["serve"], args].concat());
        running.out.with("serving");
        running
    }

    /// Submits a job of the task http, and gives its id.
    pub(crate) fn submit(&self, url: &str, args: &[&str]) -> String {
        let http_args = serde_json::json!({ "url": url }).to_string();
        self.ok(&[&["submit", "http", "--args", &http_args], args].concat())
    }
}
