//! Sessions through a pooler in transaction mode: the next transaction may run on another
//! connection to the server, so nothing is left there.
//!
//! Every transaction sets itself up, in the round trip of its `BEGIN`. Statements go without a
//! name, with the types of their parameters, which are learned once.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::Result;
use super::open::LOCK_WRITER;
use super::session::Params;
use super::tx::LOCK_PARTS;
use crate::StoreError;

/// What a session is set up with.
#[derive(Debug, Clone, Default)]
pub(super) struct Setup {
    /// Settings and their values.
    pub(super) settings: Vec<(&'static str, String)>,
    pub(super) kind: Kind,
}

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Kind {
    /// To open the store.
    #[default]
    Open,
    /// To write, as one of the writers.
    Write,
    /// To read.
    Read,
    /// To hear others.
    Listen,
}

/// Nobody turns durability off by a setting of the role.
const DURABLE: &str = "SELECT set_config('synchronous_commit', 'on', LOCAL) \
     WHERE current_setting('synchronous_commit') = 'off'; ";

impl Setup {
    /// What sets up a session of its own.
    pub(super) fn of_session(&self) -> String {
        let set = |(name, value): &(&str, String)| format!("SET {name} = '{value}'; ");
        let mut text: String = self.settings.iter().map(set).collect();
        match self.kind {
            Kind::Write => text.push_str(&DURABLE.replace("LOCAL", "false")),
            Kind::Listen => text.push_str("LISTEN taskloom"),
            Kind::Open | Kind::Read => {}
        }
        text
    }

    /// What begins a transaction of a session that is shared.
    fn of_transaction(&self) -> String {
        let mut text = "BEGIN ISOLATION LEVEL READ COMMITTED".to_owned();
        if matches!(self.kind, Kind::Read | Kind::Listen) {
            text.push_str(" READ ONLY");
        }
        let set = |it: &(&str, String)| format!("set_config('{}', '{}', true)", it.0, it.1);
        let settings: Vec<String> = self.settings.iter().map(set).collect();
        if !settings.is_empty() {
            text.push_str("; SELECT ");
            text.push_str(&settings.join(", "));
        }
        if self.kind == Kind::Write {
            text.push_str("; ");
            text.push_str(&DURABLE.replace("LOCAL", "true"));
            // The first free one; taking it stops the search.
            text.push_str(&format!(
                "SELECT n AS writer FROM generate_series(1, 30000) AS n \
                 WHERE pg_try_advisory_xact_lock({LOCK_WRITER}::bigint + n) LIMIT 1; "
            ));
            text.push_str(LOCK_PARTS);
        }
        text
    }
}

/// The state of a session that is shared.
pub(super) struct Pooled {
    begin: String,
    types: RefCell<HashMap<&'static str, Vec<Type>>>,
    /// Whether a transaction was begun and not ended.
    pub(super) is_open: Cell<bool>,
    /// The writer of the transaction under way.
    pub(super) writer: Cell<i16>,
}

impl Pooled {
    pub(super) fn new(setup: &Setup) -> Pooled {
        Pooled {
            begin: setup.of_transaction(),
            types: RefCell::default(),
            is_open: Cell::new(false),
            writer: Cell::new(0),
        }
    }

    pub(super) async fn begin(&self, client: &Client) -> Result<()> {
        // Before it is sent: what is polled together with it rides the same transaction.
        self.is_open.set(true);
        for message in client.simple_query(&self.begin).await? {
            if let SimpleQueryMessage::Row(row) = message
                && row.columns().first().is_some_and(|it| it.name() == "writer")
            {
                let writer = row.get(0).and_then(|it| it.parse().ok());
                let none = || StoreError::TooManyConnections { why: "no writer is free".into() };
                self.writer.set(writer.ok_or_else(none)?);
            }
        }
        Ok(())
    }

    pub(super) fn knows(&self, sql: &'static str) -> bool {
        self.types.borrow().contains_key(sql)
    }

    /// Learns the types of the parameters of `sql`, inside a transaction.
    pub(super) async fn learn(&self, client: &Client, sql: &'static str) -> Result<Vec<Type>> {
        // Another process may have left a statement of the same name on this connection.
        client.batch_execute("DEALLOCATE ALL").await?;
        let types = client.prepare(sql).await?.params().to_vec();
        self.types.borrow_mut().insert(sql, types.clone());
        Ok(types)
    }

    /// The parameters of `sql` with their types, inside a transaction.
    pub(super) async fn typed<'p>(
        &self,
        client: &Client,
        sql: &'static str,
        params: Params<'p>,
    ) -> Result<Vec<(&'p (dyn tokio_postgres::types::ToSql + Sync), Type)>> {
        let known = self.types.borrow().get(sql).cloned();
        let types = match known {
            Some(types) => types,
            None => self.learn(client, sql).await?,
        };
        Ok(params.iter().copied().zip(types).collect())
    }
}
