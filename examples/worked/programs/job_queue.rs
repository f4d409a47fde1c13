//! Works off a queue of addresses with five workers and at most three requests at once.
//! Ctrl-C ends it well; a second one ends it at once.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use taskloom_cookbook::client;
use taskloom_flow::{Cancellation, TaskGroup};
use taskloom_worked::html::title;
use taskloom_worked::http::Page;
use taskloom_worked::job_queue::{Rules, work_off};
use taskloom_worked::site::Site;

/// What shells expect of a program that Ctrl-C ended.
const EXIT_INTERRUPTED: u8 = 130;

/// Works off a queue of pages of a local server. Ctrl-C: finish what runs and end; twice: end now.
#[derive(Debug, Parser)]
struct Args {
    /// How many pages are in the queue.
    #[arg(long, default_value_t = 30)]
    pages: usize,
    /// How long the server takes for each, in milliseconds.
    #[arg(long, default_value_t = 50)]
    delay: u64,
    /// How many workers.
    #[arg(long, default_value_t = 5)]
    workers: usize,
    /// How many requests at once.
    #[arg(long, default_value_t = 3)]
    requests: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let Args { pages, delay, workers, requests } = Args::parse();
    let (site, client) = (Site::start().await, client());
    let urls = site.articles(pages, Duration::from_millis(delay));
    let rules = Rules { n_workers: workers, n_requests_max: requests, ..Rules::default() };
    println!("{pages} pages, {workers} workers, at most {requests} requests at once");

    let stop = Cancellation::new();
    let group = TaskGroup::new();
    let stopper = stop.clone();
    let interrupted_twice = group.spawn("interrupts", async move {
        tokio::signal::ctrl_c().await?;
        println!("finishing what runs; once more to end now");
        stopper.cancel("Ctrl-C");
        tokio::signal::ctrl_c().await
    });
    let keep = |page: Page, worker| {
        println!("worker {worker}: {}", title(&page.text).unwrap_or_default());
    };
    let report = tokio::select! {
        report = work_off(&client, urls, rules, &stop, keep) => report,
        ended = interrupted_twice => {
            ended?;
            return Ok(ExitCode::from(EXIT_INTERRUPTED));
        }
    };
    println!("{report}");
    let is_good = report.failures.is_empty() && report.n_aborted == 0;
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
