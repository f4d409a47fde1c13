//! A WebSocket server and a client that comes back, and a reader who does not read.

use std::time::Duration;

use axum::Router;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Path, State};
use axum::routing::get;
use futures::StreamExt as _;
use taskloom_cookbook::Server;
use taskloom_flow::{Backoff, BoxError, timeout};
use tokio::sync::mpsc;
use tokio_tungstenite::connect_async_with_config;
use tokio_tungstenite::tungstenite::protocol::{Message as Said, WebSocketConfig};

/// How long the other side may be silent, and how long it may take to read a message.
const SILENCE_MAX: Duration = Duration::from_secs(20);
const SEND_MAX: Duration = Duration::from_millis(200);

/// 128 KiB a connection by default to read into, and messages of 64 MiB: here much less.
fn bounded(upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
    upgrade
        .read_buffer_size(4 * 1024)
        .write_buffer_size(4 * 1024)
        .max_write_buffer_size(256 * 1024)
        .max_frame_size(16 * 1024)
        .max_message_size(16 * 1024)
}

/// Counts from `n` on, and sees after each number that the other side still reads.
async fn count(mut socket: WebSocket, n: u32) -> Result<(), BoxError> {
    for n in n..6 {
        socket.send(n.to_string().into()).await?;
        socket.send(Message::Ping("there?".into())).await?;
        let mut heard = None;
        while !matches!(heard, Some(Message::Pong(_))) {
            heard = Some(timeout(SILENCE_MAX, socket.recv()).await?.ok_or("gone")??);
        }
        if n == 2 {
            return Ok(()); // The cable is cut: no close frame.
        }
    }
    let frame = CloseFrame { code: close_code::NORMAL, reason: "that was all".into() };
    socket.send(Message::Close(Some(frame))).await?;
    while timeout(SILENCE_MAX, socket.recv()).await?.is_some() {} // until it closes too
    Ok(())
}

/// Sends until the other side does not keep up, or goes.
async fn flood(mut socket: WebSocket, cut: mpsc::Sender<&'static str>) {
    let words = Message::text("x".repeat(64 * 1024));
    while let Ok(sent) = timeout(SEND_MAX, socket.send(words.clone())).await {
        let Ok(()) = sent else { return };
    }
    cut.send("a reader who does not read is cut off").await.ok();
}

/// One connection, until it ends; the words of its close if there was one.
async fn follow(url: String, seen: &mut Vec<u32>) -> Result<String, BoxError> {
    let config = WebSocketConfig::default().read_buffer_size(4096).max_message_size(Some(16_384));
    let connecting = connect_async_with_config(url, Some(config), true);
    let (mut socket, _) = timeout(SILENCE_MAX, connecting).await??;
    let mut end = None;
    while let Some(said) = timeout(SILENCE_MAX, socket.next()).await? {
        match said? {
            Said::Text(text) => seen.push(text.parse()?),
            Said::Close(frame) => end = frame, // Reading on answers it.
            _ => {}                            // Reading on answers a ping, too.
        }
    }
    Ok(end.map(|it| it.reason.to_string()).ok_or("ended without a close")?)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let count = async |Path(n), upgrade| {
        bounded(upgrade).on_upgrade(move |it| async move { count(it, n).await.unwrap_or_default() })
    };
    let flood = async |State(cut), upgrade| bounded(upgrade).on_upgrade(|it| flood(it, cut));
    let (cut, mut cuts) = mpsc::channel(1);
    let routes = Router::new().route("/count/{n}", get(count)).route("/flood", get(flood));
    let server = Server::with(routes.with_state(cut)).await;
    let url = |path: &str| format!("ws://{}{path}", server.address());

    let mut seen = Vec::new();
    for delay in Backoff::default().delays().take(10) {
        let ended = follow(url(&format!("/count/{}", seen.len())), &mut seen).await;
        match &ended {
            Ok(words) => println!("after {seen:?} closed: {words}"),
            Err(error) => println!("after {seen:?} broken: {error}"),
        }
        if ended.is_ok() {
            break;
        }
        tokio::time::sleep(delay).await;
    }
    assert_eq!(seen, [0, 1, 2, 3, 4, 5]);

    let (_unread, _) = connect_async_with_config(url("/flood"), None, true).await?;
    println!("{}", cuts.recv().await.ok_or("the server is gone")?);
    Ok(())
}
