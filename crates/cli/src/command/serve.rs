//! `taskloom serve`: run jobs until a signal comes.

use std::process::ExitCode;
use std::task::Poll;

use anyhow::Result;
use taskloom::TaskSystem;

use super::Place;
use crate::args::ServeArgs;

pub(super) async fn run(place: &Place, args: ServeArgs) -> Result<ExitCode> {
    let mut builder = TaskSystem::open(&place.store)
        .builtin_tasks()
        .max_workers(args.workers)
        .drain_deadline(args.drain);
    if let Some(n) = args.blocking_workers {
        builder = builder.blocking_workers(n);
    }
    for (name, slots) in args.queues {
        builder = builder.queue(name, slots);
    }
    let system = builder.start().await?;
    // Listens for signals before anybody is told that it serves.
    let mut running = std::pin::pin!(system.run_until_signal());
    if let Poll::Ready(ended) = futures::poll!(&mut running) {
        ended?;
        return Ok(ExitCode::SUCCESS);
    }
    let info = system.store().info();
    if place.json {
        crate::print::json(&serde_json::json!({"serving": info}))?;
    } else {
        let (store, synchronous) = (&info.store, info.synchronous);
        crate::print::line(format!(
            "serving {store} (synchronous={synchronous}) with the tasks http, data and email\n\
             Ctrl-C drains; a second one stops at once"
        ))?;
    }
    running.await?;
    Ok(ExitCode::SUCCESS)
}
