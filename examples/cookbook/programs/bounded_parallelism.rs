//! Thirty calls: all at once, and then four at a time in three ways.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use taskloom_cookbook::{Server, client};
use taskloom_flow::{BoundedTaskGroup, TaskGroup, gather};
use tokio::sync::{Barrier, Semaphore};

const N: usize = 30;
const N_AT_ONCE: usize = 4;

type Error = Box<dyn std::error::Error + Send + Sync>;

async fn length(client: reqwest::Client, url: String) -> Result<usize, reqwest::Error> {
    Ok(client.get(url).send().await?.error_for_status()?.bytes().await?.len())
}

fn tell(how: &str, server: &Server) {
    assert!(server.n_at_once_most() <= N_AT_ONCE);
    println!("{how}: {} requests, never over {N_AT_ONCE} at once", server.n_requests());
}

/// A page that is answered only when all the calls wait for it.
async fn meeting_point() -> Server {
    let all = Arc::new(Barrier::new(N));
    let wait = async move || all.wait().await.is_leader().to_string();
    Server::with(axum::Router::new().route("/meet", axum::routing::get(wait))).await
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let client = client();

    // Nothing holds them back: the server has all of them at the same time.
    let server = meeting_point().await;
    let calls: Vec<_> = (0..N).map(|_| length(client.clone(), server.url("/meet"))).collect();
    gather(calls).await?;
    println!("gather: {N} requests, {} at once", server.n_at_once_most());

    // A stream within this routine: for calls that mostly wait, and may borrow.
    let server = Server::start().await;
    let calls = (0..N).map(|_| length(client.clone(), server.url("/slow/5")));
    let lengths: Vec<usize> =
        futures::stream::iter(calls).buffer_unordered(N_AT_ONCE).try_collect().await?;
    assert_eq!(lengths, ["slow".len(); N]);
    tell("buffer_unordered", &server);

    // Routines of their own, on all the threads: `spawn` waits for a slot.
    let server = Server::start().await;
    let group = BoundedTaskGroup::new(N_AT_ONCE);
    for _ in 0..N {
        group.spawn("call", length(client.clone(), server.url("/slow/5"))).await;
    }
    group.join().await?;
    tell("BoundedTaskGroup", &server);

    // One bound for calls from several places: a permit for each call.
    let server = Server::start().await;
    let permits = Arc::new(Semaphore::new(N_AT_ONCE));
    let group = TaskGroup::new();
    for _ in 0..N {
        let permit = Arc::clone(&permits).acquire_owned().await?;
        let call = length(client.clone(), server.url("/slow/5"));
        group.spawn("call", async move {
            let _permit = permit;
            call.await
        });
    }
    group.join().await?;
    tell("Semaphore", &server);
    Ok(())
}
