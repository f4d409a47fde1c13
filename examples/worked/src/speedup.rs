//! The same pages fetched one after the other and several at once: what concurrency is for.

use std::fmt;
use std::time::Duration;

use futures::TryStreamExt as _;
use reqwest::Client;
use taskloom_flow::map_concurrent;
use tokio::time::Instant;

use crate::http::{self, HttpError};

/// How long a page may take.
const LIMIT: Duration = Duration::from_secs(10);

/// What both ways took and brought.
#[derive(Debug)]
pub struct Comparison {
    /// The time of one after the other.
    pub time_one_by_one: Duration,
    /// The time of several at once.
    pub time_at_once: Duration,
    /// The pages of the first way.
    pub pages_one_by_one: Vec<String>,
    /// The pages of the second.
    pub pages_at_once: Vec<String>,
}

impl Comparison {
    /// How many times as fast the second way was.
    #[must_use]
    pub fn speedup(&self) -> f64 {
        self.time_one_by_one.as_secs_f64() / self.time_at_once.as_secs_f64()
    }

    /// Whether both brought the same pages, in the same order.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.pages_one_by_one == self.pages_at_once
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "one by one: {:>5} ms", self.time_one_by_one.as_millis())?;
        writeln!(f, "at once:    {:>5} ms", self.time_at_once.as_millis())?;
        writeln!(f, "speed-up:   {:>5.1} times", self.speedup())?;
        let same = if self.is_same() { "yes" } else { "NO" };
        write!(f, "the same pages in the same order: {same}")
    }
}

/// Fetches all `urls` one by one, and then again with up to `n_at_once` at a time.
///
/// # Errors
/// The first error of any page.
///
/// # Cancel safety
/// Dropping it drops the requests under way.
pub async fn compare(
    client: &Client,
    urls: &[String],
    n_at_once: usize,
) -> Result<Comparison, HttpError> {
    let began = Instant::now();
    let pages_one_by_one = one_by_one(client, urls).await?;
    let time_one_by_one = began.elapsed();
    let began = Instant::now();
    let pages_at_once = at_once(client, urls, n_at_once).await?;
    let time_at_once = began.elapsed();
    Ok(Comparison { time_one_by_one, time_at_once, pages_one_by_one, pages_at_once })
}

async fn one_by_one(client: &Client, urls: &[String]) -> Result<Vec<String>, HttpError> {
    let mut pages = Vec::new();
    for url in urls {
        pages.push(http::get(client, url, LIMIT).await?.text);
    }
    Ok(pages)
}

async fn at_once(
    client: &Client,
    urls: &[String],
    n_at_once: usize,
) -> Result<Vec<String>, HttpError> {
    let fetch = async |url: &String| Ok(http::get(client, url, LIMIT).await?.text);
    map_concurrent(urls, n_at_once, fetch).try_collect().await
}
