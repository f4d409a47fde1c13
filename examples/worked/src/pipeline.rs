//! A pipeline of three stages: pages are fetched, made into records, and written as JSON files.
//!
//! # Invariants
//! - A file with its final name is whole: it is written under another name, then renamed.
//! - A page that fails at any stage is listed, and costs no other page anything.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::Client;
use serde::{Deserialize, Serialize};
use taskloom_flow::{BoxError, Stages, StagesReport, StagesRun};
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt as _;

use crate::{html, http};

/// How many pages are in front of and inside each stage: a few for every worker. They are in
/// memory.
const QUEUE_MAX: usize = 16;

/// How the pipeline is built.
#[derive(Debug, Clone)]
pub struct Rules {
    /// How many workers each stage has.
    pub n_workers: usize,
    /// How long a page may take to fetch.
    pub timeout: Duration,
    /// Where the files go; the folder is there already.
    pub folder: PathBuf,
}

impl Rules {
    /// Three workers a stage, into `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Rules {
        Rules { n_workers: 3, timeout: Duration::from_secs(10), folder: folder.into() }
    }
}

/// What is kept of a page; the content of its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The address of the page.
    pub url: String,
    /// Its title.
    pub title: String,
    /// How many words its body has.
    pub n_words: usize,
}

/// A page on its way.
struct Fetched {
    /// Which of the addresses it is, from 0.
    n: usize,
    url: String,
    text: String,
}

/// Where a page failed; the stage is in the report.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {error}")]
struct PageError {
    url: String,
    error: BoxError,
}

impl PageError {
    fn new(url: &str, error: impl Into<BoxError>) -> PageError {
        PageError { url: url.to_owned(), error: error.into() }
    }
}

/// Starts the pipeline for `urls`.
///
/// # Panics
/// Outside a Tokio runtime.
pub fn start(client: &Client, urls: Vec<String>, rules: Rules) -> StagesRun {
    let Rules { n_workers, timeout, folder } = rules;
    let (client, folder) = (client.clone(), Arc::new(folder));
    let fetch = move |(n, url): (usize, String)| {
        let client = client.clone();
        async move {
            let page = http::get(&client, &url, timeout).await;
            let text = page.map_err(|error| PageError::new(&url, error))?.text;
            Ok::<_, PageError>(Fetched { n, url, text })
        }
    };
    let write = move |(n, record): (usize, Record)| {
        let folder = Arc::clone(&folder);
        async move {
            let written = write_record(&folder, n, &record).await;
            written.map_err(|error| PageError::new(&record.url, error))
        }
    };
    Stages::from(urls.into_iter().enumerate())
        .queue(QUEUE_MAX)
        .map("fetch", n_workers, fetch)
        .cpu("transform", n_workers, transform)
        .for_each("write", n_workers, write)
}

/// Parsing keeps a processor busy, so it has threads of its own.
fn transform(page: Fetched) -> Result<(usize, Record), PageError> {
    let Fetched { n, url, text } = page;
    let Some(title) = html::title(&text) else {
        return Err(PageError::new(&url, "the page has no title"));
    };
    Ok((n, Record { n_words: html::n_words(&text), url, title }))
}

async fn write_record(folder: &Path, n: usize, record: &Record) -> Result<(), BoxError> {
    let json = serde_json::to_vec_pretty(record)?;
    write_atomically(&folder.join(format!("page-{n:04}.json")), &json).await?;
    Ok(())
}

/// Writes a file so that nobody ever sees a part of it, not even after a crash.
///
/// # Errors
/// Those of the file system; nothing is left behind then.
///
/// # Cancel safety
/// Dropped, it leaves the file as it was, and perhaps a file with `.part` at the end of its name,
/// which the next write of this file replaces.
pub async fn write_atomically(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let part = path.with_added_extension("part");
    let written = async {
        let mut file = File::create(&part).await?;
        file.write_all(bytes).await?;
        // Before the rename: a crash must not leave the new name with half of the content.
        file.sync_all().await?;
        fs::rename(&part, path).await
    };
    let written = written.await;
    if written.is_err() {
        fs::remove_file(&part).await.ok();
    }
    written
}

/// A [`StagesReport`] as a table, and its failures.
#[derive(Debug)]
pub struct Table<'a>(pub &'a StagesReport);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StagesReport { stages, failures, n_failures_lost, elapsed } = self.0;
        writeln!(f, "stage         in   out  failed  busy ms  mean ms  waiting, most")?;
        for stage in stages {
            let (busy, mean) = (stage.busy.as_millis(), stage.latency_mean.as_millis());
            writeln!(
                f,
                "{:<10} {:>5} {:>5} {:>7} {busy:>8} {mean:>8} {:>14}",
                stage.name, stage.n_in, stage.n_out, stage.n_errors, stage.n_waiting_max
            )?;
        }
        for failure in failures {
            writeln!(f, "failed: {failure}")?;
        }
        if 0 < *n_failures_lost {
            writeln!(f, "failed: {n_failures_lost} more")?;
        }
        write!(f, "{} ms in all", elapsed.as_millis())
    }
}
