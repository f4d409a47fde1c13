//! A generator that waits between its items: pages of a list, fetched when they are needed.

use std::pin::pin;

use axum::{Json, Router, extract::Query, routing::get};
use futures::stream::{self, Stream, StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use taskloom_cookbook::{Server, client};

const N_ITEMS: u32 = 25;

#[derive(Serialize, Deserialize)]
struct Page {
    items: Vec<u32>,
    /// Where the next page begins; `None` in the last one.
    next: Option<u32>,
}

#[derive(Deserialize)]
struct Position {
    cursor: u32,
}

/// Gives ten items from the cursor on.
async fn list(Query(Position { cursor }): Query<Position>) -> Json<Page> {
    let end = N_ITEMS.min(cursor + 10);
    Json(Page { items: (cursor..end).collect(), next: (end < N_ITEMS).then_some(end) })
}

/// The generator. Its state is what it needs for the next page; `None` ends it.
fn pages(client: &reqwest::Client, url: String) -> impl Stream<Item = reqwest::Result<Vec<u32>>> {
    stream::try_unfold(Some(0), move |cursor| {
        let request = cursor.map(|it| client.get(format!("{url}?cursor={it}")));
        async move {
            let Some(request) = request else { return Ok(None) };
            let page: Page = request.send().await?.error_for_status()?.json().await?;
            Ok(Some((page.items, page.next)))
        }
    })
}

/// The same, item by item.
fn items(client: &reqwest::Client, url: String) -> impl Stream<Item = reqwest::Result<u32>> {
    pages(client, url).map_ok(|it| stream::iter(it).map(Ok)).try_flatten()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::with(Router::new().route("/list", get(list))).await;
    let (client, url) = (client(), server.url("/list"));

    // `async for`: pin it, and ask for the next until there is none.
    let mut all = pin!(pages(&client, url.clone()));
    while let Some(page) = all.try_next().await? {
        println!("a page of {} from {}", page.len(), page[0]);
    }

    // Only what is asked for is fetched: twelve items lie on two pages.
    let n_before = server.n_requests();
    let first: Vec<u32> = items(&client, url.clone()).take(12).try_collect().await?;
    println!("{} items by {} requests", first.len(), server.n_requests() - n_before);

    // The adaptors of iterators, and some that wait.
    let even = items(&client, url.clone()).try_filter(|it| std::future::ready(it % 2 == 0));
    println!("sum of the even ones: {}", even.try_fold(0, async |sum, it| Ok(sum + it)).await?);

    // One call for each item, four at a time, in the order of the items.
    let page_of = |n| client.get(server.url(&format!("/page/{n}"))).send();
    let lengths = items(&client, url)
        .take(6)
        .map_ok(|n| async move { Ok(page_of(n).await?.bytes().await?.len()) })
        .try_buffered(4);
    println!("lengths: {:?}", lengths.try_collect::<Vec<usize>>().await?);

    // The first error is the last item.
    let broken = pages(&client, server.url("/missing")).collect::<Vec<_>>().await;
    println!("of a list that is missing: {} item, an error: {}", broken.len(), broken[0].is_err());
    Ok(())
}
