//! Fetches the same pages one by one and at once, and tells how much faster that was.

use std::time::Duration;

use anyhow::ensure;
use clap::Parser;
use taskloom_cookbook::client;
use taskloom_worked::site::Site;
use taskloom_worked::speedup::compare;

/// Fetches the same pages one by one and at once from a local server, and compares the times.
#[derive(Debug, Parser)]
struct Args {
    /// How many pages.
    #[arg(long, default_value_t = 20)]
    pages: usize,
    /// How long the server takes for each, in milliseconds.
    #[arg(long, default_value_t = 50)]
    delay: u64,
    /// How many requests at once, the second time.
    #[arg(long, default_value_t = 20)]
    at_once: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Args { pages, delay, at_once } = Args::parse();
    let (site, client) = (Site::start().await, client());
    let urls = site.articles(pages, Duration::from_millis(delay));
    println!("{pages} pages, each after {delay} ms, {at_once} at once");
    let comparison = compare(&client, &urls, at_once).await?;
    println!("{comparison}");
    ensure!(comparison.is_same(), "the two ways brought different pages");
    Ok(())
}
