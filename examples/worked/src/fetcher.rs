//! A fetcher: what became of each of a list of addresses, told as soon as it is known.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use futures::StreamExt as _;
use reqwest::{Client, StatusCode};
use taskloom_flow::as_completed;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::http::{self, HttpError};

/// How it goes about it.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// How long a page may take, from the moment it is asked for.
    pub timeout: Duration,
    /// How many are asked for at the same time.
    pub n_at_once_max: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Rules { timeout: Duration::from_secs(10), n_at_once_max: 16 }
    }
}

/// What became of one address.
#[derive(Debug)]
pub struct Fetched {
    /// The address.
    pub url: String,
    /// The status and the length of the page in bytes, or why there is none.
    pub ended: Result<(StatusCode, usize), HttpError>,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = match &self.ended {
            Ok((status, n_bytes)) => format!("{}, {n_bytes} bytes", status.as_u16()),
            Err(error) => error.to_string(),
        };
        write!(f, "{said:<30} {:>5} ms  {}", self.took.as_millis(), self.url)
    }
}

/// Fetches all `urls` and answers in their order. `told` hears of each at once, with how many are
/// done by then.
///
/// # Cancel safety
/// Dropping it drops the requests under way.
pub async fn fetch_all(
    client: &Client,
    urls: &[String],
    rules: Rules,
    mut told: impl FnMut(usize, &Fetched),
) -> Vec<Fetched> {
    let room = Semaphore::new(rules.n_at_once_max.max(1));
    let calls = urls.iter().map(async |url| {
        let _place = room.acquire().await.expect("the semaphore is never closed");
        fetch(client, url, rules.timeout).await
    });
    let mut ended = Vec::new();
    let mut completed = as_completed(calls);
    while let Some((index, fetched)) = completed.next().await {
        told(ended.len() + 1, &fetched);
        ended.push((index, fetched));
    }
    ended.sort_by_key(|(index, _)| *index);
    ended.into_iter().map(|(_, fetched)| fetched).collect()
}

async fn fetch(client: &Client, url: &str, limit: Duration) -> Fetched {
    let began = Instant::now();
    let ended = http::get(client, url, limit).await;
    let ended = ended.map(|page| (page.status, page.text.len()));
    Fetched { url: url.to_owned(), ended, took: began.elapsed() }
}

/// How often what happened.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many addresses came to which end.
    pub by_outcome: BTreeMap<String, usize>,
    /// The bytes of all pages together.
    pub n_bytes: usize,
}

impl Summary {
    /// Counts what became of the addresses.
    #[must_use]
    pub fn of(all: &[Fetched]) -> Summary {
        let mut summary = Summary::default();
        for fetched in all {
            let outcome = match &fetched.ended {
                Ok((status, n_bytes)) => {
                    summary.n_bytes += n_bytes;
                    format!("status {status}")
                }
                Err(error) => error.kind(),
            };
            *summary.by_outcome.entry(outcome).or_default() += 1;
        }
        summary
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (outcome, n) in &self.by_outcome {
            writeln!(f, "{n:>5}  {outcome}")?;
        }
        write!(f, "{} bytes in all", self.n_bytes)
    }
}
