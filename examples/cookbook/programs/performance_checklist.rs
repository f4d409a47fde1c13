//! Three habits and what they save: counted, so that it is the same on every machine.

use std::pin::Pin;
use std::task::{Context, Poll};

use taskloom_cookbook::{Server, client};
use taskloom_flow::{BoxError, TaskGroup};
use tokio::io::{self, AsyncWrite, AsyncWriteExt as _, BufWriter};
use tokio::sync::mpsc;

const N: usize = 10_000;

/// Stands for a socket or a file: each write is a call of the system.
#[derive(Default)]
struct Writes(usize);

type Written = Poll<io::Result<usize>>;

impl AsyncWrite for Writes {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, line: &[u8]) -> Written {
        self.0 += 1;
        Poll::Ready(Ok(line.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

async fn write_lines(mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    for n in 0..N {
        to.write_all(format!("line {n}\n").as_bytes()).await?;
    }
    to.flush().await
}

/// How often one asks for all the numbers, when each time up to `n_at_most` come.
async fn n_receives(n_at_most: usize) -> usize {
    let (sender, mut receiver) = mpsc::channel(1024);
    let group = TaskGroup::new();
    group.spawn("sender", async move {
        for n in 0..N {
            sender.send(n).await.ok();
        }
    });
    let (mut batch, mut n_receives) = (Vec::new(), 0);
    while 0 < receiver.recv_many(&mut batch, n_at_most).await {
        n_receives += 1;
    }
    assert_eq!(batch.len(), N);
    n_receives
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let (mut bare, mut buffered) = (Writes::default(), Writes::default());
    write_lines(&mut bare).await?;
    write_lines(BufWriter::new(&mut buffered)).await?;
    println!("writes of {N} lines: {}, and {} through a buffer", bare.0, buffered.0);

    let (one, many) = (n_receives(1).await, n_receives(1024).await);
    println!("receives of {N} items: {one}; in batches under a tenth, {}", many < N / 10);

    let (server, shared) = (Server::start().await, client());
    for _ in 0..10 {
        shared.get(server.url("/page/1")).send().await?.bytes().await?;
    }
    let n_shared = server.n_connections();
    println!("connections of one client for 10 calls: under 5, {}", n_shared < 5);
    for _ in 0..10 {
        client().get(server.url("/page/1")).send().await?.bytes().await?;
    }
    println!("of 10 clients for as many: {}", server.n_connections() - n_shared);
    Ok(())
}
