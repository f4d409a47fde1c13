//! Fetch, transform, store: a pipeline of stages, each with workers of its own.

use std::sync::Arc;

use taskloom_cookbook::{Server, client};
use taskloom_flow::Stages;
use tokio::fs;
use tokio::io::AsyncWriteExt as _;

async fn fetch(client: reqwest::Client, url: String) -> Result<String, reqwest::Error> {
    client.get(url).send().await?.error_for_status()?.text().await
}

/// The text between the tags of the title.
fn title(page: &str) -> Result<String, &'static str> {
    let (_, rest) = page.split_once("<title>").ok_or("no title")?;
    Ok(rest.split_once("</title>").ok_or("the title has no end")?.0.to_owned())
}

/// Appends some lines to the file.
async fn store(path: Arc<std::path::PathBuf>, lines: Vec<String>) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(&*path).await?;
    file.write_all((lines.join("\n") + "\n").as_bytes()).await?;
    file.flush().await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (server, client) = (Server::start().await, client());
    let folder = tempfile::tempdir()?;
    let path = Arc::new(folder.path().join("titles.txt"));

    let mut paths: Vec<String> = (1..=40).map(|n| format!("/page/{n}")).collect();
    paths[10] = "/missing".to_owned();
    paths[20] = "/slow/1".to_owned(); // It answers without a title.
    let urls: Vec<String> = paths.iter().map(|it| server.url(it)).collect();

    // Each line holds at most 16 items, and a full one holds up the stage before it. Items keep
    // their order, though eight fetch at a time.
    let stored_in = Arc::clone(&path);
    let run = Stages::from(urls)
        .queue(16)
        .in_order()
        .map("fetch", 8, move |url| fetch(client.clone(), url))
        .map("title", 1, async |page: String| title(&page))
        .batch(10)
        .for_each("store", 1, move |lines| store(Arc::clone(&stored_in), lines));
    let report = run.join().await?;

    for stage in &report.stages {
        let (name, n_in, n_out) = (stage.name, stage.n_in, stage.n_out);
        println!("{name:>6}: {n_in:>2} in, {n_out:>2} out, {} lost", stage.n_errors);
    }
    let mut faults: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
    faults.sort();
    for fault in &faults {
        println!("{}", fault.replace(&server.url(""), ""));
    }
    println!("never over 8 requests at once: {}", server.n_at_once_most() <= 8);

    let titles = fs::read_to_string(&*path).await?;
    let titles: Vec<&str> = titles.lines().collect();
    println!("{} titles, from {:?} to {:?}", titles.len(), titles[0], titles[titles.len() - 1]);
    assert_eq!(titles[9..12], ["Page 10", "Page 12", "Page 13"]);
    Ok(())
}
