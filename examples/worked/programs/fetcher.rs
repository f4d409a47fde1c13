//! Fetches addresses, tells of each as it completes, and sums up.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use taskloom_cookbook::client;
use taskloom_worked::fetcher::{Rules, Summary, fetch_all};
use taskloom_worked::site::Site;

/// Fetches addresses and tells what became of each. Exits with 1 when one of them failed.
#[derive(Debug, Parser)]
struct Args {
    /// The addresses; without any, those of a local server, some of which are meant to fail.
    urls: Vec<String>,
    /// How long a page may take, in milliseconds.
    #[arg(long, default_value_t = 500)]
    timeout: u64,
    /// How many requests at once.
    #[arg(long, default_value_t = 16)]
    at_once: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Args { urls, timeout, at_once } = Args::parse();
    let (site, client) = (Site::start().await, client());
    let is_demo = urls.is_empty();
    let urls = if is_demo { site.of_every_kind() } else { urls };
    let rules = Rules { timeout: Duration::from_millis(timeout), n_at_once_max: at_once };

    let all = fetch_all(&client, &urls, rules, |n_done, fetched| {
        println!("[{n_done:>2}/{}] {fetched}", urls.len());
    });
    let all = all.await;
    println!("\n{}", Summary::of(&all));
    if is_demo || all.iter().all(|it| it.ended.is_ok()) {
        return ExitCode::SUCCESS;
    }
    ExitCode::FAILURE
}
