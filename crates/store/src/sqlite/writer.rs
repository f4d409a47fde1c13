//! The writer thread: one connection, and group commit.
//!
//! Calls that arrive while a commit is under way wait in the inbox and ride the next one
//! together; nobody is delayed on purpose. A call that is refused leaves nothing behind and does
//! not trouble the others; an error of the database takes the whole transaction back.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::engine::{Engine, Result};
use crate::inbox::{Arrived, Inbox};
use crate::tells::{Tells, Told};
use crate::{Clock, StoreError};

/// How many calls may wait for the writer; more callers wait for room.
const CALLS_MAX: usize = 8_192;
/// How many calls one commit takes at most, so that the first of them does not wait for ever.
const COMMIT_CALLS_MAX: usize = 4_096;
/// How long one commit gathers calls at most.
const COMMIT_TIME_MAX: Duration = Duration::from_millis(50);
/// How long it takes in what arrives while it works, at most: the first caller waits for it.
const GATHER_MAX: Duration = Duration::from_millis(5);
/// How often an idle writer looks whether another process has committed: soon after something
/// happened, and when nothing has for [`QUIET_AFTER`].
const LOOK_BUSY: Duration = Duration::from_millis(2);
const LOOK_QUIET: Duration = Duration::from_millis(16);
const QUIET_AFTER: Duration = Duration::from_secs(1);

/// Tells the caller how the commit went.
type Reply = Box<dyn FnOnce(Result<()>) + Send>;
/// Does the work inside the transaction; without one, there is only somebody to answer.
type Work = Box<dyn FnOnce(Result<&mut Engine>) -> (Reply, Result<()>) + Send>;

struct Call {
    work: Work,
    _permit: Option<OwnedSemaphorePermit>,
}

/// Where calls go in.
#[derive(Debug)]
pub(super) struct Writer {
    way: Way,
    tells: Arc<Tells>,
}

enum Way {
    Thread {
        calls: Arc<Inbox<Call>>,
        room: Arc<Semaphore>,
        thread: Option<std::thread::JoinHandle<()>>,
    },
    /// In memory: the caller does the work itself, so that a paused clock stays paused.
    Inline { engine: Box<Mutex<Engine>>, clock: Arc<dyn Clock> },
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Way::Thread { .. } => "Thread",
            Way::Inline { .. } => "Inline",
        })
    }
}

impl Writer {
    pub(super) fn inline(engine: Engine, clock: Arc<dyn Clock>) -> Writer {
        Writer {
            way: Way::Inline { engine: Box::new(Mutex::new(engine)), clock },
            tells: Tells::new(),
        }
    }

    pub(super) fn thread(engine: Engine, clock: Arc<dyn Clock>, path: PathBuf) -> Result<Writer> {
        let tells = Tells::new();
        let calls = Arc::new(Inbox::new());
        let inbox = Arc::clone(&calls);
        let to_tell = Arc::clone(&tells);
        let thread = std::thread::Builder::new()
            .name("taskloom-writer".into())
            .spawn(move || Loop { engine, clock, tells: to_tell, inbox }.run())
            .map_err(|error| StoreError::CantOpen { path, why: error.to_string() })?;
        let room = Arc::new(Semaphore::new(CALLS_MAX));
        Ok(Writer { way: Way::Thread { calls, room, thread: Some(thread) }, tells })
    }

    pub(super) fn tells(&self) -> &Tells {
        &self.tells
    }

    /// Has `work` done inside a transaction, and returns once it is durable.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Engine) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        let work: Work = Box::new(move |engine| {
            let answer = engine.and_then(work);
            let seen = answer.as_ref().map(|_| ()).map_err(Clone::clone);
            let reply: Reply = Box::new(move |committed| {
                // The caller may have gone away; what it asked for stands all the same.
                sender.send(committed.and(answer)).ok();
            });
            (reply, seen)
        });
        match &self.way {
            Way::Inline { engine, clock } => {
                let mut engine = engine.lock();
                let mut works = VecDeque::from([work]);
                transact(&mut engine, (clock.as_ref(), &self.tells), &mut works, &mut |_| {});
            }
            Way::Thread { calls, room, .. } => {
                let permit = Arc::clone(room).acquire_owned().await.ok();
                let call = Call { work, _permit: permit };
                calls.put(call).map_err(|_| StoreError::Closed)?;
            }
        }
        receiver.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Runs a read on the writer's own connection: only in memory, where there is no other.
    pub(super) fn read_inline<T>(
        &self,
        read: impl FnOnce(&rusqlite::Connection) -> Result<T>,
    ) -> Option<Result<T>> {
        match &self.way {
            Way::Inline { engine, .. } => Some(read(&engine.lock().conn)),
            Way::Thread { .. } => None,
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Way::Thread { calls, thread, .. } = &mut self.way {
            calls.close();
            if let Some(thread) = thread.take() {
                thread.join().ok();
            }
        }
    }
}

struct Loop {
    engine: Engine,
    clock: Arc<dyn Clock>,
    tells: Arc<Tells>,
    inbox: Arc<Inbox<Call>>,
}

impl Drop for Loop {
    /// Whatever ends the writer, a panic too: nobody waits for an answer that never comes.
    fn drop(&mut self) {
        self.inbox.close();
        self.inbox.take(usize::MAX, Duration::ZERO, &mut Vec::new());
    }
}

impl Loop {
    fn run(mut self) {
        let mut calls = Vec::new();
        let mut works = VecDeque::new();
        let mut busy_at = Instant::now();
        loop {
            let look = if busy_at.elapsed() < QUIET_AFTER { LOOK_BUSY } else { LOOK_QUIET };
            match self.inbox.take(COMMIT_CALLS_MAX, look, &mut calls) {
                Arrived::Some => works.extend(calls.drain(..).map(|it| it.work)),
                Arrived::Nothing => {
                    if self.look() {
                        busy_at = Instant::now();
                    }
                    continue;
                }
                Arrived::Closed => break,
            }
            while !works.is_empty() {
                // A heartbeat moves no job: a node that only beats is quiet.
                let mut more = |works: &mut VecDeque<Work>| {
                    self.inbox.take_now(COMMIT_CALLS_MAX, &mut calls);
                    works.extend(calls.drain(..).map(|it| it.work));
                };
                let (clock, tells) = (self.clock.as_ref(), &self.tells);
                if transact(&mut self.engine, (clock, tells), &mut works, &mut more) {
                    busy_at = Instant::now();
                }
            }
        }
        self.engine.conn.execute_batch("PRAGMA optimize").ok();
    }

    /// Looks whether another process has committed, and tells so.
    fn look(&mut self) -> bool {
        // The engine compares with the version it saw last, so it must not be told here.
        let is_new = self.engine.peek_foreign_commit().unwrap_or(false);
        if is_new {
            self.tells.tell(Told { ready: true, due: true, changed: true });
        }
        is_new
    }
}

/// Does the works in one transaction and answers each. Takes as many as fit the time of a commit,
/// and what arrives while it works on them: `more` puts it in.
/// Returns whether jobs have moved.
fn transact(
    engine: &mut Engine,
    (clock, tells): (&dyn Clock, &Tells),
    works: &mut VecDeque<Work>,
    more: &mut dyn FnMut(&mut VecDeque<Work>),
) -> bool {
    let mut replies = Vec::with_capacity(works.len());
    let mut failed = engine.begin(clock).err();
    // From here on: how long others wrote before does not make this commit smaller.
    let began = Instant::now();
    while let Some(work) = works.pop_front() {
        if let Some(error) = &failed {
            // There is no transaction: what is written now would stand, whatever was answered.
            replies.push(work(Err(error.clone())).0);
            continue;
        }
        let (reply, seen) = work(Ok(engine));
        replies.push(reply);
        failed = seen.err().filter(StoreError::is_fatal);
        // After an error SQLite may have ended the transaction; the rest gets another one.
        if failed.is_some() || COMMIT_TIME_MAX < began.elapsed() {
            break;
        }
        if works.is_empty() && replies.len() < COMMIT_CALLS_MAX && began.elapsed() < GATHER_MAX {
            more(works);
        }
    }
    let committed = match failed {
        None => engine.commit(),
        Some(error) => Err(error),
    };
    if let Err(error) = &committed {
        engine.rollback();
        tracing::warn!(%error, code = error.code(), "a commit failed; its calls are refused");
    } else {
        tells.n_commits.fetch_add(1, Ordering::Relaxed);
    }
    let answer = committed.as_ref().map(|_| ()).map_err(Clone::clone);
    for reply in replies {
        reply(answer.clone());
    }
    let told = committed.unwrap_or_default();
    tells.tell(told);
    told.ready || told.changed
}
