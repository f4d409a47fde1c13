//! The `taskloom` command.

mod args;
mod command;
mod demo;
mod exit;
mod print;
#[cfg(unix)]
mod torture;

use std::process::ExitCode;

use clap::Parser;

/// Many small allocations, from many threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    taskloom::run_child_if_asked();
    let args = args::Args::parse();
    print::set_up_logging(&args.log, args.json);
    // The one TLS provider of the process; a second call would only find it there.
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::report(&error.into(), args.json),
    };
    let json = args.json;
    let code = match runtime.block_on(command::run(args)) {
        Ok(code) => code,
        Err(error) => exit::report(&error, json),
    };
    // Blocking tasks that ignore their end must not hold up the exit.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    code
}
