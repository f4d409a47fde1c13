//! Which version the schema of a store has, and the SQL that brings it to this program's.

use std::fmt::Write as _;

/// The versions of a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schema {
    /// The version that was found; 0: there is no schema yet.
    pub found: u32,
    /// The version of this program.
    pub known: u32,
}

impl Schema {
    pub(crate) fn new(found: i64, known: i64) -> Schema {
        let version = |it: i64| u32::try_from(it).unwrap_or(0);
        Schema { found: version(found), known: version(known) }
    }

    /// Whether nothing has to be done.
    #[must_use]
    pub fn is_current(self) -> bool {
        self.found == self.known
    }
}

/// The migrations after version `from`, between what goes before and after them.
pub(crate) fn script(migrations: &[&str], from: u32, (before, after): (&str, &str)) -> String {
    let known = migrations.len();
    let mut script = format!("-- Taskloom: the schema, from version {from} to {known}.\n");
    if known <= from as usize {
        script.push_str("-- Nothing to do.\n");
        return script;
    }
    script.push_str(before);
    for (place, migration) in migrations.iter().enumerate().skip(from as usize) {
        writeln!(script, "\n-- Version {}.\n{migration}", place + 1).expect("a string takes all");
    }
    script.push_str(after);
    script
}
