//! The commands, one file each.

mod bench;
mod fetch;
mod jobs;
mod migrate;
mod serve;
mod submit;
mod verify;

use std::process::ExitCode;

use anyhow::Result;
use clap::CommandFactory;

use crate::args::{Args, Command, STORE_DEFAULT};

/// Where a command works and how it answers.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) store: String,
    pub(crate) json: bool,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let store = args.store.clone().unwrap_or_else(|| STORE_DEFAULT.to_owned());
    let place = Place { store, json: args.json };
    match args.command {
        Command::Serve(args) => serve::run(&place, args, serve::Role::Server).await,
        Command::Worker(args) => serve::run(&place, args, serve::Role::Worker).await,
        Command::Migrate(args) => migrate::run(&place, args).await,
        Command::Submit(args) => submit::run(&place, *args).await,
        Command::Jobs(command) => jobs::run(&place, command).await,
        Command::Fetch(args) => fetch::run(&place, args).await,
        Command::Bench(args) => bench::run(&place, args).await,
        Command::BenchWorker(args) => bench::work(&place.store, args).await,
        Command::Demo(args) => crate::demo::run(args, place.json).await,
        Command::Verify => verify::run(&place).await,
        #[cfg(unix)]
        Command::Torture(torture) => crate::torture::run(args.store, place.json, torture).await,
        #[cfg(unix)]
        Command::TortureWorker(args) => crate::torture::worker::run(&place.store, args).await,
        Command::Completions { shell } => {
            let mut command = Args::command();
            clap_complete::generate(shell, &mut command, "taskloom", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}
