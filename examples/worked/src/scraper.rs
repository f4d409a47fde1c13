//! A scraper of titles that is polite: it goes to no host with more requests at once, or more a
//! second, than it may, and comes back later when it is asked to.
//!
//! # Invariants
//! - An attempt takes a place of its host, passes the rate of its host, and takes one of all
//!   places, in this order: who waits for a slow host keeps nobody else waiting. The price: when
//!   all places are taken, those of one host that passed its rate may go together.
//! - Between two attempts a page holds no place.
//! - Of no page more than `bytes_max` are in memory.

mod summary;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use encoding_rs::{Encoding, UTF_8};
use futures::{Stream, StreamExt as _};
use parking_lot::Mutex;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Client, Url};
use taskloom_flow::{Backoff, KeyedRateLimiter, Rate, Retry, as_completed, timeout};
use tokio::sync::Semaphore;
use tokio::time::Instant;

pub use summary::Summary;

use crate::html;
use crate::http::{HttpError, check_status};

/// Who asks us to come back later than this is not waited for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// How polite, and how patient.
#[derive(Debug, Clone)]
pub struct Rules {
    /// How long one attempt may take, body included.
    pub timeout: Duration,
    /// How often a page is asked for at most.
    pub n_attempts_max: u32,
    /// How long it waits between attempts, unless the server says.
    pub backoff: Backoff,
    /// How many requests are under way at most, to all hosts together.
    pub n_at_once_max: usize,
    /// How many requests are under way at most to one host.
    pub n_per_host_max: usize,
    /// How often a host is asked.
    pub rate_per_host: Rate,
    /// How much of a page is read in search of its title.
    pub bytes_max: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            timeout: Duration::from_secs(10),
            n_attempts_max: 3,
            backoff: Backoff::default(),
            n_at_once_max: 32,
            n_per_host_max: 2,
            rate_per_host: Rate::new(5, Duration::from_secs(1)).expect("5 a second is a rate"),
            bytes_max: 512 << 10,
        }
    }
}

/// What became of a page.
#[derive(Debug)]
pub struct Scraped {
    /// Its address.
    pub url: Url,
    /// Its title, `None` when it has none; or the error of the last attempt.
    pub title: Result<Option<String>, HttpError>,
    /// How often it was asked for.
    pub n_attempts: u32,
    /// How long it took, all waits included.
    pub took: Duration,
}

/// Fetches pages and reads their titles. Its limits hold for all calls together.
#[derive(Debug)]
pub struct Scraper {
    client: Client,
    rules: Rules,
    retry: Retry<HttpError>,
    places: Semaphore,
    /// The places of each host seen so far.
    host_places: Mutex<HashMap<String, Arc<Semaphore>>>,
    host_rates: KeyedRateLimiter<String>,
}

impl Scraper {
    /// A scraper that goes by `rules`.
    #[must_use]
    pub fn new(client: Client, rules: Rules) -> Scraper {
        let retry = Retry::new(rules.backoff)
            .n_attempts_max(rules.n_attempts_max)
            .when(|error: &HttpError| {
                let is_too_late = error.retry_after().is_some_and(|it| RETRY_AFTER_MAX < it);
                error.is_transient() && !is_too_late
            })
            .hint(HttpError::retry_after);
        Scraper {
            places: Semaphore::new(rules.n_at_once_max.max(1)),
            host_places: Mutex::default(),
            // As many hosts as there are in the addresses: what bounds those bounds these.
            host_rates: KeyedRateLimiter::new(rules.rate_per_host, 1, usize::MAX),
            client,
            rules,
            retry,
        }
    }

    /// Scrapes all `urls` and yields what became of each as soon as it is known. Dropping the
    /// stream drops the requests under way.
    pub fn scrape(&self, urls: impl IntoIterator<Item = Url>) -> impl Stream<Item = Scraped> {
        as_completed(urls.into_iter().map(|url| self.page(url))).map(|(_, scraped)| scraped)
    }

    async fn page(&self, url: Url) -> Scraped {
        let began = Instant::now();
        let host = host_of(&url);
        let titled = self.retry.run(async |attempt| {
            let title = self.attempt(&url, &host).await?;
            Ok((title, attempt))
        });
        let (title, n_attempts) = match titled.await {
            Ok((title, attempt)) => (Ok(title), attempt),
            Err(gave_up) => (Err(gave_up.error), gave_up.n_attempts),
        };
        Scraped { url, title, n_attempts, took: began.elapsed() }
    }

    async fn attempt(&self, url: &Url, host: &str) -> Result<Option<String>, HttpError> {
        let host_places = self.host_places(host);
        let _host_place = host_places.acquire().await.expect("the semaphore is never closed");
        self.host_rates.acquire(host).await.expect("any number of hosts is allowed");
        let _place = self.places.acquire().await.expect("the semaphore is never closed");
        let titled = timeout(self.rules.timeout, self.title(url)).await?;
        // All pages of the host wait, and not only this one.
        if let Some(delay) = titled.as_ref().err().and_then(HttpError::retry_after) {
            let delay = delay.min(RETRY_AFTER_MAX);
            self.host_rates.pause_for(host, delay).expect("any number of hosts is allowed");
        }
        titled
    }

    async fn title(&self, url: &Url) -> Result<Option<String>, HttpError> {
        let mut response = check_status(self.client.get(url.clone()).send().await?)?;
        if !is_html(response.headers()) {
            return Ok(None);
        }
        let encoding = encoding(response.headers());
        let mut bytes = Vec::new();
        while bytes.len() < self.rules.bytes_max {
            let Some(chunk) = response.chunk().await? else { break };
            let room = self.rules.bytes_max - bytes.len();
            bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
        }
        Ok(html::title(&encoding.decode(&bytes).0))
    }

    fn host_places(&self, host: &str) -> Arc<Semaphore> {
        let mut hosts = self.host_places.lock();
        if let Some(places) = hosts.get(host) {
            return Arc::clone(places);
        }
        let places = Arc::new(Semaphore::new(self.rules.n_per_host_max.max(1)));
        hosts.insert(host.to_owned(), Arc::clone(&places));
        places
    }
}

/// What limits are counted by.
fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    format!("{host}:{}", url.port_or_known_default().unwrap_or_default())
}

/// Whether a page may have a title; one that does not say what it is may.
fn is_html(headers: &HeaderMap) -> bool {
    content_type(headers).is_none_or(|it| it.to_ascii_lowercase().contains("html"))
}

/// The encoding that the server names, UTF-8 without a name.
fn encoding(headers: &HeaderMap) -> &'static Encoding {
    let label = content_type(headers).and_then(|it| it.split_once("charset=")).map(|it| it.1);
    label.and_then(|it| Encoding::for_label(it.trim_matches('"').as_bytes())).unwrap_or(UTF_8)
}

fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(CONTENT_TYPE)?.to_str().ok()
}
