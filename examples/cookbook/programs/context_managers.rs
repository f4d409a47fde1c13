//! Open, use, close whatever happens: a lock file by `Drop`, a session by `with_resource`.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use taskloom_flow::{BoxError, Cancellation, TaskGroup, with_resource};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::{TcpListener, TcpStream};

/// Cleaning up without waiting: the file is there as long as this is.
struct LockFile(&'static Path);

impl Drop for LockFile {
    fn drop(&mut self) {
        std::fs::remove_file(self.0).ok();
    }
}

/// How many sessions have taken leave of the server.
static N_BYES: AtomicUsize = AtomicUsize::new(0);

/// Serves one session at a time, and answers each line.
async fn serve(listener: TcpListener) -> io::Result<()> {
    loop {
        let (mut stream, mut line) = (BufStream::new(listener.accept().await?.0), String::new());
        while 0 < stream.read_line(&mut line).await? {
            N_BYES.fetch_add(usize::from(line == "bye\n"), Ordering::Relaxed);
            stream.write_all(b"yes\n").await?;
            stream.flush().await?;
            line.clear();
        }
    }
}

struct Session(BufStream<TcpStream>);

impl Session {
    async fn say(&mut self, line: &str) -> io::Result<()> {
        self.0.write_all(line.as_bytes()).await?;
        self.0.flush().await?;
        self.0.read_line(&mut String::new()).await?;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let path = Path::new("lock");
    tokio::fs::write(path, "").await?;
    let lock = LockFile(path);
    println!("locked: {}", path.exists());
    drop(lock);
    println!("locked after the drop: {}", path.exists());

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (server, group) = (TaskGroup::isolated(), TaskGroup::new());
    server.spawn("server", serve(listener));
    let closers = group.spawner();
    let open = || async move { Ok(Session(BufStream::new(TcpStream::connect(address).await?))) };
    let close = |mut session: Session| async move { session.say("bye\n").await };

    let good = async |session: &mut Session| session.say("hello\n").await;
    with_resource(closers.clone(), open(), good, close).await?;
    println!("used well, byes: {}", N_BYES.load(Ordering::Relaxed));

    let bad = async |_: &mut Session| Err::<(), _>(io::Error::other("no luck"));
    let error =
        with_resource(closers.clone(), open(), bad, close).await.expect_err("its use fails");
    println!("{error}, byes: {}", N_BYES.load(Ordering::Relaxed));

    // Cancelled in the middle: a routine of the group closes it, and the join waits for that.
    let stop = Cancellation::new();
    let endless = async |_: &mut Session| {
        stop.cancel("enough");
        std::future::pending::<io::Result<()>>().await
    };
    let used = stop.run(with_resource(closers.clone(), open(), endless, close)).await;
    println!("{}", used.expect_err("it never ends by itself"));
    group.join().await?;
    println!("after the join, byes: {}", N_BYES.load(Ordering::Relaxed));
    Ok(())
}
