//! Thirty callers, three TCP connections: shared, checked before use, and never over the bound.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::{io, time::Duration};

use taskloom_flow::{BoxError, Pool, PoolManager, TaskGroup, gather};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Sends each line back, and counts the connections. `hang_up` ends them.
async fn serve(listener: TcpListener, n_open: watch::Sender<usize>, hang_up: watch::Sender<()>) {
    let connections = TaskGroup::isolated();
    while let Ok((mut stream, _)) = listener.accept().await {
        n_open.send_modify(|it| *it += 1);
        let mut hung_up = hang_up.subscribe();
        connections.spawn("connection", async move {
            let (mut reader, mut writer) = stream.split();
            tokio::select! {
                biased;
                _ = hung_up.changed() => {}
                _ = copy(&mut reader, &mut writer) => {}
            }
        });
    }
}

async fn ask(line: &mut BufReader<TcpStream>, question: &str) -> io::Result<String> {
    line.write_all(format!("{question}\n").as_bytes()).await?;
    let mut answer = String::new();
    let n_bytes = line.read_line(&mut answer).await?;
    if n_bytes == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(answer) }
}

struct Lines(SocketAddr);

impl PoolManager for Lines {
    type Resource = BufReader<TcpStream>;
    type Error = io::Error;

    async fn open(&self) -> io::Result<BufReader<TcpStream>> {
        Ok(BufReader::new(TcpStream::connect(self.0).await?))
    }

    async fn check(&self, line: &mut BufReader<TcpStream>) -> io::Result<()> {
        ask(line, "ping").await.map(drop)
    }
}

async fn call(pool: &Pool<Lines>, question: &str) -> Result<String, BoxError> {
    let mut line = pool.acquire().await?; // A guard: dropped, it gives the connection back.
    Ok(ask(&mut line, question).await?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let lines = Lines(listener.local_addr()?);
    let (n_open, hang_up) = (watch::Sender::new(0), watch::Sender::new(()));
    let group = TaskGroup::isolated();
    group.spawn("server", serve(listener, n_open.clone(), hang_up.clone()));

    // Checked before every use here; by default, after a second of idleness.
    let pool = Pool::builder(lines).n_max(3).check_after(Duration::ZERO);
    let pool = Arc::new(pool.acquire_timeout(Duration::from_secs(10)).build());
    let answers = gather((0..30).map(|_| call(&pool, "how are you")).collect::<Vec<_>>()).await?;
    println!("{} answers, over 3 connections: {}", answers.len(), 3 < *n_open.borrow());
    // The server hangs up. The check finds out, and the caller gets a new connection.
    hang_up.send_replace(());
    println!("after a hang-up: {:?}", call(&pool, "still there").await?.trim());
    println!("found unfit: {}", 0 < pool.stats().failed_checks);
    // All are lent: who comes now gets an error after the acquire timeout, which says why.
    let _lent = gather((0..3).map(|_| pool.acquire()).collect::<Vec<_>>()).await?;
    tokio::time::pause(); // Ten seconds at once.
    let other = Arc::clone(&pool);
    let late = group.spawn("late", async move { Ok::<_, BoxError>(other.acquire().await.err()) });
    println!("{}", late.await?.expect("all are lent"));
    Ok(())
}
