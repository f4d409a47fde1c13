//! A server that is a child of the program: awaited when it starts, ended when it is dropped.

use std::io;
use std::process::{Child, Command};
use std::time::Duration;

use taskloom_flow::{Backoff, BoxError, Retry};

/// How long a server may take to answer, on a machine with much else to do.
const START_MAX: Duration = Duration::from_secs(60);

/// A running server.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    /// Asks it to end; without it, or when it fails, the server is killed.
    stop: Option<Command>,
}

impl Process {
    pub(crate) fn spawn(command: &mut Command, stop: Option<Command>) -> io::Result<Process> {
        Ok(Process { child: command.spawn()?, stop })
    }

    /// Waits until the server lets `connect` succeed, or has ended.
    pub(crate) async fn answers<T, F>(
        &mut self,
        mut connect: impl FnMut() -> F,
    ) -> Result<T, BoxError>
    where
        F: Future<Output = Result<T, BoxError>>,
    {
        let retry = Retry::new(Backoff::constant(Duration::from_millis(10)))
            .n_attempts_max(u32::MAX)
            .time_max(START_MAX)
            .when(|error: &BoxError| !error.is::<Over>());
        let connected = retry.run(|_| {
            let ended = self.child.try_wait();
            let connecting = connect();
            async move {
                match ended? {
                    Some(status) => Err(Over(status).into()),
                    None => connecting.await,
                }
            }
        });
        connected.await.map_err(|it| it.error.to_string().into())
    }
}

impl Drop for Process {
    /// Blocks until it has ended, so that nothing is left of it.
    fn drop(&mut self) {
        let stopped = self.stop.as_mut().is_some_and(|it| it.status().is_ok_and(|it| it.success()));
        if !stopped {
            self.child.kill().ok();
        }
        self.child.wait().ok();
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the server ended: {0}")]
struct Over(std::process::ExitStatus);
