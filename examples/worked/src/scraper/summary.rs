//! The summary of a scrape, by outcome.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::Scraped;

/// How often what happened.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many pages came to which end.
    pub by_outcome: BTreeMap<String, usize>,
    /// How many pages there were.
    pub n_pages: usize,
    /// How many of them were not had.
    pub n_failed: usize,
    /// How many attempts were not the first of their page.
    pub n_retries: u32,
    /// The time of the slowest page, all waits included.
    pub longest: Duration,
}

impl Summary {
    /// Counts what became of a page.
    pub fn add(&mut self, scraped: &Scraped) {
        let outcome = match &scraped.title {
            Ok(Some(_)) => "a title".to_owned(),
            Ok(None) => "no title".to_owned(),
            Err(error) => error.kind(),
        };
        *self.by_outcome.entry(outcome).or_default() += 1;
        self.n_pages += 1;
        self.n_failed += usize::from(scraped.title.is_err());
        self.n_retries += scraped.n_attempts - 1;
        self.longest = self.longest.max(scraped.took);
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (outcome, n) in &self.by_outcome {
            writeln!(f, "{n:>5}  {outcome}")?;
        }
        let Summary { n_pages, n_retries, longest, .. } = self;
        let longest = longest.as_millis();
        write!(f, "{n_pages} pages, {n_retries} retries, the slowest after {longest} ms")
    }
}
