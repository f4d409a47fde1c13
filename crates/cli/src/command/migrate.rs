//! `taskloom migrate`: bring the store's schema to the version of this program, or say how.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;
use taskloom::{Schema, TaskSystem};

use super::Place;
use crate::args::MigrateArgs;
use crate::print;

pub(super) async fn run(place: &Place, args: MigrateArgs) -> Result<ExitCode> {
    let store = TaskSystem::open(&place.store);
    if args.dump_sql {
        let from = match args.from {
            Some(from) => from,
            None => store.schema()?.found,
        };
        let sql = store.migration_sql(from)?;
        if place.json {
            print::json(&json!({ "from": from, "sql": sql }))?;
        } else {
            print::line(sql.trim_end())?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let schema = store.schema()?;
    if !args.dry_run {
        // Opening it does it, under a lock; another process may come first.
        drop(store.connect().await?);
    }
    let Schema { found, known } = schema;
    if place.json {
        let is_pending = args.dry_run && !schema.is_current();
        print::json(&json!({ "found": found, "known": known, "pending": is_pending }))?;
    } else if schema.is_current() {
        print::line(format!("nothing to do: the schema has version {known}"))?;
    } else if args.dry_run {
        print::line(format!("would bring the schema from version {found} to {known}"))?;
    } else {
        print::line(format!("brought the schema from version {found} to {known}"))?;
    }
    Ok(ExitCode::SUCCESS)
}
