//! Requests on the runtime and sums on threads, in one pipeline, with neither in the other's way.

use std::thread::{self, ThreadId};

use futures::{StreamExt as _, TryStreamExt as _};
use taskloom_cookbook::{Server, client};
use taskloom_flow::{Offload, Stages, map_concurrent};

async fn fetch(client: reqwest::Client, url: String) -> Result<String, reqwest::Error> {
    client.get(url).send().await?.error_for_status()?.text().await
}

/// Stands for work that keeps a core busy: a hash (FNV-1a) over the page, many times.
fn digest(page: &str) -> u64 {
    let bytes = page.bytes().cycle().take(100_000);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// The digest, and on which thread it was made.
fn digest_here(page: &str) -> Result<(u64, ThreadId), String> {
    if page == "slow" {
        Err("not a page".into())
    } else {
        Ok((digest(page), thread::current().id()))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (server, client) = (Server::start().await, client());
    let mut urls: Vec<String> = (1..=30).map(|n| server.url(&format!("/page/{n}"))).collect();
    urls.push(server.url("/slow/1"));

    // Sixteen requests on the runtime, two threads for the digests, batches of ten at the end.
    let fetching = client.clone();
    let mut batches = Stages::from(urls.clone())
        .in_order()
        .map("fetch", 16, move |url| fetch(fetching.clone(), url))
        .cpu("digest", 2, |page: String| digest_here(&page))
        .batch(10)
        .into_stream();
    let (mut digests, mut on_runtime) = (Vec::new(), false);
    while let Some(batch) = batches.next().await {
        println!("a batch of {}", batch.len());
        on_runtime |= batch.iter().any(|(_, thread)| *thread == thread::current().id());
        digests.extend(batch.into_iter().map(|(digest, _)| digest));
    }
    let report = batches.finish().await?;
    println!("any digest on the runtime's thread: {on_runtime}");
    println!("lost: {}", report.failures[0]);

    // The same without a pipeline: a stream of pages, and a pool of threads to share.
    let pool = Offload::new("digest", 2);
    let pages = map_concurrent(urls, 16, |url| fetch(client.clone(), url));
    let pages: Vec<String> = pages.try_collect().await?;
    let again = pool.map_cpu(pages.into_iter().take(30), |page| digest(&page));
    let again: Vec<u64> = again.try_collect().await?;
    println!("the same digests in the same order: {}", again == digests);
    Ok(())
}
