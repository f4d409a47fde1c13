//! Many waits on one thread, and much work on several.

use std::collections::HashSet;
use std::sync::{Arc, Barrier};
use std::thread::{self, ThreadId};

use axum::{Router, routing::get};
use taskloom_cookbook::{Server, client};
use taskloom_flow::{BoxError, Offload, TaskGroup, gather};

const N_CALLS: usize = 20;

/// Its answers come only when this many calls are there at the same time.
fn routes() -> Router {
    let all_here = Arc::new(tokio::sync::Barrier::new(N_CALLS));
    let meet = async move || {
        all_here.wait().await;
        "all here"
    };
    Router::new().route("/meet", get(meet))
}

async fn call(client: &reqwest::Client, url: &str) -> Result<ThreadId, reqwest::Error> {
    client.get(url).send().await?.error_for_status()?.bytes().await?;
    Ok(thread::current().id())
}

fn n_primes(until: u32) -> usize {
    let is_prime = |n: &u32| (2..*n).take_while(|it| it * it <= *n).all(|it| !n.is_multiple_of(it));
    (2..until).filter(is_prime).count()
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), BoxError> {
    let (server, client) = (Server::with(routes()).await, client());
    let url = server.url("/meet");

    // Concurrent, not parallel: twenty calls wait at once, and one thread polls them in turn.
    let calls: Vec<_> = (0..N_CALLS).map(|_| call(&client, &url)).collect();
    let threads: HashSet<ThreadId> = gather(calls).await?.into_iter().collect();
    println!("{N_CALLS} calls at once on {} thread", threads.len());
    println!("the one of main: {}", threads.contains(&thread::current().id()));

    // Spawned: the workers share them, and may run two at the same moment.
    let group = TaskGroup::new();
    let routines: Vec<_> = (0..N_CALLS)
        .map(|_| {
            let (client, url) = (client.clone(), url.clone());
            group.spawn("call", async move { call(&client, &url).await })
        })
        .collect();
    let threads: HashSet<ThreadId> = gather(routines).await?.into_iter().collect();
    println!("{N_CALLS} routines, on main's thread: {}", threads.contains(&thread::current().id()));

    // Parallel: neither half ends unless both are at work at the same moment.
    let pool = Offload::new("primes", 2);
    let both_here = Arc::new(Barrier::new(2));
    let halves = [10_000, 20_000].map(|until| {
        let both_here = Arc::clone(&both_here);
        pool.run(move |_cancel| {
            both_here.wait();
            n_primes(until)
        })
    });
    println!("primes, counted in parallel: {:?}", gather(halves).await?);
    group.join().await?;
    Ok(())
}
