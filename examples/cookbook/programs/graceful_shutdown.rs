//! A server that is told to stop: it answers what it has taken, and takes nothing new.

use std::process::Command;
use std::time::Duration;

use axum::{Router, routing::post};
use taskloom_cookbook::client;
use taskloom_flow::{BoxError, Cancellation, TaskGroup};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Waits for the signal to stop: from `kill`, or Ctrl-C.
async fn told_to_stop() -> Result<&'static str, std::io::Error> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
    }
}

/// Takes a job into the queue. This one answers only after the stop has begun.
async fn accept(jobs: mpsc::Sender<u32>, stop: Cancellation, begun: mpsc::Sender<()>) -> String {
    begun.send(()).await.ok();
    stop.cancelled().await;
    for job in 1..=3 {
        jobs.send(job).await.ok();
    }
    "accepted 3 jobs".into()
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let group = TaskGroup::isolated();
    let stop = group.cancellation().clone();
    let ((jobs, mut queue), (begun, mut has_begun)) = (mpsc::channel(16), mpsc::channel(1));

    // The signal is caught from before the server starts.
    let mut stop_asked = Box::pin(told_to_stop());
    assert!(futures::poll!(&mut stop_asked).is_pending());

    // It ends when its last sender does, which is after the last answer: nothing is lost.
    let worker = group.spawn("worker", async move {
        let mut n_done = 0;
        while queue.recv().await.is_some() {
            n_done += 1;
        }
        Ok::<_, BoxError>(n_done)
    });

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/jobs", listener.local_addr()?);
    group.spawn_with("server", |stop| {
        let inner = stop.clone();
        let handler = post(move || accept(jobs.clone(), inner.clone(), begun.clone()));
        let app = Router::new().route("/jobs", handler);
        let serving = axum::serve(listener, app);
        serving.with_graceful_shutdown(async move { drop(stop.cancelled().await) }).into_future()
    });

    // A client whose request is under way when the signal comes.
    let client = client();
    let request = client.post(&url).send();
    let answer = group.spawn("client", async move { request.await?.text().await });
    has_begun.recv().await;
    Command::new("kill").args(["-TERM", &std::process::id().to_string()]).status()?;
    println!("told to stop by {}", stop_asked.await?);

    // From now on it drains: for ten seconds, or until somebody asks once more.
    let drained = tokio::select! {
        drained = group.drain(Duration::from_secs(10)) => drained,
        again = told_to_stop() => return Err(format!("{} again: ended at once", again?).into()),
    };
    println!("stopped because {}", stop.reason().ok_or("it was not")?);
    println!("the request under way: {}", answer.await?);
    println!("the worker did {} of 3, {} were cut short", worker.await?, drained.n_aborted);
    println!("a new request is refused: {}", client.post(url).send().await.is_err());
    Ok(())
}
