//! The connections that read: a pool of threads that take calls from one inbox. Each connects when
//! it has its first.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::LocalBoxFuture;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::Result;
use super::lane::Hearing;
use super::names::{Lane, Names};
use super::open::{Server, in_time};
use super::session::{Driver, Session};
use crate::StoreError;
use crate::inbox::{Arrived, Inbox};

/// How many connections read: a few slow lists do not hold up the rest.
const READERS: usize = 6;
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

/// A read that waits for its answer.
trait Work: Send {
    fn read(&mut self, reader: Rc<Reader>) -> LocalBoxFuture<'_, Result<()>>;
    fn answer(self: Box<Self>, went: Result<()>);
}

type Ask<T> = Box<dyn Fn(Rc<Reader>) -> LocalBoxFuture<'static, Result<T>> + Send>;

struct Asked<T> {
    ask: Ask<T>,
    answer: Option<T>,
    sender: oneshot::Sender<Result<T>>,
}

impl<T: Send + 'static> Work for Asked<T> {
    fn read(&mut self, reader: Rc<Reader>) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.answer = Some((self.ask)(reader).await?);
            Ok(())
        })
    }

    fn answer(self: Box<Self>, went: Result<()>) {
        let Asked { answer, sender, .. } = *self;
        // Nobody may be waiting any more.
        sender.send(went.and_then(|()| answer.ok_or(StoreError::Closed))).ok();
    }
}

struct Call {
    work: Box<dyn Work>,
    /// When the caller began to wait, and how long the read may take.
    asked: Instant,
    max: Duration,
    _permit: Option<OwnedSemaphorePermit>,
}

pub(super) struct Readers {
    calls: Arc<Inbox<Call>>,
    room: Arc<Semaphore>,
    threads: Vec<std::thread::JoinHandle<()>>,
    answer_max: Duration,
}

impl Readers {
    pub(super) fn start(server: &Arc<Server>, hearing: &Arc<Hearing>) -> Result<Readers> {
        let calls = Arc::new(Inbox::new());
        let room = Arc::new(Semaphore::new(READS_MAX));
        let mut readers =
            Readers { calls, room, threads: Vec::new(), answer_max: server.answer_max };
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

    /// Does `read` on one of the connections; again on another when the first was cut.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        read: impl Fn(Rc<Reader>) -> LocalBoxFuture<'static, Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.call_within(self.answer_max, read).await
    }

    /// Does `read`, which may take as long as `max`.
    pub(super) async fn call_within<T: Send + 'static>(
        &self,
        max: Duration,
        read: impl Fn(Rc<Reader>) -> LocalBoxFuture<'static, Result<T>> + Send + 'static,
    ) -> Result<T> {
        let asked = Instant::now();
        let (sender, receiver) = oneshot::channel();
        let work = Box::new(Asked { ask: Box::new(read), answer: None, sender });
        let permit = Arc::clone(&self.room).acquire_owned().await.ok();
        let put = self.calls.put(Call { work, asked, max, _permit: permit });
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
    line: Option<Line>,
}

/// A connection, and when it was made: see [`Server::moves`].
struct Line {
    reader: Rc<Reader>,
    driver: Driver,
    moves: u64,
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
            for mut call in calls.drain(..) {
                let went = self.read(&mut call);
                if matches!(went, Err(StoreError::Unreachable { .. })) {
                    self.line = None;
                }
                call.work.answer(went);
            }
        }
    }

    fn read(&mut self, call: &mut Call) -> Result<()> {
        let max = self.server.answer_max;
        if max < call.asked.elapsed() {
            let why = format!("the read waited over {} s for its turn", max.as_secs_f32());
            return Err(StoreError::Unreachable { why });
        }
        let (server, line) = (&self.server, &mut self.line);
        let reading = async {
            // One that was cut while it was idle, or is cut now, is no reason to refuse.
            if line.is_some() {
                let went = read_on((server, &self.hearing), line, &mut *call.work).await;
                if !matches!(went, Err(StoreError::Unreachable { .. })) {
                    return went;
                }
                *line = None;
            }
            read_on((server, &self.hearing), line, &mut *call.work).await
        };
        self.runtime.block_on(in_time(call.max, reading))
    }
}

async fn read_on(
    server: (&Arc<Server>, &Arc<Hearing>),
    line: &mut Option<Line>,
    work: &mut dyn Work,
) -> Result<()> {
    let line = in_time(server.0.answer_max, connect(server, line)).await?;
    let reader = Rc::clone(&line.reader);
    let reading = line.reader.session.shared(work.read(reader));
    line.driver.drive(reading).await
}

/// The connection, made anew when it was cut while it was idle.
async fn connect<'l>(
    (server, hearing): (&Arc<Server>, &Arc<Hearing>),
    line: &'l mut Option<Line>,
) -> Result<&'l mut Line> {
    if let Some(it) = line
        && (!it.driver.is_alive().await || it.moves != server.moves())
    {
        *line = None;
    }
    if line.is_none() {
        let moves = server.moves();
        let (session, driver) = server.reader().await?;
        let (salt, hearing) = (server.salt, Arc::clone(hearing));
        let reader = Rc::new(Reader { session, salt, hearing, names: RefCell::default() });
        *line = Some(Line { reader, driver, moves });
    }
    line.as_mut().ok_or(StoreError::Closed)
}
