//! Rows of a CSV file: a header, then fields by its names.

use std::io::BufRead;

use jaq_json::{Map, Val};
use taskloom_dispatch::TaskError;

use super::{Meter, Place, Raw, RawRow, Take, of_io};
use crate::data::args::Plan;
use crate::data::values;

pub(super) fn read(
    plan: &Plan,
    reader: impl BufRead,
    meter: &Meter,
    take: Take<'_>,
) -> Result<(), TaskError> {
    let fail = |error: csv::Error| match error.into_kind() {
        csv::ErrorKind::Io(error) => of_io(plan, &error),
        other => format_error(plan, &format!("{other:?}")),
    };
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(plan.delimiter)
        .flexible(true)
        .has_headers(false)
        .from_reader(reader);
    let mut record = csv::ByteRecord::new();
    meter.begin_row();
    if !reader.read_byte_record(&mut record).map_err(fail)? {
        return Err(format_error(plan, "the file is empty, and needs a header row"));
    }
    let columns = Columns::of_header(plan, &record)?;
    loop {
        meter.begin_row();
        if !reader.read_byte_record(&mut record).map_err(fail)? {
            return Ok(());
        }
        let place = Place::Line(record.position().map_or(0, csv::Position::line));
        let value = columns.row(&record, plan.typed);
        if take(RawRow { place, value, raw: Raw::Fields(&record) })?.is_break() {
            return Ok(());
        }
    }
}

/// The columns of a file.
struct Columns {
    /// The name of each; none when nothing looks at it.
    names: Vec<Option<Val>>,
}

impl Columns {
    fn of_header(plan: &Plan, header: &csv::ByteRecord) -> Result<Columns, TaskError> {
        let mut names: Vec<&str> = Vec::new();
        for name in header {
            let name = std::str::from_utf8(name)
                .map_err(|_| format_error(plan, "the header is not UTF-8"))?;
            if names.contains(&name) {
                let message = format!("two columns are named `{name}`");
                return Err(format_error(plan, &message));
            }
            names.push(name);
        }
        let is_wanted = |name: &str| match &plan.group {
            // Only a group says beforehand what it looks at.
            Some(group) if plan.filter.is_none() && plan.map.is_none() => {
                group.fields.iter().any(|it| it == name)
                    || group.aggregates.iter().any(|(_, it)| it.field() == Some(name))
            }
            _ => true,
        };
        let names = names.iter().map(|it| is_wanted(it).then(|| values::text(it)));
        Ok(Columns { names: names.collect() })
    }

    fn row(&self, record: &csv::ByteRecord, typed: bool) -> Result<Val, String> {
        if record.len() != self.names.len() {
            let (n_fields, n_columns) = (record.len(), self.names.len());
            return Err(format!("it has {n_fields} fields, and the header {n_columns}"));
        }
        let mut row = Map::with_capacity_and_hasher(self.names.len(), Default::default());
        for (name, field) in self.names.iter().zip(record) {
            let Some(name) = name else { continue };
            let field = std::str::from_utf8(field)
                .map_err(|_| format!("field `{}` is not UTF-8", values::plain(name)))?;
            let value = if typed { values::typed(field) } else { values::text(field) };
            row.insert(name.clone(), value);
        }
        Ok(Val::obj(row))
    }
}

fn format_error(plan: &Plan, why: &str) -> TaskError {
    TaskError::permanent(format!("{}: {why}", plan.input.display())).code("data.format")
}
