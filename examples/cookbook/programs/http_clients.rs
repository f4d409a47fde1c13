//! Many requests through one client: shared connections, and bounds in number, time, and size.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use futures::{TryStreamExt as _, stream};
use parking_lot::Mutex;
use taskloom_cookbook::{Server, client_builder};
use taskloom_flow::{BoxError, map_concurrent_unordered};
use tokio::sync::Semaphore;

const PIECE: &[u8] = &[b'x'; 4096];
const BODY_MAX: usize = 64 * 1024;
/// How many requests are under way at one host, and at all together.
const N_A_HOST: usize = 4;
const N_IN_ALL: usize = 16;

#[derive(Default)]
struct Hosts(Mutex<HashMap<String, Arc<Semaphore>>>);

impl Hosts {
    fn slots(&self, host: &str) -> Arc<Semaphore> {
        let mut hosts = self.0.lock();
        Arc::clone(hosts.entry(host.to_owned()).or_insert_with(|| Semaphore::new(N_A_HOST).into()))
    }
}

/// A body, taken piece by piece, of [`BODY_MAX`] at most.
async fn body(mut response: reqwest::Response) -> Result<Vec<u8>, BoxError> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await? {
        if BODY_MAX < body.len() + piece.len() {
            return Err(format!("the body is over {BODY_MAX} bytes").into());
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

async fn fetch(client: &reqwest::Client, hosts: &Hosts, url: String) -> Result<usize, BoxError> {
    let url = reqwest::Url::parse(&url)?;
    let slots = hosts.slots(url.authority());
    let _slot = slots.acquire().await?;
    Ok(body(client.get(url).send().await?.error_for_status()?).await?.len())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let endless = || async { Body::from_stream(stream::repeat(Ok::<_, Infallible>(PIECE))) };
    let here = Server::with(Router::new().route("/endless", get(endless))).await;
    let there = Server::start().await;
    let client = client_builder()
        .connect_timeout(Duration::from_secs(5))
        .read_timeout(Duration::from_secs(10)) // between two pieces of an answer
        .timeout(Duration::from_secs(30)) // from the connecting to the last byte
        .build()?;

    // Two hosts, 60 requests, 16 under way at a time, 4 at most of one host.
    let urls = (0..60).map(|n| if n % 2 == 0 { &here } else { &there }.url("/page/100"));
    let hosts = Hosts::default();
    let lengths = map_concurrent_unordered(urls, N_IN_ALL, |it| fetch(&client, &hosts, it));
    let lengths: Vec<usize> = lengths.try_collect().await?;
    println!("{} pages, {} bytes", lengths.len(), lengths.iter().sum::<usize>());
    println!("4 at a time at most: {}", here.n_at_once_most() <= 4 && there.n_at_once_most() <= 4);
    println!(
        "connections were reused: {}",
        here.n_connections() < 15 && there.n_connections() < 15
    );

    // A client of one's own for each request, and so a connection.
    let before = there.n_connections();
    for _ in 0..10 {
        taskloom_cookbook::client().get(there.url("/page/100")).send().await?.bytes().await?;
    }
    println!("10 clients: {} connections", there.n_connections() - before);

    let hasty = client.get(here.url("/slow/60000")).timeout(Duration::from_millis(50));
    println!("timed out: {}", hasty.send().await.is_err_and(|it| it.is_timeout()));
    let error = fetch(&client, &hosts, here.url("/endless")).await;
    println!("refused: {}", error.expect_err("it has no end"));
    Ok(())
}
