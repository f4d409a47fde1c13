//! One connection that hears what other processes have committed, tells them what this one has,
//! and holds the liveness locks of its nodes.
//!
//! A notice takes a lock of the whole database when it commits, so it is sent apart from the
//! transactions it is about, and at most once each [`TELL_EVERY`]. A notice may be lost with a
//! connection or a process; therefore there is a look at the newest event each [`LOOK`]. A process
//! that is alone tells nobody, until another that has come says so. Nobody tells of jobs that came
//! by `taskloom.submit`; they are looked for more often.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use taskloom_model::NodeId;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

use super::Result;
use super::front::{Floor, MANY_DEAD};
use super::lane::Hearing;
use super::open::{LOCK_LISTENER, Server, in_time, node_lock};
use super::rows;
use super::session::{Driver, Session};
use crate::tells::Told;
use crate::{ServerHealth, StoreError};

/// How often others are told at most.
const TELL_EVERY: Duration = Duration::from_millis(10);
/// How often it looks at the newest event, for notices that were lost.
const LOOK: Duration = Duration::from_secs(1);
/// How often it looks for jobs that came in transactions of others, while it has a node that could
/// take them in: when none have come for [`BUSY`], and when some have.
const LOOK_QUIET: Duration = Duration::from_millis(200);
const LOOK_BUSY: Duration = Duration::from_millis(20);
const BUSY: Duration = Duration::from_secs(3);
/// The same through a pooler, where nobody hears others: while there is something to see, and at
/// most.
const LOOK_POOLED: Duration = Duration::from_millis(50);
const LOOK_IDLE: Duration = Duration::from_millis(500);
/// How often it asks the server how it fares.
const LOOK_AT_SERVER: Duration = Duration::from_secs(10);
/// How long it waits before it connects again, at most.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// How many requests for locks wait; they come one by one, with nodes.
const REQUESTS_MAX: usize = 16;

/// What the other processes have not been told yet.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bits: AtomicU8,
    filled: Notify,
}

/// How many processes listen.
const LISTENERS: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
     AND classid::bigint = $1 AND granted \
     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
/// The newest event, and how many rows of `hot` are dead and not removed.
const NEWEST: &str = "SELECT (SELECT max(first) FROM events), \
     pg_stat_get_dead_tuples('hot'::regclass)";

/// The newest key, and the first job that no node has taken in.
const FIRST_ARRIVAL: &str = "SELECT last_value, (SELECT min(job) FROM arrivals WHERE job >= $1) \
     FROM job_key";

const READY: u8 = 1;
const DUE: u8 = 2;
const CHANGED: u8 = 4;

impl Outbox {
    pub(super) fn put(&self, told: Told) {
        let bit = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
        let bits = bit(told.ready, READY) | bit(told.due, DUE) | bit(told.changed, CHANGED);
        if bits != 0 && self.bits.fetch_or(bits, Ordering::SeqCst) == 0 {
            self.filled.notify_one();
        }
    }
}

fn told(bits: u8) -> Told {
    Told { ready: bits & READY != 0, due: bits & DUE != 0, changed: bits & CHANGED != 0 }
}

const HOLD: &str = "SELECT pg_try_advisory_lock($1)";

enum Request {
    /// Take the lock of a node and keep it.
    Hold(NodeId, oneshot::Sender<Result<()>>),
    Free(NodeId),
}

/// Where requests go in.
pub(super) struct Listener {
    requests: Option<mpsc::Sender<Request>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Listener {
    pub(super) fn start(server: Arc<Server>, hearing: Arc<Hearing>) -> Result<Listener> {
        let (requests, inbox) = mpsc::channel(REQUESTS_MAX);
        let cant = |error: std::io::Error| StoreError::Unreachable { why: error.to_string() };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cant)?;
        let thread = std::thread::Builder::new()
            .name("taskloom-listen".into())
            .spawn(move || {
                let (nodes, arrivals) = (BTreeMap::new(), Floor::default());
                let clock_at = Instant::now();
                let listening = Loop {
                    server,
                    hearing,
                    inbox,
                    nodes,
                    newest: 0,
                    arrivals,
                    is_alone: false,
                    clock_at,
                };
                runtime.block_on(listening.run());
            })
            .map_err(cant)?;
        Ok(Listener { requests: Some(requests), thread: Some(thread) })
    }

    /// Takes the liveness lock of a node.
    pub(super) async fn hold(&self, node: NodeId) -> Result<()> {
        let Some(requests) = &self.requests else { return Err(StoreError::Closed) };
        let (sender, receiver) = oneshot::channel();
        let sent = requests.send(Request::Hold(node, sender)).await;
        sent.map_err(|_| StoreError::Closed)?;
        let cut = || StoreError::Unreachable { why: "the connection that listens was cut".into() };
        receiver.await.unwrap_or_else(|_| Err(cut()))
    }

    pub(super) async fn free(&self, node: NodeId) {
        if let Some(requests) = &self.requests {
            requests.send(Request::Free(node)).await.ok();
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

struct Loop {
    server: Arc<Server>,
    hearing: Arc<Hearing>,
    inbox: mpsc::Receiver<Request>,
    /// The nodes whose locks this process holds, or wants to hold and does not yet: the server may
    /// not have noticed that an earlier connection has ended.
    nodes: BTreeMap<NodeId, bool>,
    /// The newest event that was seen.
    newest: u64,
    /// Where it begins to look for arrivals.
    arrivals: Floor,
    /// Nobody else listened at the last look and nobody was heard since, so nobody needs to be told.
    is_alone: bool,
    /// When the time is to be read again.
    clock_at: Instant,
}

/// What there is to do.
enum Next {
    Heard(Vec<tokio_postgres::Notification>),
    Request(Option<Request>),
    Tell,
    Look,
    LookForArrivals,
}

impl Loop {
    async fn run(mut self) {
        let mut backoff = Duration::from_millis(20);
        loop {
            let listened = match self.server.listener().await {
                Ok((session, mut driver)) => {
                    backoff = Duration::from_millis(20);
                    self.listen(&session, &mut driver).await
                }
                Err(error) => Err(error),
            };
            let Err(error) = listened else { return };
            self.hearing
                .health
                .listener
                .went(self.server.clock.now(), &Err::<(), _>(error.clone()));
            tracing::warn!(%error, "the store does not hear other processes; connecting again");
            // Requests wait meanwhile, but not for ever: their bound is the sender's patience.
            tokio::select! {
                () = sleep(backoff) => {}
                request = self.inbox.recv() => match request {
                    None => return,
                    Some(Request::Hold(_, sender)) => drop(sender.send(Err(error))),
                    Some(Request::Free(node)) => drop(self.nodes.remove(&node)),
                },
            }
            backoff = BACKOFF_MAX.min(backoff * 2);
        }
    }

    /// Serves one connection until it is cut, or until the store is closed.
    async fn listen(&mut self, session: &Session, driver: &mut Driver) -> Result<()> {
        let (max, moves) = (self.server.answer_max, self.server.moves());
        let own = in_time(max, driver.drive(session.shared(self.begin(session)))).await?;
        let mut every = if session.is_pooled() { LOOK_POOLED } else { LOOK };
        // Something may have been said while nobody listened.
        self.hearing.tells.tell(told(READY | DUE | CHANGED));
        let mut tell_at = Instant::now();
        let mut look_at = Instant::now() + every;
        let mut server_at = look_at;
        let mut is_filled = false;
        let (mut arrivals_at, mut busy_until) = (Instant::now(), Instant::now());
        loop {
            let next = tokio::select! {
                heard = driver.listen() => Next::Heard(heard?),
                request = self.inbox.recv() => Next::Request(request),
                () = self.hearing.outbox.filled.notified(), if !is_filled => {
                    is_filled = true;
                    continue;
                }
                () = sleep_until(tell_at), if is_filled => Next::Tell,
                () = sleep_until(look_at) => Next::Look,
                () = sleep_until(arrivals_at), if !self.nodes.is_empty() => {
                    Next::LookForArrivals
                }
            };
            match next {
                Next::Heard(heard) => self.hear(&heard, own),
                Next::Request(None) => return Ok(()),
                Next::Request(Some(request)) => {
                    in_time(max, driver.drive(self.serve(session, request))).await?;
                }
                Next::Tell => {
                    is_filled = false;
                    let bits = self.hearing.outbox.bits.swap(0, Ordering::SeqCst);
                    tell_at = Instant::now() + TELL_EVERY;
                    if !session.is_pooled() && !self.is_alone {
                        in_time(max, driver.drive(tell(session, bits))).await?;
                    }
                }
                Next::Look => {
                    let with_server = server_at <= Instant::now();
                    let looking = session.shared(self.look_around(session, with_server));
                    let is_busy = in_time(max, driver.drive(looking)).await?;
                    if session.is_pooled() {
                        every = if is_busy { LOOK_POOLED } else { LOOK_IDLE.min(every * 2) };
                    }
                    look_at = Instant::now() + every;
                    if with_server {
                        server_at = Instant::now() + LOOK_AT_SERVER;
                    }
                    if moves != self.server.moves() {
                        let why = "the server takes no writes any more".into();
                        return Err(StoreError::Unreachable { why });
                    }
                }
                Next::LookForArrivals => {
                    let looking = session.shared(self.have_arrived(session));
                    if in_time(max, driver.drive(looking)).await? {
                        busy_until = Instant::now() + BUSY;
                        self.hearing.tells.tell(told(DUE));
                    }
                    let is_busy = Instant::now() < busy_until;
                    arrivals_at = Instant::now() + if is_busy { LOOK_BUSY } else { LOOK_QUIET };
                }
            }
        }
    }

    /// Takes the locks of the nodes again, and returns who is speaking here.
    async fn begin(&mut self, session: &Session) -> Result<i32> {
        if session.is_pooled() {
            return Ok(0);
        }
        self.nodes.values_mut().for_each(|is_held| *is_held = false);
        self.hold_again(session).await?;
        session.query("SELECT pg_advisory_lock_shared($1)", &[&LOCK_LISTENER]).await?;
        self.look_for_others(session).await?;
        if !self.is_alone {
            // Whoever was alone until now tells nobody, and would only notice at its next look.
            tell(session, READY).await?;
        }
        let rows = session.query("SELECT pg_backend_pid()", &[]).await?;
        Ok(rows.first().map_or(Ok(0), |row| row.try_get(0))?)
    }

    /// Passes on what the others tell; `own` are the notices of this connection.
    fn hear(&mut self, heard: &[tokio_postgres::Notification], own: i32) {
        for notice in heard.iter().filter(|it| it.process_id() != own) {
            self.is_alone = false;
            self.hearing.tells.tell(told(notice.payload().parse().unwrap_or(u8::MAX)));
        }
    }

    async fn look_for_others(&mut self, session: &Session) -> Result<()> {
        let rows = session.query(LISTENERS, &[&(LOCK_LISTENER >> 32)]).await?;
        self.is_alone = rows.first().map_or(Ok(0_i64), |row| row.try_get(0))? == 1;
        Ok(())
    }

    async fn hold_again(&mut self, session: &Session) -> Result<()> {
        for (node, is_held) in self.nodes.iter_mut().filter(|it| !*it.1) {
            let taken = session.query(HOLD, &[&node_lock(*node)]).await?;
            *is_held = taken.first().map_or(Ok(false), |row| row.try_get(0))?;
        }
        Ok(())
    }

    async fn serve(&mut self, session: &Session, request: Request) -> Result<()> {
        match request {
            // The row of the node says that it has no lock.
            Request::Hold(node, sender) if session.is_pooled() => {
                self.nodes.insert(node, false);
                sender.send(Ok(())).ok();
                Ok(())
            }
            Request::Free(node) if session.is_pooled() => {
                self.nodes.remove(&node);
                Ok(())
            }
            Request::Hold(node, sender) => {
                let taken = session.query(HOLD, &[&node_lock(node)]).await.map(drop);
                if taken.is_ok() {
                    self.nodes.insert(node, true);
                }
                sender.send(taken.clone()).ok();
                taken
            }
            Request::Free(node) => {
                self.nodes.remove(&node);
                let sql = "SELECT pg_advisory_unlock($1)";
                session.query(sql, &[&node_lock(node)]).await.map(drop)
            }
        }
    }

    /// Whether there are jobs that no node has taken in.
    async fn have_arrived(&mut self, session: &Session) -> Result<bool> {
        let begun = Instant::now().into_std();
        let is_guarded = self.hearing.has_many_dead.load(Ordering::Relaxed);
        let from = self.arrivals.begins(is_guarded, begun);
        let rows = session.query(FIRST_ARRIVAL, &[&from]).await?;
        let Some(row) = rows.first() else { return Ok(false) };
        let (newest, first): (i64, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
        let took = (begun, Instant::now().into_std());
        self.arrivals.saw(from, first.unwrap_or(newest), took);
        Ok(first.is_some())
    }

    /// Looks at what others have done, now and then at the server too. Says whether anybody has done
    /// something.
    async fn look_around(&mut self, session: &Session, with_server: bool) -> Result<bool> {
        self.hearing.health.listener.begins();
        let is_busy = self.look(session).await?;
        if with_server {
            self.look_at_server(session).await?;
        }
        self.hearing.health.listener.went(self.server.clock.now(), &Ok(()));
        Ok(is_busy)
    }

    /// Asks the server how it fares.
    async fn look_at_server(&self, session: &Session) -> Result<()> {
        let rows = session.query(SERVER, &[]).await?;
        let Some(row) = rows.first() else { return Ok(()) };
        let number = |place: usize| -> Result<u64> { Ok(rows::key(row.try_get(place)?)) };
        let small =
            |place| -> Result<u32> { Ok(u32::try_from(number(place)?).unwrap_or(u32::MAX)) };
        let found = ServerHealth {
            at: self.server.clock.now(),
            dead_rows: number(0)?,
            snapshot_age: number(1)?,
            snapshot_age_secs: number(2)?,
            n_connections: small(3)?,
            connections_max: small(4)?,
        };
        *self.hearing.health.server.lock() = Some(found);
        Ok(())
    }

    /// Looks at the time, and whether another process has committed something. Says whether
    /// anybody has.
    async fn look(&mut self, session: &Session) -> Result<bool> {
        if self.clock_at <= Instant::now() {
            self.clock_at = Instant::now() + LOOK;
            self.server.set_clock(session).await?;
        }
        if !session.is_pooled() {
            self.hold_again(session).await?;
            self.look_for_others(session).await?;
        }
        let rows = session.query(NEWEST, &[]).await?;
        let Some(row) = rows.first() else { return Ok(false) };
        let (newest, n_dead): (Option<i64>, i64) = (row.try_get(0)?, row.try_get(1)?);
        let had_many = self.hearing.has_many_dead.load(Ordering::Relaxed);
        let has_many = if had_many { MANY_DEAD / 2 < n_dead } else { MANY_DEAD < n_dead };
        self.hearing.has_many_dead.store(has_many, Ordering::Relaxed);
        let newest = rows::key(newest.unwrap_or(0));
        let ours = self.hearing.newest_event.load(Ordering::SeqCst);
        if newest != self.newest && ours < newest {
            self.hearing.tells.tell(told(READY | DUE | CHANGED));
        }
        let is_busy = newest != self.newest;
        self.newest = newest;
        Ok(is_busy)
    }
}

/// Dead rows, the oldest snapshot, and connections. What the role may not see does not count.
const SERVER: &str = "SELECT \
     coalesce((SELECT sum(n_dead_tup)::bigint FROM pg_stat_user_tables \
     WHERE schemaname = 'taskloom' AND relname = 'hot'), 0), \
     coalesce(max(age(backend_xmin))::bigint, 0), \
     coalesce((array_agg(extract(epoch FROM clock_timestamp() - xact_start)::bigint \
     ORDER BY age(backend_xmin) DESC NULLS LAST))[1], 0), \
     count(*) FILTER (WHERE backend_type = 'client backend'), \
     (current_setting('max_connections')::bigint \
     - current_setting('superuser_reserved_connections')::bigint) \
     FROM pg_stat_activity";

async fn tell(session: &Session, bits: u8) -> Result<()> {
    if bits == 0 {
        return Ok(());
    }
    session.query("SELECT pg_notify('taskloom', $1)", &[&bits.to_string()]).await.map(drop)
}
