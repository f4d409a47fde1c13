//! Scrapes the titles of pages, politely, and sums up by outcome.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use futures::StreamExt as _;
use reqwest::Url;
use taskloom_cookbook::client;
use taskloom_flow::Rate;
use taskloom_worked::scraper::{Rules, Scraped, Scraper, Summary};
use taskloom_worked::site::Site;

/// Scrapes the titles of pages. Exits with 1 when one of them could not be had.
#[derive(Debug, Parser)]
struct Args {
    /// The addresses; without any, those of a local server, some of which are meant to fail.
    urls: Vec<String>,
    /// How long an attempt may take, in milliseconds.
    #[arg(long, default_value_t = 500)]
    timeout: u64,
    /// How often a page is asked for at most.
    #[arg(long, default_value_t = 3)]
    attempts: u32,
    /// How many requests at once to one host.
    #[arg(long, default_value_t = 2)]
    per_host: usize,
    /// How often one host is asked, such as `10/s` or `30/min`.
    #[arg(long, default_value = "20/s")]
    rate: Rate,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let Args { urls, timeout, attempts, per_host, rate } = Args::parse();
    let (site, client) = (Site::start().await, client());
    let is_demo = urls.is_empty();
    let urls = if is_demo { site.of_every_kind() } else { urls };
    let urls = urls.iter().map(|it| Url::parse(it).with_context(|| format!("{it} is no address")));
    let urls: Vec<Url> = urls.collect::<anyhow::Result<_>>()?;
    let rules = Rules {
        timeout: Duration::from_millis(timeout),
        n_attempts_max: attempts,
        n_per_host_max: per_host,
        rate_per_host: rate,
        ..Rules::default()
    };

    let scraper = Scraper::new(client, rules);
    let mut summary = Summary::default();
    let mut pages = std::pin::pin!(scraper.scrape(urls));
    while let Some(scraped) = pages.next().await {
        summary.add(&scraped);
        let Scraped { url, title, n_attempts, .. } = scraped;
        let said = match title {
            Ok(Some(title)) => format!("\"{title}\""),
            Ok(None) => "no title".to_owned(),
            Err(error) => error.to_string(),
        };
        println!("{said:<30} attempts: {n_attempts}  {url}");
    }
    println!("\n{summary}");
    if is_demo {
        println!("at most {:?} requests at once on the two hosts", site.n_at_once_most());
    }
    let is_good = is_demo || summary.n_failed == 0;
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
