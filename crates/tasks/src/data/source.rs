//! Rows of a file, one at a time.
//!
//! # Invariants
//! - No more of a file is in memory than one row and a buffer; a row that is longer than
//!   [`DataArgs::ROW_BYTES_MAX`] is an error.

mod csv_rows;
mod json_rows;

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::rc::Rc;

use jaq_json::Val;
use taskloom_dispatch::TaskError;

use super::args::{DataArgs, Format, Plan};

/// How much is read at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// Where a row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A line, from 1.
    Line(u64),
    /// An element of a JSON array, from 1.
    Element(u64),
}

/// A row as it was read, for those that are rejected.
#[derive(Debug, Clone, Copy)]
pub(super) enum Raw<'a> {
    /// A line.
    Text(&'a [u8]),
    /// The fields of a line.
    Fields(&'a csv::ByteRecord),
    /// What the row's value tells.
    Value,
}

/// A row, or why it is none.
pub(super) struct RawRow<'a> {
    pub(super) place: Place,
    pub(super) value: Result<Val, String>,
    pub(super) raw: Raw<'a>,
}

/// Takes rows, until it has enough.
pub(super) type Take<'t> = &'t mut dyn FnMut(RawRow<'_>) -> Result<ControlFlow<()>, TaskError>;

/// How much of a file was read.
#[derive(Debug, Clone)]
pub(super) struct Meter(Rc<Marks>);

#[derive(Debug)]
struct Marks {
    n_read: Cell<u64>,
    /// Reading beyond this is an error.
    read_max: Cell<u64>,
}

impl Meter {
    pub(super) fn new() -> Meter {
        Meter(Rc::new(Marks { n_read: Cell::new(0), read_max: Cell::new(u64::MAX) }))
    }

    /// How many bytes were read.
    pub(super) fn n_read(&self) -> u64 {
        self.0.n_read.get()
    }

    /// A row begins.
    fn begin_row(&self) {
        self.0.read_max.set(self.n_read() + DataArgs::ROW_BYTES_MAX);
    }

    /// What comes now is read past, however long it is.
    fn begin_skip(&self) {
        self.0.read_max.set(u64::MAX);
    }
}

/// A file that counts what is read of it.
struct Metered {
    file: File,
    meter: Meter,
}

impl Read for Metered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let marks = &self.meter.0;
        if marks.read_max.get() < marks.n_read.get() {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "a row is longer than 16 MiB"));
        }
        let n_bytes = self.file.read(buffer)?;
        marks.n_read.set(marks.n_read.get() + n_bytes as u64);
        Ok(n_bytes)
    }
}

/// Hands every row of the file to `take`.
///
/// # Errors
/// What `take` returns, or permanent ones for what is no such file.
pub(super) fn read(
    plan: &Plan,
    file: File,
    meter: &Meter,
    take: Take<'_>,
) -> Result<(), TaskError> {
    let metered = Metered { file, meter: meter.clone() };
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, metered);
    let fail = |error: io::Error| of_io(plan, &error);
    if reader.fill_buf().map_err(fail)?.starts_with(b"\xef\xbb\xbf") {
        reader.consume(3);
    }
    match plan.format {
        Format::Csv => csv_rows::read(plan, reader, meter, take),
        Format::Ndjson => json_rows::read_lines(plan, reader, meter, take),
        Format::Json => json_rows::read_document(plan, reader, meter, take),
    }
}

/// The error of a file that can't be read.
pub(super) fn of_io(plan: &Plan, error: &io::Error) -> TaskError {
    let task_error = TaskError::new(format!("{}: {error}", plan.input.display()));
    match error.kind() {
        io::ErrorKind::FileTooLarge => task_error.into_permanent().code("data.row_length"),
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::IsADirectory => {
            task_error.into_permanent().code("data.input")
        }
        _ => task_error.code("data.input"),
    }
}
