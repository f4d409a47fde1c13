//! A lane: a thread with a connection that writes, and group commit on it.
//!
//! Calls that arrive while a transaction is under way wait in the inbox and ride the next one
//! together; nobody is delayed on purpose. A call that is refused has written nothing and does not
//! trouble the others; an error of the database takes the whole transaction back. Lanes commit
//! independently of each other.
//!
//! A transaction that was the victim of a deadlock, or whose connection was cut before it was
//! asked to commit, has left nothing behind and is done again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::LocalBoxFuture;
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::Result;
use super::front::Fronts;
use super::names::Names;
use super::open::{Opened, Server, in_time};
use super::parts::MAKE_PARTS;
use super::session::{Driver, Session};
use super::tally::{Writer, WriterRow};
use super::tx::Tx;
use crate::inbox::{Arrived, Inbox};
use crate::tells::Told;
use crate::{Part, ServerHealth, StoreError};

/// How many calls may wait for a lane; more callers wait for room.
const CALLS_MAX: usize = 8_192;
/// How many calls one commit takes at most, so that the first of them does not wait for ever.
const COMMIT_CALLS_MAX: usize = 4_096;
/// How many new jobs one commit takes, unless one call has more: their rows are held in memory.
const COMMIT_JOBS_MAX: usize = 4_000;
/// How often a transaction is done, when it is not its fault that it failed.
const TRIES_MAX: u32 = 5;
/// How long taking back a failed transaction may take, within its deadline, before its connection
/// is given up.
const ROLLBACK_MAX: Duration = Duration::from_secs(2);
/// How long it may take to make a part, with the wait for its lock.
const MAKE_PARTS_MAX: Duration = Duration::from_secs(10);
/// How often an idle lane looks at its connection.
const LOOK: Duration = Duration::from_secs(10);

/// One verb with its arguments.
pub(super) trait Ask: Send + 'static {
    type Answer: Send + 'static;

    /// How many keys for new jobs it needs.
    fn n_new(&self) -> usize {
        0
    }

    /// Before the transaction: what is committed apart.
    async fn prepare(&mut self, _names: &mut Names, _session: &Session) -> Result<()> {
        Ok(())
    }

    /// In the transaction. May be done again from the start, after a rollback.
    async fn perform(&self, tx: &mut Tx<'_>) -> Result<Self::Answer>;

    /// Does everything in one statement that is a transaction of its own, if it can: for a call
    /// that rides alone. Gives the offset of its first event too.
    async fn perform_at_once(&self, _tx: &mut Tx<'_>) -> Result<Option<(Self::Answer, u64)>> {
        Ok(None)
    }
}

/// A call that waits for its answer.
struct Call<A: Ask> {
    ask: A,
    answer: Option<Result<A::Answer>>,
    sender: oneshot::Sender<Result<A::Answer>>,
    asked: Instant,
    _permit: Option<OwnedSemaphorePermit>,
}

trait Work: Send {
    fn n_new(&self) -> usize;
    /// When the caller began to wait.
    fn asked(&self) -> Instant;
    fn prepare<'w>(
        &'w mut self,
        names: &'w mut Names,
        session: &'w Session,
    ) -> LocalBoxFuture<'w, Result<()>>;
    /// Fails when the whole transaction must be taken back.
    fn perform<'w, 's: 'w>(&'w mut self, tx: &'w mut Tx<'s>) -> LocalBoxFuture<'w, Result<()>>;
    fn perform_at_once<'w, 's: 'w>(
        &'w mut self,
        tx: &'w mut Tx<'s>,
    ) -> LocalBoxFuture<'w, Result<Option<u64>>>;
    fn answer(self: Box<Self>, committed: Result<()>);
}

impl<A: Ask> Work for Call<A> {
    fn n_new(&self) -> usize {
        self.ask.n_new()
    }

    fn asked(&self) -> Instant {
        self.asked
    }

    fn prepare<'w>(
        &'w mut self,
        names: &'w mut Names,
        session: &'w Session,
    ) -> LocalBoxFuture<'w, Result<()>> {
        Box::pin(self.ask.prepare(names, session))
    }

    fn perform<'w, 's: 'w>(&'w mut self, tx: &'w mut Tx<'s>) -> LocalBoxFuture<'w, Result<()>> {
        Box::pin(async move {
            let answer = self.ask.perform(tx).await;
            let fatal = answer.as_ref().err().filter(|it| it.is_fatal()).cloned();
            self.answer = Some(answer);
            fatal.map_or(Ok(()), Err)
        })
    }

    fn perform_at_once<'w, 's: 'w>(
        &'w mut self,
        tx: &'w mut Tx<'s>,
    ) -> LocalBoxFuture<'w, Result<Option<u64>>> {
        Box::pin(async move {
            let Some((answer, first_event)) = self.ask.perform_at_once(tx).await? else {
                return Ok(None);
            };
            self.answer = Some(Ok(answer));
            Ok(Some(first_event))
        })
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        let answer = self.answer.unwrap_or(Err(StoreError::Closed));
        // The caller may have gone away; what it asked for stands all the same.
        self.sender.send(committed.and(answer)).ok();
    }
}

/// Where calls go in.
pub(super) struct Lane {
    calls: Arc<Inbox<Box<dyn Work>>>,
    room: Arc<Semaphore>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Lane {
    pub(super) fn start(name: &str, server: Arc<Server>, tells: Arc<Hearing>) -> Result<Lane> {
        let calls = Arc::new(Inbox::new());
        let inbox = Arc::clone(&calls);
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                // Whatever ends the thread, a panic too: nobody waits for an answer that never
                // comes.
                let closing = Closing(Arc::clone(&inbox));
                match Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => Loop { runtime, server, tells, inbox, line: None }.run(),
                    Err(error) => tracing::error!(%error, "a lane of the store has no runtime"),
                }
                drop(closing);
            })
            .map_err(|error| StoreError::Unreachable { why: error.to_string() })?;
        let room = Arc::new(Semaphore::new(CALLS_MAX));
        Ok(Lane { calls, room, thread: Some(thread) })
    }

    /// The same lane, whose thread ends by itself: dropping it waits for nothing.
    pub(super) fn apart(mut self) -> Lane {
        self.thread = None;
        self
    }

    /// Has `ask` done inside a transaction, and returns once it is durable.
    pub(super) async fn call<A: Ask>(&self, ask: A) -> Result<A::Answer> {
        let asked = Instant::now();
        let (sender, receiver) = oneshot::channel();
        let permit = Arc::clone(&self.room).acquire_owned().await.ok();
        let call = Call { ask, answer: None, sender, asked, _permit: permit };
        self.calls.put(Box::new(call) as Box<dyn Work>).map_err(|_| StoreError::Closed)?;
        receiver.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.calls.close();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

struct Closing(Arc<Inbox<Box<dyn Work>>>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
        self.0.take_now(usize::MAX, &mut Vec::new());
    }
}

/// How the store fares.
#[derive(Debug)]
pub(super) struct StoreParts {
    /// The commits of all lanes.
    pub(super) commits: Part,
    pub(super) listener: Part,
    /// Written by the listener.
    pub(super) server: Mutex<Option<ServerHealth>>,
}

impl Default for StoreParts {
    fn default() -> Self {
        let (commits, listener) = (Part::new("store"), Part::new("listener"));
        StoreParts { commits, listener, server: Mutex::default() }
    }
}

/// What the lanes have committed, for the rest of the process and for the others.
#[derive(Debug)]
pub(super) struct Hearing {
    pub(super) tells: Arc<crate::tells::Tells>,
    /// The offset of the newest event of this process.
    pub(super) newest_event: AtomicU64,
    /// Claims must not walk over what can't be removed.
    pub(super) has_many_dead: AtomicBool,
    /// What the other processes have not been told yet.
    pub(super) outbox: super::listen::Outbox,
    pub(super) health: StoreParts,
}

/// What a connection remembers between its transactions.
#[derive(Default)]
pub(super) struct Known {
    pub(super) names: Names,
    pub(super) fronts: Fronts,
}

/// A connection with all that belongs to it.
struct Line {
    session: Session,
    driver: Driver,
    writer: Writer,
    known: Known,
    /// See [`Server::moves`].
    moves: u64,
}

impl Line {
    fn is_good(&self, server: &Server) -> bool {
        !self.session.is_closed() && self.moves == server.moves()
    }
}

struct Loop {
    runtime: Runtime,
    server: Arc<Server>,
    tells: Arc<Hearing>,
    inbox: Arc<Inbox<Box<dyn Work>>>,
    line: Option<Line>,
}

impl Loop {
    fn run(mut self) {
        self.runtime
            .block_on(in_time(self.server.answer_max, connect(&self.server, &mut self.line)))
            .ok();
        let mut works: Vec<Box<dyn Work>> = Vec::new();
        loop {
            match self.inbox.take(COMMIT_CALLS_MAX, LOOK, &mut works) {
                Arrived::Some => {}
                Arrived::Nothing => {
                    self.look();
                    continue;
                }
                Arrived::Closed => return,
            }
            while !works.is_empty() {
                let n = first_batch(&works);
                let rest = works.split_off(n);
                self.commit(std::mem::replace(&mut works, rest));
                self.inbox.take_now(COMMIT_CALLS_MAX, &mut works);
            }
        }
    }

    /// Notices that an idle connection was cut.
    fn look(&mut self) {
        if let Some(line) = &mut self.line
            && (!self.runtime.block_on(line.driver.is_alive()) || !line.is_good(&self.server))
        {
            self.line = None;
        }
    }

    fn commit(&mut self, works: Vec<Box<dyn Work>>) {
        let mut works = self.refuse_late(works);
        let deadline = Instant::now() + self.server.answer_max;
        let mut tries = 0;
        let committed = loop {
            tries += 1;
            let error = match self.try_commit(&mut works, deadline) {
                Ok(told) => break Ok(told),
                Err(error) => error,
            };
            let is_done_again = self.may_try_again(&error, deadline)
                && tries < TRIES_MAX
                && Instant::now() < deadline;
            if !is_done_again {
                break Err(error);
            }
            tracing::debug!(%error, tries, "a transaction is done again");
            // Two that meet again and again part by chance.
            let chance = u64::from(uuid::Uuid::new_v4().as_bytes()[0] & 15);
            std::thread::sleep(Duration::from_millis(u64::from(tries - 1) * 16 + chance));
        };
        if let Err(error) = &committed {
            tracing::warn!(%error, code = error.code(), "a commit failed; its calls are refused");
        }
        self.tells.health.commits.went(self.server.clock.now(), &committed);
        let answer = committed.as_ref().map(|_| ()).map_err(Clone::clone);
        for work in works {
            work.answer(answer.clone());
        }
        let told = committed.unwrap_or_default();
        self.tells.tells.tell(told);
        self.tells.outbox.put(told);
    }

    /// Refuses the calls that have waited for their turn as long as the server may take: nobody
    /// waits for ever behind others.
    fn refuse_late(&self, works: Vec<Box<dyn Work>>) -> Vec<Box<dyn Work>> {
        let max = self.server.answer_max;
        let (late, in_time): (Vec<_>, Vec<_>) =
            works.into_iter().partition(|it| max < it.asked().elapsed());
        for work in late {
            let why = format!("the call waited over {} s for its turn", max.as_secs_f32());
            work.answer(Err(StoreError::Unreachable { why }));
        }
        in_time
    }

    /// Whether nothing of the failed transaction can stand, and another try may succeed. Brings the
    /// connection back to where it can be used, or gives it up.
    fn may_try_again(&mut self, error: &StoreError, deadline: Instant) -> bool {
        let Some(line) = &mut self.line else {
            // It could not even connect; the caller is told, and the next call tries again.
            return false;
        };
        let was_committing = line.session.is_committing.replace(false);
        let lacks_part = line.session.lacks_part.replace(false);
        if matches!(error, StoreError::ReadOnly) {
            self.server.has_moved();
            self.line = None;
            return false;
        }
        let left = deadline.saturating_duration_since(Instant::now()).min(ROLLBACK_MAX);
        let rolled_back = in_time(left, line.driver.drive(line.session.end("ROLLBACK")));
        if self.runtime.block_on(rolled_back).is_err() {
            self.line = None;
        }
        if lacks_part {
            return self.make_parts().is_ok();
        }
        match error {
            // A rollback on a good connection is enough.
            StoreError::Contended { .. } => true,
            StoreError::Unreachable { .. } => !was_committing,
            _ => false,
        }
    }

    /// Makes the parts of the history that new jobs come to.
    fn make_parts(&mut self) -> Result<()> {
        let Some(Line { session, driver, .. }) = &mut self.line else { return Ok(()) };
        let making = driver.drive(session.query(MAKE_PARTS, &[]));
        let made = self.runtime.block_on(in_time(MAKE_PARTS_MAX, making));
        made.map(|_| ()).inspect_err(|error| {
            tracing::warn!(%error, "the next part of the history can't be made");
        })
    }

    fn try_commit(&mut self, works: &mut [Box<dyn Work>], deadline: Instant) -> Result<Told> {
        if works.is_empty() {
            return Ok(Told::default());
        }
        let (server, line) = (&self.server, &mut self.line);
        let has_many_dead = self.tells.has_many_dead.load(Ordering::Relaxed);
        let transacting = async {
            let line = connect(server, line).await?;
            let Line { session, driver, writer, known, .. } = line;
            known.fronts.guard(has_many_dead);
            let place = (server.clock.now(), server.salt, writer.row());
            let done = driver.drive(transact(session, known, place, works)).await?;
            writer.has_committed();
            Ok(done)
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let went = self.runtime.block_on(in_time(left, transacting));
        let (told, first_event) = went.map_err(|error| match error {
            // The bound of a statement that writes is that of its transaction.
            StoreError::ReadTimeout { .. } => {
                StoreError::Unreachable { why: "a statement took too long".into() }
            }
            other => other,
        })?;
        self.tells.newest_event.fetch_max(first_event.unwrap_or(0), Ordering::SeqCst);
        self.tells.tells.n_commits.fetch_add(1, Ordering::Relaxed);
        Ok(told)
    }
}

/// The connection, made anew when it was cut.
async fn connect<'l>(server: &Server, line: &'l mut Option<Line>) -> Result<&'l mut Line> {
    // What was cut while it was idle would leave nobody knowing what became of the commit.
    if let Some(it) = line
        && (!it.driver.is_alive().await || !it.is_good(server))
    {
        *line = None;
    }
    if line.is_none() {
        let moves = server.moves();
        let opened = server.writer().await;
        let Opened { session, driver, writer } =
            opened.inspect_err(|error| tracing::warn!(%error, "the store can't be reached"))?;
        let (writer, known) = (Writer::new(writer), Known::default());
        *line = Some(Line { session, driver, writer, known, moves });
    }
    line.as_mut().ok_or(StoreError::Closed)
}

/// How many of the calls ride the next commit.
fn first_batch(works: &[Box<dyn Work>]) -> usize {
    let mut n_new = 0;
    for (n, work) in works.iter().enumerate() {
        n_new += work.n_new();
        if 0 < n && COMMIT_JOBS_MAX < n_new {
            return n;
        }
    }
    works.len()
}

/// Does the works in one transaction. Returns what to tell, and the offset of the first event.
async fn transact(
    session: &Session,
    known: &mut Known,
    place: (taskloom_model::Time, u32, WriterRow),
    works: &mut [Box<dyn Work>],
) -> Result<(Told, Option<u64>)> {
    session.is_committing.set(false);
    for work in works.iter_mut() {
        work.prepare(&mut known.names, session).await?;
    }
    let mut tx = Tx::new(session, known, place);
    if let [work] = works
        && let Some(first_event) = work.perform_at_once(&mut tx).await?
    {
        return Ok((tx.tally.told, Some(first_event)));
    }
    let n_new: usize = works.iter().map(|it| it.n_new()).sum();
    if 0 < n_new {
        tx.take_keys(n_new).await?;
    }
    for work in works.iter_mut() {
        work.perform(&mut tx).await?;
    }
    let first_event = tx.commit().await?;
    Ok((tx.tally.told, first_event))
}
