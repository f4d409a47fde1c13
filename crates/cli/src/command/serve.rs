//! `taskloom serve` and `taskloom worker`: run jobs until a signal comes.

use std::process::ExitCode;
use std::task::Poll;

use anyhow::Result;
use taskloom::TaskSystem;

use super::Place;
use crate::args::ServeArgs;

/// What a process is to others beside running jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Whatever `serve` will offer to the outside.
    Server,
    /// Nothing, ever: it opens no port.
    Worker,
}

impl Role {
    fn verb(self) -> &'static str {
        match self {
            Role::Server => "serving",
            Role::Worker => "working",
        }
    }
}

pub(super) async fn run(place: &Place, args: ServeArgs, role: Role) -> Result<ExitCode> {
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
        crate::print::json(&serde_json::json!({ role.verb(): info }))?;
    } else {
        let (store, synchronous) = (&info.store, info.synchronous);
        crate::print::line(format!(
            "{} {store} (synchronous={synchronous}) with the tasks http, data and email\n\
             Ctrl-C drains; a second one stops at once",
            if role == Role::Server { "serving" } else { "working on" }
        ))?;
    }
    running.await?;
    Ok(ExitCode::SUCCESS)
}
