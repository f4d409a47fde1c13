//! Answers kept for a while, each computed once, with the network asked as seldom as can be.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use taskloom_cookbook::{Server, client};
use taskloom_flow::{Cache, gather};
use tokio::time;

/// Errors are shared among those who wait, so they must be `Clone`: here by an `Arc`.
async fn fetch(client: reqwest::Client, url: String) -> Result<String, Arc<reqwest::Error>> {
    Ok(client.get(url).send().await?.error_for_status()?.text().await?)
}

/// Lets time pass, as a test may do; a program would just run.
async fn pass(secs: u64) {
    time::pause();
    time::advance(Duration::from_secs(secs)).await;
    time::resume();
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gone = get(async || StatusCode::GONE);
    let (server, client) = (Server::with(Router::new().route("/gone", gone)).await, client());
    let cache: Cache<String, String, Arc<reqwest::Error>> = Cache::builder(1_000)
        .ttl(Duration::from_secs(60))
        .ttl_error(Duration::from_secs(5))
        .stale_for(Duration::from_secs(600))
        .build();
    let page = async |path: &str| {
        let (client, url) = (client.clone(), server.url(path));
        cache.get_or_load(path, move || fetch(client, url)).await
    };

    // Single flight: a hundred ask at once, one request is made.
    let pages = gather((0..100).map(|_| page("/page/1")).collect::<Vec<_>>()).await?;
    println!("{} pages, {} request", pages.len(), server.n_requests());

    // A minute later the value is old. It is served at once, and a new one is fetched meanwhile.
    pass(61).await;
    page("/page/1").await?;
    println!("served from memory: {} old", cache.stats().stale_hits);
    let n_hits = cache.stats().hits;
    while cache.stats().hits == n_hits {
        page("/page/1").await?; // Served again and again, until the refresh is through.
        tokio::task::yield_now().await;
    }
    println!("refreshed: {} requests", server.n_requests());

    // An error is remembered too, for a shorter time.
    for _ in 0..3 {
        let error = page("/gone").await.expect_err("it answers 410");
        assert_eq!(error.status(), Some(StatusCode::GONE));
    }
    println!("three errors: {} requests", server.n_requests());
    pass(6).await;
    page("/gone").await.expect_err("it answers 410");
    println!("asked anew: {} requests", server.n_requests());

    // Bounded: there is room for a thousand, whatever comes.
    for n in 0..5_000 {
        cache.insert(format!("/page/{n}"), String::new());
    }
    println!("never over its capacity: {}", cache.stats().entries <= 1_000);
    Ok(())
}
