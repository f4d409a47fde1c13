//! `taskloom jobs`: look at jobs and act on them.

use std::collections::HashSet;
use std::process::ExitCode;

use anyhow::Result;
use taskloom::{
    Changed, Event, EventCursor, Filter, JobId, JobView, NodeView, Page, StateName, TaskSystem,
    Time,
};

use super::Place;
use crate::args::{JobsCommand, ListArgs};
use crate::exit::{FAILED, INTERRUPTED, NOT_FOUND, NotFound};
use crate::print;

/// How many lines of a log are shown.
const LOG_LINES: usize = 200;
/// How many events one read takes.
const EVENTS_MAX: usize = 1_000;

pub(super) async fn run(place: &Place, command: JobsCommand) -> Result<ExitCode> {
    let system = TaskSystem::open(&place.store).connect().await?;
    match command {
        JobsCommand::List(args) => list(place, &system, args).await,
        JobsCommand::Show { id } => show(place, &system, id).await,
        JobsCommand::Watch { ids } => watch(place, &system, ids).await,
        JobsCommand::Cancel { ids } => {
            let changed = system.cancel(ids.clone()).await?;
            changes(place, &ids, &changed)
        }
        JobsCommand::Retry { ids } => {
            let changed = system.retry(ids.clone()).await?;
            changes(place, &ids, &changed)
        }
    }
}

async fn list(place: &Place, system: &TaskSystem, args: ListArgs) -> Result<ExitCode> {
    let filter = Filter { states: args.states, queue: args.queue, task: args.task, key: args.key };
    let page = Page { before: args.before, limit: usize::from(args.limit) };
    let listed = system.store().list(filter, page).await?;
    if place.json {
        print::json(&listed)?;
        return Ok(ExitCode::SUCCESS);
    }
    if listed.jobs.is_empty() && listed.next.is_none() {
        print::line(
            "no jobs here; submit one with `taskloom submit http --args '{\"url\": \"…\"}'`",
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    let nodes = system.store().nodes().await?;
    let mut table = print::table(["id", "task", "queue", "state", "attempts", "created", "note"]);
    for job in &listed.jobs {
        table.add_row(vec![
            job.id.to_string().into(),
            job.task.to_string().into(),
            job.queue.to_string().into(),
            print::state(job.state),
            format!("{}/{}", job.attempts, job.max_attempts).into(),
            print::time(job.created).into(),
            note(job, &nodes).into(),
        ]);
    }
    print::line(table.to_string())?;
    if let Some(next) = listed.next {
        print::line(format!("more: --before {next}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What matters most about a job in its state, on one line.
fn note(job: &JobView, nodes: &[NodeView]) -> String {
    let said = job.error.as_ref().map(|it| print::short(&it.message, 60));
    match job.state {
        StateName::Delayed => job.due.map(|at| format!("due {}", print::time(at))),
        StateName::Retrying => {
            let due = job.due.map(print::time).unwrap_or_default();
            Some(format!("due {due} after: {}", said.unwrap_or_default()))
        }
        StateName::Blocked => job.n_unfinished.map(|n| format!("waits for {n} jobs")),
        StateName::Running if job.cancel_requested => Some("is asked to end".into()),
        StateName::Running => job
            .progress
            .as_ref()
            .map(|it| format!("{:.0} % {}", it.fraction * 100.0, print::short(&it.message, 50))),
        StateName::Failed => {
            let reason = job.reason.map_or("", |it| it.as_str());
            Some(format!("{reason}: {}", said.unwrap_or_default()))
        }
        StateName::Ready if nodes.is_empty() => Some("waits: no node is running".into()),
        StateName::Ready if !nodes.iter().any(|it| it.tasks.contains(&job.task)) => {
            Some(format!("waits: no running node has the task `{}`", job.task))
        }
        StateName::Ready | StateName::Succeeded | StateName::Cancelled => None,
    }
    .unwrap_or_default()
}

async fn show(place: &Place, system: &TaskSystem, id: JobId) -> Result<ExitCode> {
    let store = system.store();
    let job = store.get(vec![id]).await?.pop().flatten();
    let Some(job) = job else { return Err(NotFound(id.to_string()).into()) };
    let attempts = store.attempts(id).await?;
    let logs = store.logs(id, LOG_LINES).await?;
    let nodes = store.nodes().await?;
    if place.json {
        print::json(&serde_json::json!({"job": job, "attempts": attempts, "logs": logs}))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = print::table(["job", &id.to_string()]);
    let mut row = |name: &str, value: String| {
        if !value.is_empty() {
            table.add_row(vec![name.to_owned(), value]);
        }
    };
    row("task", job.task.to_string());
    row("queue", job.queue.to_string());
    row("state", job.state.to_string());
    row("note", note(&job, &nodes));
    row("priority", job.priority.level().to_string());
    row("attempts", format!("{} of {}", job.attempts, job.max_attempts));
    row("crashes", none_if_zero(job.crashes));
    row("snoozes", none_if_zero(job.snoozes));
    row("key", job.key.clone().unwrap_or_default());
    row("unique", job.unique.clone().unwrap_or_default());
    row("created", print::time(job.created));
    row("started", job.started.map(print::time).unwrap_or_default());
    row("ended", job.ended.map(print::time).unwrap_or_default());
    row("took", job.started.zip(job.ended).map(took).unwrap_or_default());
    row("deadline", job.deadline.map(print::time).unwrap_or_default());
    row("arguments", print::short(job.args.get(), 2_000));
    row("result", job.result.as_ref().map(|it| print::short(it.get(), 2_000)).unwrap_or_default());
    if let Some(error) = job.error {
        row("error", error.message);
        row("code", error.code.unwrap_or_default());
        row("backtrace", error.backtrace.unwrap_or_default());
    }
    print::line(table.to_string())?;
    if !attempts.is_empty() {
        let mut table = print::table(["attempt", "node", "started", "took", "outcome", "error"]);
        for it in &attempts {
            let error = it.error.as_ref().map(|it| print::short(&it.message, 80));
            table.add_row(vec![
                it.attempt.to_string(),
                it.node.to_string(),
                print::time(it.started),
                took((it.started, it.ended)),
                it.outcome.to_owned(),
                error.unwrap_or_default(),
            ]);
        }
        print::line(table.to_string())?;
    }
    for log in &logs {
        print::line(format!("{} {:5} {}", print::time(log.at), log.level, log.text))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn none_if_zero(n: u32) -> String {
    if n == 0 { String::new() } else { n.to_string() }
}

fn took((from, to): (Time, Time)) -> String {
    format!("{:.3?}", to.since(from))
}

fn changes(place: &Place, ids: &[JobId], changed: &[Changed]) -> Result<ExitCode> {
    let mut code = 0;
    for (id, changed) in ids.iter().zip(changed) {
        let (word, detail) = match changed {
            Changed::Now(state) => ("state", state.to_string()),
            Changed::Refused(refusal) => {
                code = code.max(FAILED);
                ("refused", refusal.to_string())
            }
            Changed::Unknown => {
                code = code.max(NOT_FOUND);
                ("unknown", "there is no such job".into())
            }
        };
        if place.json {
            print::json(&serde_json::json!({"id": id, word: detail}))?;
        } else {
            print::line(format!("{id}  {detail}"))?;
        }
    }
    Ok(ExitCode::from(code))
}

async fn watch(place: &Place, system: &TaskSystem, ids: Vec<JobId>) -> Result<ExitCode> {
    tokio::select! {
        // Interrupts are listened for before anything is told.
        biased;
        _ = tokio::signal::ctrl_c() => Ok(ExitCode::from(INTERRUPTED)),
        code = follow(place, system, ids) => code,
    }
}

async fn follow(place: &Place, system: &TaskSystem, ids: Vec<JobId>) -> Result<ExitCode> {
    let store = system.store();
    let mut changed = store.notices().changed;
    let mut cursor = store.events(EventCursor::END, 0).await?.next;
    let nodes = store.nodes().await?;
    let mut left: HashSet<JobId> = HashSet::new();
    let mut has_failed = false;
    for (id, view) in ids.iter().zip(store.get(ids.clone()).await?) {
        let Some(view) = view else { return Err(NotFound(id.to_string()).into()) };
        has_failed |= view.state.is_ended() && view.state != StateName::Succeeded;
        if place.json {
            print::json(&view)?;
        } else {
            print::line(format!("{id}  {}  {} {}", view.task, view.state, note(&view, &nodes)))?;
        }
        if !view.state.is_ended() {
            left.insert(*id);
        }
    }
    while ids.is_empty() || !left.is_empty() {
        changed.borrow_and_update();
        let read = store.events(cursor, EVENTS_MAX).await?;
        cursor = read.next;
        for event in &read.events {
            if !ids.is_empty() && !ids.contains(&event.id) {
                continue;
            }
            print_event(place, event)?;
            if event.kind.is_end() {
                left.remove(&event.id);
                has_failed |= event.kind != taskloom::EventKind::JobSucceeded;
            }
        }
        let is_over = !ids.is_empty() && left.is_empty();
        if is_over || read.events.len() == EVENTS_MAX {
            continue;
        }
        changed.changed().await?;
    }
    Ok(if has_failed { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}

fn print_event(place: &Place, event: &Event) -> Result<()> {
    if place.json {
        return print::json(event);
    }
    let attempt = match event.attempt {
        0 => String::new(),
        n => format!("  attempt {n}"),
    };
    let at = print::time(event.at);
    print::line(format!("{at}  {}  {}  {:?}{attempt}", event.id, event.task, event.kind))
}
