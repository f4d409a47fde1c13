//! Many rows, few calls: chunks that are full, or have waited for long enough.

use std::time::Duration;

use axum::routing::post;
use axum::{Json, Router};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use taskloom_cookbook::{Server, client};
use taskloom_flow::{bulk, chunked, map_concurrent};
use tokio::sync::mpsc;

/// Sends one chunk; the server answers how many rows it took.
async fn insert(
    client: &reqwest::Client,
    url: &str,
    rows: Vec<u32>,
) -> Result<usize, reqwest::Error> {
    client.post(url).json(&rows).send().await?.error_for_status()?.json().await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rows = post(async |Json(rows): Json<Vec<u32>>| Json(rows.len()));
    let (server, client) = (Server::with(Router::new().route("/rows", rows)).await, client());
    let url = server.url("/rows");
    let call = |rows| insert(&client, &url, rows);

    // One call after the other, each of up to 100 rows.
    let taken: Vec<usize> = bulk(0..250, 100, call).try_collect().await?;
    println!("bulk: {taken:?} rows in {} requests", server.n_requests());

    // Three calls at a time.
    let calls = map_concurrent(chunked(0..1_000, 100), 3, call);
    let n_rows: usize = calls.try_fold(0, async |sum, n| Ok(sum + n)).await?;
    println!("concurrent: {n_rows} rows in {} requests", server.n_requests() - 3);

    // Rows that come now and then: a chunk goes when it is full, or 20 ms after its first row.
    let (sender, mut receiver) = mpsc::channel(100);
    let arriving = stream::poll_fn(move |cx| receiver.poll_recv(cx));
    let mut inserts = bulk(arriving, 100, call).or_after(Duration::from_millis(20));
    for row in 0..3 {
        sender.send(row).await?;
    }
    // The channel stays open, and there are no more rows for now.
    println!("or_after: {} rows", inserts.next().await.expect("a chunk was begun")?);
    for row in 0..100 {
        sender.send(row).await?;
    }
    println!("or_after: {} rows", inserts.next().await.expect("a chunk is full")?);
    sender.send(7).await?;
    drop(sender);
    let rest: Vec<usize> = inserts.try_collect().await?;
    println!("at the end: {rest:?}");
    Ok(())
}
