//! `taskloom bench`: what this machine does, on a real store with the durability asked for.

mod backlog;
mod hold;
mod lifecycle;
mod load;
mod place;
mod processes;
mod server;

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use super::Place;
use crate::args::BenchArgs;
use crate::exit::INTERRUPTED;
use crate::print;
use place::Bench;
pub(crate) use processes::work;

pub(super) async fn run(place: &Place, args: BenchArgs) -> Result<ExitCode> {
    let bench = Bench::new(&place.store, &args).await?;
    let measured = tokio::select! {
        measured = measure(&bench, &args, place.json) => measured.map(|()| ExitCode::SUCCESS),
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.map(|()| ExitCode::from(INTERRUPTED)).map_err(Into::into)
        }
    };
    // Whatever has happened: nothing is left behind.
    let cleared = bench.clear().await;
    let code = measured?;
    cleared?;
    Ok(code)
}

async fn measure(bench: &Bench, args: &BenchArgs, json: bool) -> Result<()> {
    if let Some(n) = args.processes {
        return told(&processes::measure(bench, args, n).await?, json, processes::tell);
    }
    if let Some(n) = args.backlog {
        return told(&backlog::measure(bench, args, n).await?, json, backlog::tell);
    }
    if let Some(secs) = args.hold {
        return told(&hold::measure(bench, args, secs).await?, json, hold::tell);
    }
    told(&lifecycle::measure(bench, args).await?, json, lifecycle::tell)
}

fn told<R: Serialize>(report: &R, json: bool, tell: impl Fn(&R) -> Result<()>) -> Result<()> {
    if json { print::json(report) } else { tell(report) }
}
