//! A synchronous program calls async code, and async code calls what blocks.

use std::thread;

use taskloom_cookbook::{Server, client};
use taskloom_flow::{Offload, catch_panic_blocking};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;

type Error = Box<dyn std::error::Error + Send + Sync>;

async fn length(client: &reqwest::Client, url: String) -> Result<usize, reqwest::Error> {
    Ok(client.get(url).send().await?.error_for_status()?.bytes().await?.len())
}

/// A question to the async side, and where the answer goes.
type Question = (String, oneshot::Sender<Result<usize, reqwest::Error>>);

/// Answers on a thread with a runtime of its own, until the channel is closed.
fn start_answering() -> Result<mpsc::Sender<Question>, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (questions, mut asked) = mpsc::channel::<Question>(16);
    thread::spawn(move || {
        runtime.block_on(async {
            let client = client();
            while let Some((url, answer)) = asked.recv().await {
                answer.send(length(&client, url).await).ok();
            }
        });
    });
    Ok(questions)
}

fn main() -> Result<(), Error> {
    // Sync calls async: a runtime of one's own, and `block_on` where a value is needed.
    let runtime = Runtime::new()?;
    let server = runtime.block_on(Server::start());
    let page = runtime.block_on(length(&client(), server.url("/page/1")))?;
    println!("block_on: {page} bytes");

    // From any other thread: a handle.
    let (handle, url) = (runtime.handle().clone(), server.url("/page/2"));
    let asking = thread::spawn(move || handle.block_on(length(&client(), url)));
    println!("Handle::block_on: {} bytes", asking.join().expect("it does not panic")?);

    // Or the async side stays apart, behind a channel.
    let (questions, (sender, answer)) = (start_answering()?, oneshot::channel());
    questions.blocking_send((server.url("/page/3"), sender))?;
    println!("through a channel: {} bytes", answer.blocking_recv()??);

    runtime.block_on(async {
        // Async calls sync that waits: on one of up to 512 threads that Tokio has for it.
        let text = spawn_blocking(|| std::fs::read_to_string("/no/such/file")).await?;
        println!("spawn_blocking: {:?}", text.expect_err("there is no such file").kind());

        // Async calls sync that computes: on as many threads as there is work for.
        let sums = Offload::new("sums", 2);
        println!("Offload: {}", sums.run(|_cancel| (1..=1000).sum::<u64>()).await?);

        // Async calls sync calls async: a panic, as the loop would wait for itself.
        let nested = catch_panic_blocking(|| Handle::current().block_on(async {}));
        let said = nested.expect_err("a runtime runs here").message;
        println!("block_on inside: {:?}", said.split('.').next());

        // In a thread for blocking work it is allowed.
        let handle = Handle::current();
        let nested = spawn_blocking(move || handle.block_on(async { "fine" })).await?;
        println!("block_on inside spawn_blocking: {nested}");
        Ok(())
    })
}
