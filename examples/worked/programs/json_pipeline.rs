//! Fetches pages, makes records of them, and writes these as JSON files: three stages at once.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use taskloom_cookbook::client;
use taskloom_worked::pipeline::{Rules, Table, start};
use taskloom_worked::site::Site;

/// Fetches pages and writes a JSON file about each. Exits with 1 when one of them failed.
#[derive(Debug, Parser)]
struct Args {
    /// The addresses; without any, those of a local server, two of which are meant to fail.
    urls: Vec<String>,
    /// Where the files go; without it, into `taskloom-pages` among the temporary files.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// How many workers each stage has.
    #[arg(long, default_value_t = 3)]
    workers: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let Args { urls, folder, workers } = Args::parse();
    let (site, client) = (Site::start().await, client());
    let is_demo = urls.is_empty();
    let urls = if is_demo { site.mostly_good(30) } else { urls };
    let folder = folder.unwrap_or_else(|| std::env::temp_dir().join("taskloom-pages"));
    let created = std::fs::create_dir_all(&folder);
    created.with_context(|| format!("{} can't be made", folder.display()))?;

    let rules = Rules { n_workers: workers, ..Rules::new(&folder) };
    let report = start(&client, urls, rules).join().await?;
    println!("{}", Table(&report));
    let n_files = report.stages.last().map_or(0, |it| it.n_out);
    println!("{n_files} files in {}", folder.display());
    let is_good = is_demo || report.stages.iter().all(|it| it.n_errors == 0);
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
