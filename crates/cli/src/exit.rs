//! Exit codes, and how an error is told.

use std::process::ExitCode;

use taskloom::{Error, JobError, StoreError};

/// A job failed or was cancelled, something is wrong in the store, or a promise was broken.
pub(crate) const FAILED: u8 = 1;
/// The command line or what it names is wrong (also clap's own code).
pub(crate) const USAGE: u8 = 2;
/// The store can't be used.
pub(crate) const STORE: u8 = 3;
/// There is no such job.
pub(crate) const NOT_FOUND: u8 = 4;
/// Stopped by Ctrl-C; what is left is durable.
pub(crate) const INTERRUPTED: u8 = 130;

/// The codes, as every help page shows them.
pub(crate) const HELP: &str = "Exit codes:\n  0    done\n  1    a job failed or was cancelled, or a \
    check found something wrong\n  2    wrong usage or bad input\n  3    the store can't be used\n  4    no such job\n  130  \
    stopped by Ctrl-C; what is left is durable";

/// An error of what the user gave.
#[derive(Debug, Clone)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// A job that the store doesn't have.
#[derive(Debug, Clone)]
pub(crate) struct NotFound(pub(crate) String);

impl std::fmt::Display for NotFound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "there is no job {} in this store; `taskloom jobs list` shows those there are",
            self.0
        )
    }
}

impl std::error::Error for NotFound {}

fn classify(error: &anyhow::Error) -> (u8, &'static str) {
    if error.is::<Usage>() {
        return (USAGE, "cli.usage");
    }
    if error.is::<NotFound>() {
        return (NOT_FOUND, "job.unknown");
    }
    if let Some(error) = error.downcast_ref::<Error>() {
        return match error {
            Error::Store(store) => (of_store(store), store.code()),
            Error::Job(JobError::Unknown { .. }) => (NOT_FOUND, error.code()),
            Error::Job(_) => (FAILED, error.code()),
            _ => (USAGE, error.code()),
        };
    }
    if let Some(error) = error.downcast_ref::<StoreError>() {
        return (of_store(error), error.code());
    }
    if let Some(error) = error.downcast_ref::<JobError>() {
        return (FAILED, error.code());
    }
    (FAILED, "cli.failed")
}

fn of_store(error: &StoreError) -> u8 {
    match error {
        StoreError::TooLarge { .. }
        | StoreError::Empty { .. }
        | StoreError::UnknownDependency { .. }
        | StoreError::Policy(_)
        | StoreError::Args { .. }
        | StoreError::Url { .. } => USAGE,
        _ => STORE,
    }
}

/// Tells the error on standard error, as JSON when that is wanted, and gives the exit code.
pub(crate) fn report(error: &anyhow::Error, json: bool) -> ExitCode {
    if is_closed_pipe(error) {
        // Whoever read the answer has read enough, as `head` does.
        return ExitCode::SUCCESS;
    }
    let (exit, code) = classify(error);
    if json {
        let message = format!("{error:#}");
        eprintln!("{}", serde_json::json!({"error": {"code": code, "message": message}}));
    } else {
        eprintln!("error: {error:#} [{code}]");
    }
    ExitCode::from(exit)
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let kind = match error.downcast_ref::<serde_json::Error>() {
        Some(error) => error.io_error_kind(),
        None => error.downcast_ref::<std::io::Error>().map(std::io::Error::kind),
    };
    kind == Some(std::io::ErrorKind::BrokenPipe)
}
