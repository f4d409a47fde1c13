//! Routines kept alive: one that fails, one that hangs, and one that is beyond help.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use taskloom_flow::{BoxError, Cancellation, ChildHealth, ChildSpec, ChildState, Supervisor};
use tokio::time::sleep;

const SECOND: Duration = Duration::from_secs(1);

/// Loses its connection twice, and then holds.
fn feed() -> ChildSpec {
    let n_runs = Arc::new(AtomicUsize::new(0));
    ChildSpec::new("feed", move |child| {
        let n_before = n_runs.fetch_add(1, Ordering::Relaxed);
        async move {
            sleep(SECOND).await;
            child.ready(); // Connected: those after it may start.
            if n_before < 2 {
                return Err("connection reset".into());
            }
            child.stopped().await;
            Ok(())
        }
    })
    .ready_within(5 * SECOND)
}

/// Gives a sign of life each second. In its first run it hangs after three.
fn index() -> ChildSpec {
    let n_runs = Arc::new(AtomicUsize::new(0));
    ChildSpec::new("index", move |child| {
        let hangs = n_runs.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            for n in 0.. {
                child.heartbeat().beat();
                let nap = if hangs && n == 3 { Duration::MAX } else { SECOND };
                if child.cancellation().run(sleep(nap)).await.is_err() {
                    break; // Told to stop.
                }
            }
            Ok(())
        }
    })
    .heartbeat(5 * SECOND)
}

/// A supervisor as a child: when it gives up, that is a failure of this child.
fn mail() -> ChildSpec {
    ChildSpec::new("mail", |child| async move {
        let sender = ChildSpec::new("sender", async |_| Err("no such host".into()));
        let supervisor = Supervisor::new().intensity(3, 60 * SECOND).child(sender);
        Ok(supervisor.run(child.cancellation()).await?)
    })
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), BoxError> {
    let supervisor = Supervisor::new()
        .intensity(20, 60 * SECOND)
        .backoff(SECOND, 30 * SECOND)
        .child(feed())
        .child(index())
        .child(mail());
    let (stop, mut handle) = (Cancellation::new(), supervisor.handle());
    let operate = async {
        let is_up = |it: &ChildHealth| it.state == ChildState::Running && 1 <= it.n_restarts;
        for child in handle.wait_for(|health| health.iter().all(is_up)).await? {
            let error = child.last_error.as_deref().unwrap_or("none");
            println!("{} is up again; last error: {error}", child.name);
        }
        handle.stop("mail").await?; // By hand, for good.
        stop.cancel("the show is over");
        Ok::<(), BoxError>(())
    };
    let (ended, operated) = tokio::join!(supervisor.run(&stop), operate);
    println!("ended: {ended:?}; mail is {:?}", handle.health()[2].state);
    operated
}
