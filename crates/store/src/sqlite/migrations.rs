//! The schema without opening the store: what version it has, and the SQL for an administrator.

use std::path::Path;

use super::SqliteStore;
use super::engine::Result;
use super::open::{APPLICATION_ID, MIGRATIONS, identify, known_version, reader};
use crate::migrations::{Schema, script};

impl SqliteStore {
    /// The versions of the schema in the file at `path`; changes nothing, and makes no file.
    /// [`SqliteStore::open`] brings it to this program's.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub fn schema(path: &Path) -> Result<Schema> {
        if !path.exists() {
            return Ok(Schema::new(0, known_version()));
        }
        let conn = reader(path)?;
        let (found, _) = identify(&conn, path)?;
        Ok(Schema::new(found, known_version()))
    }

    /// The SQL that brings a schema of version `from`, 0 for none, to this program's version, for
    /// `sqlite3`: one transaction, which keeps others from writing meanwhile.
    #[must_use]
    pub fn migration_sql(from: u32) -> String {
        let known = known_version();
        let mut after = format!(
            "\nPRAGMA user_version = {known};\nPRAGMA application_id = {APPLICATION_ID};\n"
        );
        if from == 0 {
            after.push_str(
                "INSERT INTO meta (name, value) VALUES ('salt', abs(random() % 4294967296)),\n    \
                 ('created', CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER));\n",
            );
        }
        after.push_str("COMMIT;\n");
        script(MIGRATIONS, from, (".bail on\nBEGIN IMMEDIATE;\n", &after))
    }
}
