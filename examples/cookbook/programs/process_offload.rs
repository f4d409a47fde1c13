//! Work in a child process, bounded in time; and heavy computing on threads of its own.

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use taskloom_flow::{BoxError, Offload, gather, timeout};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

const SIZE: usize = 1 << 20;

/// This program again, as the child that does `what`.
fn child(what: &str) -> Result<Command, BoxError> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(what).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true); // Else a child lives on when its future is dropped.
    Ok(command)
}

/// What the child does: far more words than a pipe holds, or nothing for ever.
fn be_the_child(what: &str) -> Result<(), BoxError> {
    if what == "hang" {
        std::thread::sleep(Duration::from_secs(3600));
    }
    std::io::stderr().write_all(&[b'e'; SIZE])?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::stdout())?;
    Ok(())
}

/// Writes and reads at once: whoever did one after the other would wait for a full pipe.
async fn through_child(words: &[u8]) -> Result<(Vec<u8>, usize), BoxError> {
    let mut child = child("echo")?.spawn()?;
    let mut stdin = child.stdin.take().ok_or("it is piped")?;
    let said = async {
        stdin.write_all(words).await?;
        drop(stdin); // The child's input ends only when this is dropped.
        Ok(())
    };
    let ended = async { child.wait_with_output().await };
    let ((), output) = gather((said, ended)).await?;
    if !output.status.success() {
        return Err(format!("the child ended with {}", output.status).into());
    }
    Ok((output.stdout, output.stderr.len()))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    if let Some(what) = std::env::args().nth(1) {
        return be_the_child(&what);
    }
    let words = vec![b'o'; SIZE];
    let (out, n_errors) = through_child(&words).await?;
    assert!(out == words);
    println!("{} bytes came back, and {n_errors} bytes of errors", out.len());

    // Time is up: the future is dropped, the child with it, and its end of the pipe is closed.
    let mut hanging = child("hang")?.spawn()?;
    let mut stdout = hanging.stdout.take().ok_or("it is piped")?;
    let waiting = async move { hanging.wait().await };
    let error = timeout(Duration::from_millis(50), waiting).await.expect_err("it hangs");
    println!("hangs: {error}");
    println!("after it: {} bytes", stdout.read_to_end(&mut Vec::new()).await?);

    // Or ask: end it, and wait until the system has forgotten it.
    let mut hanging = child("hang")?.spawn()?;
    hanging.kill().await?;
    println!("killed: {}", hanging.try_wait()?.is_some_and(|it| !it.success()));

    // Heavy computing on one thread: dropped, it is told so, and makes room for the next.
    let pool = Offload::new("sums", 1);
    let endless = pool.run(|cancel| (0_u64..).take_while(|_| !cancel.is_cancelled()).count());
    let error = timeout(Duration::from_millis(50), endless).await.expect_err("it has no end");
    println!("computes: {error}");
    println!("computed: {}", pool.run(|_| (0..1_000_000_u64).sum::<u64>()).await?);
    Ok(())
}
