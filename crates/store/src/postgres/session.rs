//! One connection to the server: driven by whoever uses it, so that no routine runs beside it.
//!
//! Statements are prepared once a connection. Queries that are polled together are sent together:
//! a batch of them costs one round trip.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};

use tokio_postgres::error::SqlState;
#[cfg(feature = "tls")]
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::ToSql;
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, NoTls, Notification, Row, Socket, Statement,
};

use super::Result;
use super::address::Target;
use super::pooled::{Pooled, Setup};
use super::tx::LOCK_PARTS;
use crate::StoreError;

pub(super) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// What the bytes go through.
enum Wire {
    Plain(Box<Connection<Socket, tokio_postgres::tls::NoTlsStream>>),
    #[cfg(feature = "tls")]
    Tls(Box<Connection<Socket, RustlsStream>>),
}

#[cfg(feature = "tls")]
type RustlsStream = <tokio_postgres_rustls::MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

impl Wire {
    fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<AsyncMessage, tokio_postgres::Error>>> {
        match self {
            Wire::Plain(wire) => wire.poll_message(cx),
            #[cfg(feature = "tls")]
            Wire::Tls(wire) => wire.poll_message(cx),
        }
    }

    #[cfg(not(feature = "tls"))]
    async fn connect(config: &Config, _target: &Target) -> Result<(Client, Wire)> {
        let (client, wire) = config.connect(NoTls).await?;
        Ok((client, Wire::Plain(Box::new(wire))))
    }

    #[cfg(feature = "tls")]
    async fn connect(config: &Config, target: &Target) -> Result<(Client, Wire)> {
        let Some((wish, connector)) = &target.tls else {
            let (client, wire) = config.connect(NoTls).await?;
            return Ok((client, Wire::Plain(Box::new(wire))));
        };
        let connected = config.connect(connector.clone()).await;
        let (client, wire) = connected.map_err(|error| {
            super::tls::explain(&error, wish.root.as_ref()).unwrap_or_else(|| error.into())
        })?;
        Ok((client, Wire::Tls(Box::new(wire))))
    }
}

/// The part of a connection that moves bytes.
pub(super) struct Driver {
    wire: Wire,
    /// Notices of processes that came in.
    heard: Vec<Notification>,
}

/// The part of a connection that asks.
pub(super) struct Session {
    pub(super) client: Client,
    statements: RefCell<HashMap<&'static str, Statement>>,
    /// Whether COMMIT was sent: from then on nobody knows what became of a cut connection.
    pub(super) is_committing: Cell<bool>,
    /// Whether a new row belonged to a part of the history that is missing.
    pub(super) lacks_part: Cell<bool>,
    /// When a pooler gives each transaction another connection to the server.
    pooled: Option<Pooled>,
}

/// How many notices of others are kept until they are looked at.
const HEARD_MAX: usize = 64;

impl Driver {
    /// Does `work`, moving the bytes it needs moved.
    pub(super) async fn drive<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            let lost = self.poll(cx);
            // What came in may be what the work waits for.
            match (work.as_mut().poll(cx), lost) {
                (Poll::Ready(done), _) => Poll::Ready(done),
                (Poll::Pending, Poll::Ready(why)) => {
                    Poll::Ready(Err(StoreError::Unreachable { why }))
                }
                (Poll::Pending, Poll::Pending) => Poll::Pending,
            }
        })
        .await
    }

    /// Whether the connection still stands, as far as the system knows: one that was cut while it
    /// was idle is not used.
    pub(super) async fn is_alive(&mut self) -> bool {
        // Lets the runtime learn what has come in.
        tokio::task::yield_now().await;
        poll_fn(|cx| Poll::Ready(self.poll(cx).is_pending())).await
    }

    /// Waits for notices of other processes.
    pub(super) async fn listen(&mut self) -> Result<Vec<Notification>> {
        poll_fn(|cx| {
            let lost = self.poll(cx);
            if !self.heard.is_empty() {
                return Poll::Ready(Ok(std::mem::take(&mut self.heard)));
            }
            lost.map(|why| Err(StoreError::Unreachable { why }))
        })
        .await
    }

    /// Moves bytes until there are none; ready when the connection has ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        loop {
            match self.wire.poll_message(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(AsyncMessage::Notification(notice)))) => {
                    self.heard.truncate(HEARD_MAX - 1);
                    self.heard.push(notice);
                }
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(StoreError::from(error).to_string());
                }
                Poll::Ready(None) => return Poll::Ready("the connection was closed".into()),
            }
        }
    }
}

impl Session {
    /// Connects, and sets the session up.
    pub(super) async fn connect(
        config: &Config,
        (target, setup): (&Target, &Setup),
    ) -> Result<(Session, Driver)> {
        let (client, wire) = Wire::connect(config, target).await?;
        let mut driver = Driver { wire, heard: Vec::new() };
        let pooled = target.is_pooled.then(|| Pooled::new(setup));
        let (statements, is_committing) = (RefCell::default(), Cell::new(false));
        let lacks_part = Cell::new(false);
        let session = Session { client, statements, is_committing, lacks_part, pooled };
        if session.pooled.is_none() {
            driver.drive(session.batch(&setup.of_session())).await?;
        }
        Ok((session, driver))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    pub(super) async fn batch(&self, sql: &str) -> Result<()> {
        Ok(self.client.batch_execute(sql).await?)
    }

    /// The prepared form of `sql`.
    pub(super) async fn statement(&self, sql: &'static str) -> Result<Statement> {
        if let Some(statement) = self.statements.borrow().get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).await?;
        self.statements.borrow_mut().insert(sql, statement.clone());
        Ok(statement)
    }

    /// Prepares all of `sqls` in one round trip.
    pub(super) async fn prepare(&self, sqls: &[&'static str]) -> Result<()> {
        if let Some(pooled) = &self.pooled {
            return self.learn(pooled, sqls).await;
        }
        if sqls.iter().all(|sql| self.statements.borrow().contains_key(sql)) {
            return Ok(());
        }
        let statements = sqls.iter().map(|sql| self.statement(sql));
        futures::future::try_join_all(statements).await?;
        Ok(())
    }

    async fn learn(&self, pooled: &Pooled, sqls: &[&'static str]) -> Result<()> {
        if sqls.iter().all(|sql| pooled.knows(sql)) {
            return Ok(());
        }
        let is_alone = !pooled.is_open.get();
        if is_alone {
            self.begin().await?;
        }
        for sql in sqls.iter().filter(|sql| !pooled.knows(sql)) {
            pooled.learn(&self.client, sql).await?;
        }
        if is_alone { self.end("COMMIT").await } else { Ok(()) }
    }

    /// Whether the connection to the server is another one for each transaction.
    pub(super) fn is_pooled(&self) -> bool {
        self.pooled.is_some()
    }

    /// The writer that a transaction under way has taken, when each takes one of its own.
    pub(super) fn writer(&self) -> Option<i16> {
        self.pooled.as_ref().map(|it| it.writer.get())
    }

    /// Begins a transaction. What is polled after it belongs to it.
    pub(super) async fn begin(&self) -> Result<()> {
        match &self.pooled {
            Some(pooled) => pooled.begin(&self.client).await,
            None => self.batch("BEGIN").await,
        }
    }

    /// Begins a transaction that writes to the tables of jobs, with [`LOCK_PARTS`].
    pub(super) async fn begin_writing(&self) -> Result<()> {
        match &self.pooled {
            // A session that is shared begins each transaction with it.
            Some(pooled) => pooled.begin(&self.client).await,
            None => self.batch(&format!("BEGIN; {LOCK_PARTS}")).await,
        }
    }

    /// Ends a transaction by `COMMIT` or `ROLLBACK`.
    pub(super) async fn end(&self, how: &str) -> Result<()> {
        if let Some(pooled) = &self.pooled {
            pooled.is_open.set(false);
        }
        self.batch(how).await
    }

    /// Does `work` in a transaction, if it needs one to find its tables.
    pub(super) async fn shared<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        if self.pooled.as_ref().is_none_or(|it| it.is_open.get()) {
            return work.await;
        }
        self.begin().await?;
        let went = work.await;
        self.end(if went.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
        went
    }

    pub(super) async fn query(&self, sql: &'static str, params: Params<'_>) -> Result<Vec<Row>> {
        let Some(pooled) = &self.pooled else {
            let statement = self.statement(sql).await?;
            let rows = self.client.query(&statement, params).await;
            return rows.map_err(|error| self.noted(error));
        };
        let querying = async {
            let params = pooled.typed(&self.client, sql, params).await?;
            let rows = self.client.query_typed(sql, &params).await;
            rows.map_err(|error| self.noted(error))
        };
        self.shared(querying).await
    }

    pub(super) async fn execute(&self, sql: &'static str, params: Params<'_>) -> Result<u64> {
        let Some(pooled) = &self.pooled else {
            let statement = self.statement(sql).await?;
            let n = self.client.execute(&statement, params).await;
            return n.map_err(|error| self.noted(error));
        };
        let executing = async {
            let params = pooled.typed(&self.client, sql, params).await?;
            let n = self.client.execute_typed(sql, &params).await;
            n.map_err(|error| self.noted(error))
        };
        self.shared(executing).await
    }

    fn noted(&self, error: tokio_postgres::Error) -> StoreError {
        // No table has another rule that a row of ours can break.
        if error.code() == Some(&SqlState::CHECK_VIOLATION) {
            self.lacks_part.set(true);
        }
        error.into()
    }
}
