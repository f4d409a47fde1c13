//! The jobs of one fetch: found again, or submitted.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use anyhow::Result;
use taskloom::tasks::HttpOutput;
use taskloom::{
    Backoff, Filter, Invocation, Jitter, JobHandle, JobId, Page, RetryPolicy, Task, TaskOptions,
    TaskSystem,
};

use super::task::{FetchUrl, FetchUrlArgs};
use crate::args::FetchArgs;

/// How many URLs are accepted together.
const SUBMIT_MAX: usize = 1_000;

/// The jobs of one fetch.
#[derive(Debug)]
pub(super) struct Batch {
    /// One a URL, in no particular order.
    pub(super) handles: Vec<JobHandle<HttpOutput>>,
    /// How many had ended when the fetch was taken up.
    pub(super) n_ended: usize,
    lines: HashMap<JobId, (usize, String)>,
}

/// A job of an earlier run.
struct Found {
    id: JobId,
    line: usize,
    is_ended: bool,
}

impl Batch {
    /// Takes up the newest fetch of this list if it is unfinished, else begins another.
    pub(super) async fn take_up(
        system: &TaskSystem,
        urls: &[String],
        args: &FetchArgs,
    ) -> Result<Batch> {
        let prefix = format!("fetch:{:016x}:", fingerprint(urls, args));
        let newest = if args.fresh { None } else { newest_key(system, &prefix).await? };
        let mut found = Vec::new();
        let mut key = None;
        if let Some(newest) = newest {
            found = jobs_of(system, &newest).await?;
            let is_over = found.len() == urls.len() && found.iter().all(|it| it.is_ended);
            if is_over {
                found.clear();
            } else {
                key = Some(newest);
            }
        }
        // The clock of a new one: two fetches of one list in one millisecond are one.
        let key =
            key.unwrap_or_else(|| format!("{prefix}{}", jiff::Timestamp::now().as_millisecond()));
        let mut batch = Batch { handles: Vec::new(), n_ended: 0, lines: HashMap::new() };
        let mut is_there = vec![false; urls.len()];
        for it in found {
            let Some(url) = urls.get(it.line) else { continue };
            is_there[it.line] = true;
            batch.n_ended += usize::from(it.is_ended);
            batch.add(system.job(it.id), it.line, url);
        }
        let missing: Vec<usize> = (0..urls.len()).filter(|&line| !is_there[line]).collect();
        for part in missing.chunks(SUBMIT_MAX) {
            let jobs = part.iter().map(|&line| invocation(line, &urls[line], &key, args)).collect();
            let jobs: Vec<Invocation<HttpOutput>> = jobs;
            for (handle, &line) in system.submit(jobs).await?.into_iter().zip(part) {
                batch.add(handle, line, &urls[line]);
            }
        }
        Ok(batch)
    }

    fn add(&mut self, handle: JobHandle<HttpOutput>, line: usize, url: &str) {
        self.lines.insert(handle.id(), (line, url.to_owned()));
        self.handles.push(handle);
    }

    /// The place in the list of a job, and its URL.
    pub(super) fn line_of(&self, id: JobId) -> (usize, String) {
        self.lines.get(&id).cloned().unwrap_or_default()
    }
}

/// What makes two fetches the same: the list and what shapes the answers.
fn fingerprint(urls: &[String], args: &FetchArgs) -> u64 {
    let mut hasher = DefaultHasher::new();
    (urls, args.extract.is_some()).hash(&mut hasher);
    hasher.finish()
}

fn invocation(line: usize, url: &str, key: &str, args: &FetchArgs) -> Invocation<HttpOutput> {
    let retry = RetryPolicy {
        max_attempts: args.max_attempts,
        backoff: Backoff {
            delay_first: Duration::from_millis(500),
            factor: 2.0,
            delay_max: Duration::from_secs(60),
            jitter: Jitter::Full,
        },
    };
    let options = TaskOptions { retry, ..TaskOptions::default() };
    let fetch = FetchUrlArgs { line, url: url.to_owned() };
    Invocation::new(FetchUrl::NAME, options, &fetch)
        .queue("fetch")
        .key(key)
        .unique(format!("{key}/{line}"))
}

async fn newest_key(system: &TaskSystem, prefix: &str) -> Result<Option<String>> {
    let mut newest = None;
    let filter = Filter { task: Some(FetchUrl::NAME.into()), ..Filter::default() };
    walk(system, filter, |view| {
        newest = view.key.clone().filter(|key| key.starts_with(prefix));
        newest.is_none()
    })
    .await?;
    Ok(newest)
}

async fn jobs_of(system: &TaskSystem, key: &str) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    let filter = Filter { key: Some(key.to_owned()), ..Filter::default() };
    walk(system, filter, |view| {
        if let Ok(args) = serde_json::from_str::<FetchUrlArgs>(view.args.get()) {
            found.push(Found { id: view.id, line: args.line, is_ended: view.state.is_ended() });
        }
        true
    })
    .await?;
    Ok(found)
}

/// Walks over jobs, newest first, as long as `go_on` says so.
async fn walk(
    system: &TaskSystem,
    filter: Filter,
    mut go_on: impl FnMut(&taskloom::JobView) -> bool,
) -> Result<()> {
    let mut before = None;
    loop {
        let page = Page { before, limit: Page::LIMIT_MAX };
        let listed = system.store().list(filter.clone(), page).await?;
        for view in &listed.jobs {
            if !go_on(view) {
                return Ok(());
            }
        }
        before = listed.next;
        if before.is_none() {
            return Ok(());
        }
    }
}
