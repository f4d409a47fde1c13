//! The schema without opening the store: what version it has, and the SQL for an administrator.

use super::open::{LOCK_MIGRATE, MIGRATIONS, Server, found_version, known_version};
use super::{PostgresOptions, PostgresStore, Result};
use crate::StoreError;
use crate::migrations::{Schema, script};

impl PostgresStore {
    /// The versions of the schema at `url`; changes nothing. [`PostgresStore::open`] brings it to
    /// this program's.
    ///
    /// # Errors
    /// As [`PostgresStore::open`].
    pub fn schema(url: &str) -> Result<Schema> {
        let url = url.to_owned();
        let cant = |error: std::io::Error| StoreError::Unreachable { why: error.to_string() };
        let looking = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(cant)?.block_on(async {
                let server = Server::unopened(&url, &PostgresOptions::default())?;
                let (session, mut driver) = server.plain().await?;
                let address = server.address();
                driver.drive(session.shared(found_version(&session, &address))).await
            })
        };
        // The caller may be inside a runtime, which must not be entered twice.
        let thread = std::thread::Builder::new().name("taskloom-look".into()).spawn(looking);
        let found = thread.map_err(cant)?.join().unwrap_or(Err(StoreError::Closed))?;
        Ok(Schema::new(found.unwrap_or(0), known_version()))
    }

    /// The SQL that brings a schema of version `from`, 0 for none, to this program's version, for
    /// `psql`: one transaction, under the lock that this program takes for the same.
    #[must_use]
    pub fn migration_sql(from: u32) -> String {
        let found = match from {
            0 => "to_regclass('taskloom.meta') IS NULL".to_owned(),
            from => format!(
                "(SELECT value FROM taskloom.meta WHERE name = 'version') IS NOT DISTINCT FROM {from}"
            ),
        };
        let before = format!(
            "\\set ON_ERROR_STOP on\n\
             BEGIN;\n\
             SET LOCAL client_min_messages = warning;\n\
             SELECT pg_advisory_xact_lock({LOCK_MIGRATE});\n\
             CREATE SCHEMA IF NOT EXISTS taskloom;\n\
             DO $check$ BEGIN\n    IF NOT ({found}) THEN\n        \
             RAISE EXCEPTION 'the schema is not at version {from}; nothing was changed';\n    \
             END IF;\nEND $check$;\n\
             SET LOCAL search_path = taskloom;\n"
        );
        let known = known_version();
        let after = format!(
            "\nINSERT INTO meta (name, value) VALUES\n    \
             ('salt', ('x' || substr(md5(gen_random_uuid()::text), 1, 8))::bit(32)::bigint),\n    \
             ('created', (extract(epoch FROM clock_timestamp()) * 1000)::bigint),\n    \
             ('events_from', 0), ('version', 0) ON CONFLICT DO NOTHING;\n\
             UPDATE meta SET value = {known} WHERE name = 'version';\n\
             COMMIT;\n"
        );
        script(MIGRATIONS, from, (&before, &after))
    }
}
