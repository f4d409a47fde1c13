//! The demo's local world: an HTTP server with recorded data and real faults, and a catcher of
//! mail. Both listen on 127.0.0.1 only, on a free port, and carry what they serve in the binary.

pub(crate) mod faults;
pub(crate) mod records;
pub(crate) mod server;
pub(crate) mod smtp;

/// Runs the demo.
pub(crate) async fn run(
    _args: crate::args::DemoArgs,
    _json: bool,
) -> anyhow::Result<std::process::ExitCode> {
    Ok(std::process::ExitCode::SUCCESS)
}
