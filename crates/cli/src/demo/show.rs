//! What a person sees while a run goes on: its retries, failures and ends as they are committed,
//! and a bar on a terminal. All of it goes to standard error.

use std::collections::{HashMap, HashSet};
use std::io::IsTerminal as _;
use std::sync::Arc;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use taskloom::{Event, EventCursor, EventKind, JobId, Store, Time};

use crate::print;

/// How many events one read takes.
const EVENTS_MAX: usize = 1_000;

/// Follows the jobs of a run to their end.
#[derive(Debug)]
pub(super) struct Show {
    store: Arc<dyn Store>,
    names: HashMap<JobId, String>,
    left: HashSet<JobId>,
    cursor: EventCursor,
    /// What was committed before is counted and not shown.
    began: Time,
    n_retries: u64,
    /// No bar and no lines.
    is_quiet: bool,
    bar: ProgressBar,
}

impl Show {
    /// Follows the jobs `names`, showing what happens from `began` on.
    pub(super) fn new(
        store: Arc<dyn Store>,
        names: HashMap<JobId, String>,
        began: Time,
        is_quiet: bool,
    ) -> Show {
        let bar = if is_quiet { ProgressBar::hidden() } else { bar(names.len()) };
        let left = names.keys().copied().collect();
        let cursor = EventCursor::START;
        Show { store, names, left, cursor, began, n_retries: 0, is_quiet, bar }
    }

    /// How many attempts of the run were followed by another, in this process and before.
    pub(super) fn n_retries(&self) -> u64 {
        self.n_retries
    }

    /// How many jobs have not ended.
    pub(super) fn n_left(&self) -> usize {
        self.left.len()
    }

    /// Returns when every job has ended.
    ///
    /// # Errors
    /// When the store can't be read.
    ///
    /// # Cancel safety
    /// Safe: called again, it goes on; what was being shown may be shown again.
    pub(super) async fn follow(&mut self) -> Result<()> {
        let mut changed = self.store.notices().changed;
        changed.borrow_and_update();
        self.read().await?;
        // Events are kept for a time only, states for as long as their jobs.
        let ids: Vec<JobId> = self.left.iter().copied().collect();
        for view in self.store.get(ids).await?.into_iter().flatten() {
            if view.state.is_ended() {
                self.left.remove(&view.id);
            }
        }
        loop {
            self.show_bar();
            if self.left.is_empty() {
                return Ok(());
            }
            changed.changed().await.context("the store was closed")?;
            changed.borrow_and_update();
            self.read().await?;
        }
    }

    /// Leaves the terminal as it was.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// Reads every event there is.
    async fn read(&mut self) -> Result<()> {
        loop {
            let read = self.store.events(self.cursor, EVENTS_MAX).await?;
            for event in &read.events {
                self.take(event).await?;
                self.cursor = EventCursor(event.offset + 1);
            }
            self.cursor = read.next;
            if read.events.len() < EVENTS_MAX {
                return Ok(());
            }
        }
    }

    async fn take(&mut self, event: &Event) -> Result<()> {
        if !self.names.contains_key(&event.id) {
            return Ok(());
        }
        if event.kind == EventKind::JobRetrying {
            self.n_retries += 1;
        }
        if event.kind.is_end() {
            self.left.remove(&event.id);
        }
        if event.kind == EventKind::JobRetried {
            self.left.insert(event.id);
        }
        if !self.is_quiet && self.began <= event.at {
            self.tell(event).await?;
        }
        Ok(())
    }

    async fn tell(&self, event: &Event) -> Result<()> {
        let name = self.names.get(&event.id).map_or("", String::as_str);
        let attempt = event.attempt;
        let line = match event.kind {
            EventKind::JobRetrying | EventKind::JobFailed => {
                let word = if event.kind == EventKind::JobFailed { "failed" } else { "retrying" };
                let error = self.error(event).await?;
                format!("{word:9} {name}  attempt {attempt}: {error}")
            }
            EventKind::JobLost => {
                format!("lost      {name}: its process died; another takes it up")
            }
            EventKind::JobInterrupted => format!("given back {name}: it goes on later"),
            EventKind::JobCancelled => format!("cancelled {name}"),
            EventKind::JobSnoozed => format!("snoozed   {name}"),
            EventKind::JobRetried => format!("anew      {name}"),
            // Pages are many, and the bar counts them.
            EventKind::JobSucceeded if !name.starts_with("fetch/") => format!("succeeded {name}"),
            EventKind::JobSucceeded
            | EventKind::JobSubmitted
            | EventKind::JobReady
            | EventKind::JobClaimed
            | EventKind::JobCancelRequested => return Ok(()),
        };
        self.bar.suspend(|| eprintln!("{line}"));
        Ok(())
    }

    /// What went wrong with the attempt of an event.
    async fn error(&self, event: &Event) -> Result<String> {
        let attempts = self.store.attempts(event.id).await?;
        let ended = attempts.iter().rev().find(|it| it.attempt == event.attempt);
        let error = ended.or(attempts.last()).and_then(|it| it.error.as_ref());
        let message = error.map_or("", |it| &it.message);
        Ok(print::short(cause(message), 100))
    }

    fn show_bar(&self) {
        let n_ended = self.names.len() - self.left.len();
        self.bar.set_position(u64::try_from(n_ended).unwrap_or(u64::MAX));
    }
}

/// A message without the request it begins with, which the line names already, and without the
/// layers of the client, which say nothing more than the innermost.
fn cause(message: &str) -> &str {
    let request = message.strip_prefix("GET ").and_then(|it| it.split_once(": "));
    let said = request.map_or(message, |(_, said)| said);
    if said.starts_with("error sending request") {
        return said.rsplit(": ").next().unwrap_or(said);
    }
    said
}

fn bar(n: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} jobs  {elapsed}");
    let bar = ProgressBar::new(u64::try_from(n).unwrap_or(u64::MAX));
    style.map_or(bar.clone(), |style| bar.with_style(style))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_message_the_cause_is_told() {
        assert_eq!(cause("GET http://127.0.0.1:80/a: it answered 500"), "it answered 500");
        let reset = "GET http://127.0.0.1:80/a: error sending request: client error: reset by peer";
        assert_eq!(cause(reset), "reset by peer");
        assert_eq!(cause("421: busy"), "421: busy");
    }
}
