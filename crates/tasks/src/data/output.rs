//! Where rows go: a file that appears whole or not at all, or the result of the job.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use jaq_json::Val;
use serde::Serialize;
use taskloom_dispatch::TaskError;
use tempfile::NamedTempFile;

use super::args::{DataArgs, Format, Plan};
use super::source::{Place, Raw};
use super::values::{self, Json};

/// How much is written at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// A file beside the one it becomes; dropping it leaves nothing behind.
pub(super) struct Draft {
    writer: BufWriter<NamedTempFile>,
    path: PathBuf,
}

impl Draft {
    pub(super) fn create(path: &Path) -> Result<Draft, TaskError> {
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(".taskloom-").suffix(".part");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // Less what the umask takes away, as for any new file.
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        let file = builder.tempfile_in(folder).map_err(|error| output_error(path, &error))?;
        let writer = BufWriter::with_capacity(BUFFER_BYTES, file);
        Ok(Draft { writer, path: path.to_owned() })
    }

    /// Makes the file durable and gives it its name.
    pub(super) fn publish(self) -> Result<(), TaskError> {
        let path = self.path;
        let fail = |error: io::Error| output_error(&path, &error);
        let file = self.writer.into_inner().map_err(|error| fail(error.into_error()))?;
        file.as_file().sync_all().map_err(fail)?;
        file.persist(&path).map_err(|error| fail(error.error))?;
        // The name is durable when its folder is; not every system can sync one.
        let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
        if let Ok(folder) = File::open(folder.unwrap_or(Path::new("."))) {
            folder.sync_all().ok();
        }
        Ok(())
    }

    fn write(
        &mut self,
        write: impl FnOnce(&mut BufWriter<NamedTempFile>) -> io::Result<()>,
    ) -> Result<(), TaskError> {
        write(&mut self.writer).map_err(|error| output_error(&self.path, &error))
    }
}

/// Where the rows of a job go.
pub(super) enum Output {
    File { draft: Draft, format: Format, columns: Columns, n_rows: u64 },
    Result { rows: Vec<serde_json::Value>, n_bytes: usize },
}

impl Output {
    pub(super) fn open(plan: &Plan) -> Result<Output, TaskError> {
        let Some((path, format)) = &plan.output else {
            return Ok(Output::Result { rows: Vec::new(), n_bytes: 0 });
        };
        let draft = Draft::create(path)?;
        let columns = Columns::new(&plan.columns);
        Ok(Output::File { draft, format: *format, columns, n_rows: 0 })
    }

    /// Gives out a row.
    pub(super) fn add(&mut self, row: &Val) -> Result<(), TaskError> {
        match self {
            Output::File { draft, format, columns, n_rows } => {
                *n_rows += 1;
                match format {
                    Format::Csv => {
                        let (header, fields) = columns.fields(row)?;
                        draft.write(|writer| {
                            if let Some(header) = header {
                                write_record(&mut *writer, &header)?;
                            }
                            write_record(writer, &fields)
                        })
                    }
                    Format::Ndjson => draft.write(|writer| {
                        serde_json::to_writer(&mut *writer, &Json(row))?;
                        writer.write_all(b"\n")
                    }),
                    Format::Json => {
                        let before: &[u8] = if *n_rows == 1 { b"[\n" } else { b",\n" };
                        draft.write(|writer| {
                            writer.write_all(before)?;
                            Ok(serde_json::to_writer(writer, &Json(row))?)
                        })
                    }
                }
            }
            Output::Result { rows, n_bytes } => keep(rows, n_bytes, row),
        }
    }

    /// Ends the file; it has its name once this returns. Yields the rows of a result.
    pub(super) fn end(self) -> Result<Option<Vec<serde_json::Value>>, TaskError> {
        match self {
            Output::Result { rows, .. } => Ok(Some(rows)),
            Output::File { mut draft, format, columns, n_rows } => {
                match format {
                    Format::Csv => {
                        if let Some(header) = columns.unwritten() {
                            draft.write(|writer| write_record(writer, &header))?;
                        }
                    }
                    Format::Ndjson => (),
                    Format::Json => {
                        let end: &[u8] = if n_rows == 0 { b"[]\n" } else { b"\n]\n" };
                        draft.write(|writer| writer.write_all(end))?;
                    }
                }
                draft.publish()?;
                Ok(None)
            }
        }
    }
}

fn keep(
    rows: &mut Vec<serde_json::Value>,
    n_bytes: &mut usize,
    row: &Val,
) -> Result<(), TaskError> {
    let value = serde_json::to_value(Json(row))?;
    *n_bytes += value.to_string().len() + 1;
    rows.push(value);
    if DataArgs::RESULT_ROWS_MAX < rows.len() || DataArgs::RESULT_BYTES_MAX < *n_bytes {
        let message = format!(
            "there are more than {} rows or {} KiB, which is too much for the result of a job: \
             give an `output`, or a `limit`",
            DataArgs::RESULT_ROWS_MAX,
            DataArgs::RESULT_BYTES_MAX >> 10
        );
        return Err(TaskError::permanent(message).code("data.result"));
    }
    Ok(())
}

/// The columns of a CSV output.
pub(super) struct Columns {
    names: Vec<Val>,
    /// Whether they were given, so that other fields are left out.
    given: bool,
    header_written: bool,
}

/// The fields of a line.
type Record = Vec<String>;

impl Columns {
    fn new(given: &[String]) -> Columns {
        let names = given.iter().map(|it| values::text(it)).collect();
        Columns { names, given: !given.is_empty(), header_written: false }
    }

    /// The header, before the first row, and the fields of `row`.
    fn fields(&mut self, row: &Val) -> Result<(Option<Record>, Record), TaskError> {
        let refuse = |why: String| Err(TaskError::permanent(why).code("data.columns"));
        let Val::Obj(row) = row else {
            let kind = values::kind(row);
            return refuse(format!("a row of a CSV output must be an object, not {kind}"));
        };
        if self.names.is_empty() {
            self.names = row.keys().cloned().collect();
        }
        let n_known = self.names.iter().filter(|it| row.contains_key(*it)).count();
        if !self.given && n_known < row.len() {
            let unknown = row.keys().find(|it| !self.names.contains(it));
            let unknown = unknown.map(values::plain).unwrap_or_default();
            return refuse(format!(
                "a row has the field `{unknown}` that the first row hasn't: give `columns`"
            ));
        }
        let header = self.unwritten();
        self.header_written = true;
        let field =
            |name: &Val| row.get(name).map_or_else(String::new, |it| values::plain(it).into());
        Ok((header, self.names.iter().map(field).collect()))
    }

    /// The header, when it was not written yet and is known.
    fn unwritten(&self) -> Option<Record> {
        let is_due = !self.header_written && !self.names.is_empty();
        is_due.then(|| self.names.iter().map(|it| values::plain(it).into()).collect())
    }
}

fn write_record(writer: impl Write, fields: &[String]) -> io::Result<()> {
    let mut csv = csv::WriterBuilder::new().buffer_capacity(512).from_writer(writer);
    csv.write_record(fields)?;
    csv.flush()
}

/// The file of bad rows.
pub(super) struct Rejects(Draft);

#[derive(Serialize)]
struct Rejected<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    element: Option<u64>,
    error: &'a str,
    row: serde_json::Value,
}

impl Rejects {
    pub(super) fn create(path: &Path) -> Result<Rejects, TaskError> {
        Ok(Rejects(Draft::create(path)?))
    }

    pub(super) fn add(
        &mut self,
        place: Place,
        error: &str,
        raw: Raw<'_>,
        value: Option<&Val>,
    ) -> Result<(), TaskError> {
        let (line, element) = match place {
            Place::Line(n) => (Some(n), None),
            Place::Element(n) => (None, Some(n)),
        };
        let row = match raw {
            Raw::Text(text) => String::from_utf8_lossy(text).into(),
            Raw::Fields(fields) => fields.iter().map(String::from_utf8_lossy).collect(),
            Raw::Value => serde_json::to_value(value.map(Json))?,
        };
        let rejected = Rejected { line, element, error, row };
        self.0.write(|writer| {
            serde_json::to_writer(&mut *writer, &rejected)?;
            writer.write_all(b"\n")
        })
    }

    pub(super) fn publish(self) -> Result<(), TaskError> {
        self.0.publish()
    }
}

fn output_error(path: &Path, error: &io::Error) -> TaskError {
    let task_error = TaskError::new(format!("{}: {error}", path.display())).code("data.output");
    match error.kind() {
        io::ErrorKind::NotFound
        | io::ErrorKind::PermissionDenied
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::ReadOnlyFilesystem => task_error.into_permanent(),
        _ => task_error,
    }
}
