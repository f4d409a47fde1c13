//! One connection to the server: driven by whoever uses it, so that no routine runs beside it.
//!
//! Statements are prepared once a connection. Queries that are polled together are sent together:
//! a batch of them costs one round trip.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, NoTls, Notification, Row, Socket, Statement,
};

use super::Result;
use crate::StoreError;

pub(super) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// How long a connection may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(5);

type Wire = Connection<Socket, tokio_postgres::tls::NoTlsStream>;

/// The part of a connection that moves bytes.
pub(super) struct Driver {
    wire: Pin<Box<Wire>>,
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
    /// Connects, and sets the session up by `settings`.
    pub(super) async fn connect(config: &Config, settings: &str) -> Result<(Session, Driver)> {
        let connecting = tokio::time::timeout(CONNECT_MAX, config.connect(NoTls));
        let late = |_| StoreError::Unreachable {
            why: format!("no answer in {} s", CONNECT_MAX.as_secs()),
        };
        let (client, wire) = connecting.await.map_err(late)??;
        let mut driver = Driver { wire: Box::pin(wire), heard: Vec::new() };
        let session = Session {
            client,
            statements: RefCell::default(),
            is_committing: Cell::new(false),
            lacks_part: Cell::new(false),
        };
        driver.drive(session.batch(settings)).await?;
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
        if sqls.iter().all(|sql| self.statements.borrow().contains_key(sql)) {
            return Ok(());
        }
        let statements = sqls.iter().map(|sql| self.statement(sql));
        futures::future::try_join_all(statements).await?;
        Ok(())
    }

    pub(super) async fn query(&self, sql: &'static str, params: Params<'_>) -> Result<Vec<Row>> {
        let statement = self.statement(sql).await?;
        self.client.query(&statement, params).await.map_err(|error| self.noted(error))
    }

    pub(super) async fn execute(&self, sql: &'static str, params: Params<'_>) -> Result<u64> {
        let statement = self.statement(sql).await?;
        self.client.execute(&statement, params).await.map_err(|error| self.noted(error))
    }

    fn noted(&self, error: tokio_postgres::Error) -> StoreError {
        // No table has another rule that a row of ours can break.
        if error.code() == Some(&SqlState::CHECK_VIOLATION) {
            self.lacks_part.set(true);
        }
        error.into()
    }
}
