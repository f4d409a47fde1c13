//! The heartbeat: once a second, from a thread that no task can block.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use taskloom_store::{Beat, NewNode, Store};

use crate::CancelReason;
use crate::board::Board;
use crate::health::Watched;

/// How often a node gives a sign of life.
pub(crate) const BEAT_EVERY: Duration = Duration::from_secs(1);

/// What one beat needs.
#[derive(Debug, Clone)]
pub(crate) struct Heart {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) board: Arc<Board>,
    pub(crate) node: NewNode,
    pub(crate) part: Watched,
}

impl Heart {
    /// One sign of life, and what follows from its answer.
    pub(crate) async fn beat(&self) {
        let signs = self.board.take_signs();
        let beat = Beat { node: self.board.node(), signs: signs.clone() };
        self.part.begins();
        let answer = self.store.heartbeat(beat).await;
        self.part.went(&answer);
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.board.put_back(signs);
                tracing::warn!(%error, code = error.code(), "a heartbeat failed");
                return;
            }
        };
        self.board.has_beaten();
        for (id, fence) in answer.cancel {
            self.board.cancel(id, fence, CancelReason::Requested);
        }
        if answer.evicted {
            tracing::warn!(
                "this node was taken for dead; its jobs belong to others, it registers again"
            );
            self.board.cancel_all(CancelReason::LeaseLost);
            match self.store.register(self.node.clone()).await {
                Ok(node) => self.board.reborn(node),
                Err(error) => {
                    tracing::error!(%error, code = error.code(), "the node can't register again");
                }
            }
        }
    }
}

/// The thread of the heartbeat. Dropping it ends the thread.
#[derive(Debug)]
pub(crate) struct HeartThread {
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl HeartThread {
    pub(crate) fn start(heart: Heart) -> std::io::Result<HeartThread> {
        let (stop, stopped) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("taskloom-heartbeat".into())
            .spawn(move || beat_loop(&heart, &stopped))?;
        Ok(HeartThread { stop: Some(stop), thread: Some(thread) })
    }
}

fn beat_loop(heart: &Heart, stopped: &Receiver<()>) {
    while stopped.recv_timeout(BEAT_EVERY) == Err(RecvTimeoutError::Timeout) {
        futures::executor::block_on(heart.beat());
    }
}

impl Drop for HeartThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
