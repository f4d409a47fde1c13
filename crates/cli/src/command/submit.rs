//! `taskloom submit`: one job, durable when the command returns.

use std::cell::OnceCell;
use std::io::Read;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::Value;
use taskloom::{Error, Invocation, JobError, JobHandle, TaskSystem};

use super::Place;
use crate::args::SubmitArgs;
use crate::exit::{FAILED, INTERRUPTED, Usage};
use crate::print;

pub(super) async fn run(place: &Place, args: SubmitArgs) -> Result<ExitCode> {
    let system = TaskSystem::open(&place.store).connect().await?;
    let wait = args.wait;
    let invocation = invocation(args)?;
    let accepted = OnceCell::new();
    tokio::select! {
        // Interrupts are listened for before the job can be seen.
        biased;
        _ = tokio::signal::ctrl_c() => {
            match accepted.get() {
                Some(id) => eprintln!(
                    "job {id} goes on without this command; `taskloom jobs watch {id}`"
                ),
                None => eprintln!(
                    "the store has not answered; `taskloom jobs list` tells whether it has the job"
                ),
            }
            Ok(ExitCode::from(INTERRUPTED))
        }
        code = async {
            let handle = system.submit(invocation).await?;
            accepted.set(handle.id()).ok();
            if wait { told_end(place, handle).await } else { told_id(place, &handle) }
        } => code,
    }
}

fn told_id(place: &Place, handle: &JobHandle<Value>) -> Result<ExitCode> {
    if place.json {
        let duplicate = handle.is_duplicate();
        print::json(&serde_json::json!({"id": handle.id(), "duplicate": duplicate}))?;
    } else {
        let note = if handle.is_duplicate() { " (was there already)" } else { "" };
        print::line(format!("{}{note}", handle.id()))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn told_end(place: &Place, handle: JobHandle<Value>) -> Result<ExitCode> {
    let id = handle.id();
    match handle.await {
        Ok(result) => {
            print::json(&result)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error @ (JobError::Failed { .. } | JobError::Cancelled { .. })) => {
            if place.json {
                let error = serde_json::json!({"code": error.code(), "message": error.to_string()});
                eprintln!("{}", serde_json::json!({"id": id, "error": error}));
            } else {
                eprintln!("error: {error} [{}]", error.code());
            }
            Ok(ExitCode::from(FAILED))
        }
        Err(error) => Err(Error::from(error).into()),
    }
}

fn invocation(args: SubmitArgs) -> Result<Invocation<Value>> {
    let text = match args.args.as_str() {
        "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("reading standard input")?;
            text
        }
        other => match other.strip_prefix('@') {
            Some(path) => std::fs::read_to_string(path)
                .map_err(|error| Usage(format!("can't read {path}: {error}")))?,
            None => other.to_owned(),
        },
    };
    let value: Value = serde_json::from_str(&text).map_err(|error| {
        Usage(format!(
            "--args is no JSON: {error}; quote it for the shell, as in --args '{{\"url\": \"…\"}}'"
        ))
    })?;
    let mut invocation = Invocation::named(args.task, value)
        .queue(args.queue)
        .priority(args.priority)
        .after(args.after);
    if let Some(delay) = args.delay {
        invocation = invocation.delay(delay);
    }
    if let Some(n) = args.max_attempts {
        invocation = invocation.max_attempts(n);
    }
    if let Some(timeout) = args.timeout {
        invocation = invocation.timeout(timeout);
    }
    if let Some(key) = args.key {
        invocation = invocation.key(key);
    }
    if let Some(unique) = args.unique {
        invocation = invocation.unique(unique);
    }
    Ok(invocation)
}
