//! A catcher of mail on 127.0.0.1: it speaks SMTP, keeps every message as a file, sends none on.
//!
//! # Invariants
//! - A message is answered with 250 only when its file stands under its final name.
//! - Connections, lines, recipients, messages and silences are all bounded.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use taskloom_flow::{Cancellation, TaskGroup};
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use self::receive::{Received, read_line, read_message};
use self::session::{Envelope, Session, Step};

mod receive;
mod session;

/// How many connections are served at once; others wait in the system's backlog.
const CONNECTIONS_MAX: usize = 64;

/// How long a client may say nothing.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// How long running sessions may take to end when the catcher stops.
const DRAIN_MAX: Duration = Duration::from_secs(1);

/// The running catcher. It stops with the task group it was started in.
#[derive(Debug, Clone)]
pub(crate) struct MailCatcher {
    address: SocketAddr,
    mailbox: Arc<Mailbox>,
}

#[derive(Debug)]
struct Mailbox {
    folder: PathBuf,
    /// The number of the newest message; the next one gets the number after it.
    newest: AtomicU64,
    n_messages: AtomicU64,
    /// How many connections are still to be turned away.
    n_busy: AtomicU64,
}

impl MailCatcher {
    /// Starts the catcher in `group`, on a free port of 127.0.0.1, keeping messages in `folder`,
    /// which it makes. Numbers go on after those of the files already there.
    ///
    /// The first `n_busy` connections are turned away with 421, as a busy server does.
    ///
    /// # Errors
    /// When no port can be bound, or the folder can't be made or read.
    ///
    /// # Cancel safety
    /// Safe: dropped, it has at most made the folder.
    pub(crate) async fn start(
        group: &TaskGroup,
        folder: impl Into<PathBuf>,
        n_busy: u64,
    ) -> io::Result<MailCatcher> {
        let folder = folder.into();
        tokio::fs::create_dir_all(&folder).await?;
        let newest = newest_number(&folder).await?.into();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (n_messages, n_busy) = (AtomicU64::new(0), n_busy.into());
        let mailbox = Arc::new(Mailbox { folder, newest, n_messages, n_busy });
        let caught = Arc::clone(&mailbox);
        group.spawn_with("demo mail catcher", |stop| catch(listener, caught, stop));
        Ok(MailCatcher { address, mailbox })
    }

    /// Where to send mail: host and port.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many messages were accepted since the start.
    pub(crate) fn n_messages(&self) -> u64 {
        self.mailbox.n_messages.load(Ordering::Acquire)
    }
}

/// The largest number of a message in `folder`.
async fn newest_number(folder: &Path) -> io::Result<u64> {
    let mut entries = tokio::fs::read_dir(folder).await?;
    let mut newest = 0;
    while let Some(entry) = entries.next_entry().await? {
        let path = entry.path();
        let number = path.file_stem().and_then(|it| it.to_str()?.parse().ok());
        newest = newest.max(number.unwrap_or(0));
    }
    Ok(newest)
}

async fn catch(listener: TcpListener, mailbox: Arc<Mailbox>, stop: Cancellation) {
    let sessions = TaskGroup::isolated().under(&stop);
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.cancelled() => break,
            accepted = accept(&listener, &room) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                let mailbox = Arc::clone(&mailbox);
                sessions.spawn_with("demo mail session", |stop| async move {
                    if let Ok(Err(error)) = stop.run(serve(stream, &mailbox)).await {
                        tracing::debug!(%error, "a session of the demo's mail catcher broke off");
                    }
                    drop(permit);
                });
            }
            Err(error) => tracing::warn!(%error, "the demo's mail catcher could not accept"),
        }
    }
    sessions.drain(DRAIN_MAX).await;
}

type Permit = tokio::sync::OwnedSemaphorePermit;

async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> io::Result<(TcpStream, Permit)> {
    let permit = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

/// One session, from greeting to QUIT.
async fn serve(stream: TcpStream, mailbox: &Mailbox) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    if mailbox.is_busy() {
        return say(&mut stream, session::BUSY).await;
    }
    say(&mut stream, session::GREETING).await?;
    let mut session = Session::default();
    loop {
        let line = tokio::time::timeout(SILENCE_MAX, read_line(&mut stream)).await;
        let Ok(line) = line else { return say(&mut stream, session::SILENT).await };
        let Some(line) = line? else { return Ok(()) };
        match session.command(&line) {
            Step::Say(reply) => say(&mut stream, reply).await?,
            Step::Receive(envelope) => {
                say(&mut stream, session::GO_AHEAD).await?;
                let received = tokio::time::timeout(SILENCE_MAX, read_message(&mut stream)).await;
                let Ok(received) = received else { return say(&mut stream, session::SILENT).await };
                let reply = mailbox.keep(&envelope, received?).await;
                say(&mut stream, &reply).await?;
            }
            Step::Quit => return say(&mut stream, session::BYE).await,
        }
    }
}

async fn say(stream: &mut BufReader<TcpStream>, reply: &str) -> io::Result<()> {
    stream.write_all(reply.as_bytes()).await
}

impl Mailbox {
    /// Whether this connection is one to be turned away.
    fn is_busy(&self) -> bool {
        let one_less = |it: u64| it.checked_sub(1);
        self.n_busy.try_update(Ordering::AcqRel, Ordering::Acquire, one_less).is_ok()
    }

    /// Keeps a message and says how that went.
    async fn keep(&self, envelope: &Envelope, received: Received) -> String {
        let message = match received {
            Received::Message(message) => message,
            Received::TooBig => return session::TOO_BIG.to_owned(),
        };
        let number = self.newest.fetch_add(1, Ordering::AcqRel) + 1;
        match self.write(number, envelope, &message).await {
            Ok(()) => {
                self.n_messages.fetch_add(1, Ordering::AcqRel);
                format!("250 2.0.0 kept as {number:06}.eml\r\n")
            }
            Err(error) => {
                tracing::warn!(%error, "the demo's mail catcher could not keep a message");
                session::NO_ROOM.to_owned()
            }
        }
    }

    async fn write(&self, number: u64, envelope: &Envelope, message: &[u8]) -> io::Result<()> {
        let mut content = envelope.headers().into_bytes();
        content.extend_from_slice(message);
        let path = self.folder.join(format!("{number:06}.eml"));
        let unfinished = path.with_extension("part");
        tokio::fs::write(&unfinished, content).await?;
        tokio::fs::rename(&unfinished, &path).await
    }
}

#[cfg(test)]
mod tests;
