//! Connections that the server can reset: the client's kernel reports `ECONNRESET`, as it does
//! when a real server dies or a firewall loses its memory.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// How long to wait when the system has no room for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections that can be reset.
#[derive(Debug)]
pub(super) struct Wires(pub(super) TcpListener);

/// The handle by which a request's handler resets its connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Peer {
    /// Written by the handler, read by the connection when it writes.
    is_reset: Arc<AtomicBool>,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    peer: Peer,
}

impl Peer {
    /// Resets the connection in place of the answer that the handler returns.
    pub(super) fn reset(&self) {
        self.is_reset.store(true, Ordering::Release);
    }
}

impl Wire {
    /// Refuses to write on a connection that is reset. The server then drops it, and with a
    /// linger of zero that sends RST instead of FIN.
    fn check(&self) -> io::Result<()> {
        if self.peer.is_reset.load(Ordering::Acquire) {
            self.stream.set_zero_linger()?;
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl Listener for Wires {
    type Io = Wire;
    type Addr = Peer;

    async fn accept(&mut self) -> (Wire, Peer) {
        loop {
            match self.0.accept().await {
                Ok((stream, _)) => {
                    // Without it an answer may wait for the client's acknowledgement; never fatal.
                    stream.set_nodelay(true).ok();
                    let peer = Peer::default();
                    return (Wire { stream, peer: peer.clone() }, peer);
                }
                Err(error) => {
                    tracing::warn!(%error, "the demo's server could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(Peer::default())
    }
}

impl Connected<IncomingStream<'_, Wires>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Wires>) -> Self {
        stream.remote_addr().clone()
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A FIN before the RST would look like an orderly end.
        self.check()?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
