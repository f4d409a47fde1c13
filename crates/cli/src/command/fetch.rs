//! `taskloom fetch`: many URLs as durable jobs. Stopped midway, the same command goes on.
//!
//! The jobs of one fetch share a key, made of the list and the options that shape the answers. A
//! later run with the same list takes up the newest fetch if it is unfinished, else begins another.

mod batch;
mod report;
mod task;

use std::io::{IsTerminal, Read};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use taskloom::{JobError, TaskSystem};

use super::Place;
use crate::args::{Extract, FetchArgs};
use crate::exit::{FAILED, INTERRUPTED, Usage};
use batch::Batch;
use report::{Fetched, Report};
use task::FetchUrl;

pub(super) async fn run(place: &Place, args: FetchArgs) -> Result<ExitCode> {
    let urls = read_urls(&args.urls)?;
    let fetch = FetchUrl::new(args.rate, args.timeout, args.extract == Some(Extract::Title));
    let one_by_one = if args.compare { Some(compare(&fetch, &urls).await) } else { None };
    let began = Instant::now();
    let system = TaskSystem::open(&place.store)
        .without_registered_tasks()
        .task(fetch)
        .max_workers(usize::from(args.concurrency))
        .drain_deadline(Duration::ZERO)
        .start()
        .await?;
    let batch = Batch::take_up(&system, &urls, &args).await?;
    let bar = bar(urls.len(), place.json);
    if 0 < batch.n_ended {
        let (n, all) = (batch.n_ended, urls.len());
        say(&bar, &format!("going on: {n} of {all} have ended already"));
    }
    let mut fetched: Vec<Fetched> = Vec::with_capacity(urls.len());
    let mut ended = system.as_completed(batch.handles.clone()).await?;
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    let is_interrupted = loop {
        let next = tokio::select! {
            biased;
            _ = &mut stop => break true,
            next = ended.next() => next,
        };
        let Some((handle, result)) = next else { break false };
        if let Err(JobError::Store(error)) = result {
            return Err(error.into());
        }
        let it = Fetched::new(batch.line_of(handle.id()), result);
        if place.json {
            crate::print::json(&it)?;
        } else {
            say(&bar, &it.line());
        }
        bar.inc(1);
        fetched.push(it);
    };
    bar.finish_and_clear();
    system.drain().await?;
    if is_interrupted {
        let (n, all) = (fetched.len(), urls.len());
        eprintln!("stopped with {n} of {all} fetched; the same command goes on from here");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    fetched.sort_by_key(|it| it.line);
    let report = Report::new(fetched, began.elapsed(), one_by_one);
    if place.json {
        crate::print::json(&report.summary())?
    } else {
        report.print()?
    }
    Ok(if report.has_failed() { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}

/// Fetches one after the other, without jobs, as a plain program would.
async fn compare(fetch: &FetchUrl, urls: &[String]) -> Duration {
    let began = Instant::now();
    for url in urls {
        // What fails here fails below as well, and is told there.
        fetch.fetch_plain(url).await.ok();
    }
    began.elapsed()
}

/// A line above the bar, or on standard error as it is: a hidden bar prints nothing.
fn say(bar: &ProgressBar, line: &str) {
    bar.suspend(|| eprintln!("{line}"));
}

fn bar(n: usize, json: bool) -> ProgressBar {
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta} left");
    let bar = ProgressBar::new(u64::try_from(n).unwrap_or(u64::MAX));
    style.map_or(bar.clone(), |style| bar.with_style(style))
}

fn read_urls(path: &Path) -> Result<Vec<String>> {
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map_err(|error| Usage(format!("can't read {}: {error}", path.display())))?;
    let urls = parse_urls(&text);
    if urls.is_empty() {
        let path = path.display();
        return Err(Usage(format!("{path} holds no URL; write one a line")).into());
    }
    Ok(urls)
}

fn parse_urls(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim);
    lines.filter(|it| !it.is_empty() && !it.starts_with('#')).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_one_url_a_line() {
        let text = "# a list\nhttp://a/\n\n  http://b/#part  \n";
        assert_eq!(parse_urls(text), ["http://a/", "http://b/#part"]);
    }
}
