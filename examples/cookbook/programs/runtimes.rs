//! What `#[tokio::main]` stands for, and the threads on which a runtime runs.

use std::collections::HashSet;
use std::thread::{self, ThreadId};

use taskloom_cookbook::{Server, client};
use taskloom_flow::{BoxError, TaskGroup, catch_panic_blocking, gather};
use tokio::runtime::{Builder, Handle};

/// The threads on which twenty routines found themselves.
async fn threads_of_routines() -> Result<HashSet<ThreadId>, BoxError> {
    let group = TaskGroup::new();
    let look = || async { Ok::<_, BoxError>(thread::current().id()) };
    let routines: Vec<_> = (0..20).map(|_| group.spawn("look", look())).collect();
    let threads = gather(routines).await?.into_iter().collect();
    group.join().await?;
    Ok(threads)
}

/// Synchronous code that needs an answer from the asynchronous world: it blocks its own thread.
fn length(handle: &Handle, url: &str) -> Result<usize, reqwest::Error> {
    handle.block_on(async { Ok(client().get(url).send().await?.bytes().await?.len()) })
}

fn main() -> Result<(), BoxError> {
    let here = thread::current().id();

    // #[tokio::main(flavor = "current_thread")]: as asyncio, all on the thread that calls it.
    let single = Builder::new_current_thread().enable_all().build()?;
    let threads = single.block_on(threads_of_routines())?;
    println!("current_thread: all on this thread: {}", threads == HashSet::from([here]));

    // #[tokio::main]: worker threads, one a core if not told otherwise.
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let threads = runtime.block_on(threads_of_routines())?;
    println!("multi_thread: {} workers", runtime.metrics().num_workers());
    println!("spawned routines on this thread: {}", threads.contains(&here));
    let main_future = runtime.block_on(async { thread::current().id() });
    println!("the future of block_on on this thread: {}", main_future == here);

    // The server lives on the workers, while no one is inside block_on.
    let server = runtime.block_on(Server::start());
    let url = server.url("/page/10");
    let handle = runtime.handle().clone();
    let plain = thread::spawn(move || length(&handle, &url));
    let n_bytes = plain.join().map_err(|_| "the thread panicked")??;
    println!("a plain thread fetched {n_bytes} bytes");

    // Inside, a second block_on would stop the thread that has to make the answer.
    let nested = runtime
        .block_on(async { catch_panic_blocking(|| Handle::current().block_on(async { 7 })) });
    let panicked = nested.expect_err("tokio refuses it");
    println!("block_on inside: {}", panicked.message.split('.').next().unwrap_or_default());
    Ok(())
}
