//! The connections that read: a few threads that take calls from one inbox.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::Result;
use super::lane::Hearing;
use super::names::{Lane, Names};
use super::open::Server;
use super::session::{Driver, Session};
use crate::StoreError;
use crate::inbox::{Arrived, Inbox};

/// How many connections read.
const READERS: usize = 2;
/// How many reads may wait; more callers wait for room.
const READS_MAX: usize = 1_024;
/// How often an idle reader wakes: only to sleep again.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection that reads.
pub(super) struct Reader {
    pub(super) session: Session,
    pub(super) salt: u32,
    pub(super) hearing: Arc<Hearing>,
    names: RefCell<Names>,
}

impl Reader {
    /// The names of a lane.
    pub(super) async fn lane(&self, id: i32) -> Result<Lane> {
        if let Ok(lane) = self.names.borrow().lane(id) {
            return Ok(lane.clone());
        }
        let known = self.names.borrow().n_lanes();
        let rows = self.session.query(super::names::NEW_LANES, &[&known]).await?;
        let mut names = self.names.borrow_mut();
        names.add_lanes(&rows)?;
        names.lane(id).cloned()
    }
}

/// Does a read and answers it. Says whether the connection may be used again.
type Read = Box<dyn FnOnce(Result<Rc<Reader>>) -> LocalBoxFuture<'static, Result<()>> + Send>;

struct Call {
    read: Read,
    _permit: Option<OwnedSemaphorePermit>,
}

pub(super) struct Readers {
    calls: Arc<Inbox<Call>>,
    room: Arc<Semaphore>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Readers {
    pub(super) fn start(server: &Arc<Server>, hearing: &Arc<Hearing>) -> Result<Readers> {
        let calls = Arc::new(Inbox::new());
        let room = Arc::new(Semaphore::new(READS_MAX));
        let mut readers = Readers { calls, room, threads: Vec::new() };
        let cant = |error: std::io::Error| StoreError::Unreachable { why: error.to_string() };
        for _ in 0..READERS {
            let inbox = Arc::clone(&readers.calls);
            let (server, hearing) = (Arc::clone(server), Arc::clone(hearing));
            let runtime = Builder::new_current_thread().enable_all().build().map_err(cant)?;
            let thread = std::thread::Builder::new().name("taskloom-read".into());
            let spawned = thread
                .spawn(move || Loop { runtime, server, hearing, inbox, line: None }.run())
                .map_err(cant)?;
            readers.threads.push(spawned);
        }
        Ok(readers)
    }

    /// Does `read` on one of the connections.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        read: impl FnOnce(Rc<Reader>) -> LocalBoxFuture<'static, Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        let read: Read = Box::new(move |reader| {
            Box::pin(async move {
                let answer = match reader {
                    Ok(reader) => read(reader).await,
                    Err(error) => Err(error),
                };
                let went = answer.as_ref().map(|_| ()).map_err(Clone::clone);
                // Nobody may be waiting any more.
                sender.send(answer).ok();
                went
            })
        });
        let permit = Arc::clone(&self.room).acquire_owned().await.ok();
        let put = self.calls.put(Call { read, _permit: permit });
        put.map_err(|_| StoreError::Closed)?;
        receiver.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.calls.close();
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

struct Loop {
    runtime: Runtime,
    server: Arc<Server>,
    hearing: Arc<Hearing>,
    inbox: Arc<Inbox<Call>>,
    line: Option<(Rc<Reader>, Driver)>,
}

impl Loop {
    fn run(mut self) {
        let mut calls = Vec::new();
        loop {
            match self.inbox.take(1, PATIENCE, &mut calls) {
                Arrived::Some => {}
                Arrived::Nothing => continue,
                Arrived::Closed => return,
            }
            for call in calls.drain(..) {
                let went =
                    Self::read(&self.runtime, (&self.server, &self.hearing), &mut self.line, call);
                if matches!(went, Err(StoreError::Unreachable { .. })) {
                    self.line = None;
                }
            }
        }
    }

    fn read(
        runtime: &Runtime,
        (server, hearing): (&Arc<Server>, &Arc<Hearing>),
        line: &mut Option<(Rc<Reader>, Driver)>,
        call: Call,
    ) -> Result<()> {
        runtime.block_on(async {
            // A connection that was cut while it was idle is not used.
            if let Some((_, driver)) = line {
                let looked = driver.drive(async {
                    tokio::task::yield_now().await;
                    Ok(())
                });
                if looked.await.is_err() {
                    *line = None;
                }
            }
            if line.is_none() {
                match server.reader().await {
                    Ok((session, driver)) => {
                        let (salt, hearing) = (server.salt, Arc::clone(hearing));
                        let names = RefCell::default();
                        *line = Some((Rc::new(Reader { session, salt, hearing, names }), driver));
                    }
                    Err(error) => return (call.read)(Err(error)).await,
                }
            }
            let Some((reader, driver)) = line else { return Err(StoreError::Closed) };
            let reading = (call.read)(Ok(Rc::clone(reader)));
            driver.drive(reading).await
        })
    }
}
