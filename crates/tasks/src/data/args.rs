//! The arguments of `data`, and their check.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use taskloom_dispatch::TaskError;

use super::aggregate::Aggregate;
use crate::Span;

/// How rows are written down in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Comma-separated values with a header row.
    Csv,
    /// One JSON value a line (`.ndjson`, `.jsonl`).
    Ndjson,
    /// One JSON document: an array, or an object that holds the array at `path`.
    Json,
}

/// What becomes of a row that can't be read or that the job can't use.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBadRow {
    /// The job fails, and the error names file and line.
    #[default]
    Fail,
    /// The row goes to this file, as one JSON object a line: `line`, `error`, `row`.
    Reject(PathBuf),
}

/// The arguments of the task `data`.
///
/// Paths are those of the node; relative ones start at its working directory.
///
/// ```
/// use taskloom_tasks::DataArgs;
///
/// let args = DataArgs::new("flights.csv")
///     .filter(".delay > 15")
///     .group_by(["origin"])
///     .aggregate("n", "count()")
///     .aggregate("p95", "quantile(delay, 0.95)")
///     .sort_by("n")
///     .descending()
///     .limit(10);
/// assert_eq!(args.group_by, ["origin"]);
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataArgs {
    /// The file that is read.
    pub input: PathBuf,
    /// Its format. Default: by its ending, `.csv`, `.ndjson`, `.jsonl`, `.json` or `.geojson`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Where the array stands in a JSON document: `features`, or `result.rows`. Default: the
    /// document is the array.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What separates the fields of a CSV file: one ASCII character. Default: a comma.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<char>,
    /// Whether the fields of a CSV file that are written like JSON numbers become numbers, and
    /// empty ones null. `007`, `+1`, `.5`, ` 1` and whole numbers beyond 64 bits stay texts.
    /// Default: true. Otherwise every field is a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub typed: Option<bool>,
    /// A jq program: a row is kept when its first result is neither `false` nor `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// A jq program: each of its results is a row, after `filter`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map: Option<String>,
    /// The fields whose values make a group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub group_by: Vec<String>,
    /// What is computed of each group, by the name of its column: `count()`, `count(f)`,
    /// `sum(f)`, `mean(f)`, `min(f)`, `max(f)` or `quantile(f, 0.95)`. Nulls don't count.
    /// Default, with `group_by`: `{"count": "count()"}`. Without `group_by`, all rows are a group.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub aggregates: BTreeMap<String, String>,
    /// The field rows (or groups) are sorted by; those without it come last. Default: groups in
    /// the order of their keys, rows as they are read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sort_by: Option<String>,
    /// Whether the largest comes first.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub descending: bool,
    /// How many rows are given out at most. With `sort_by` at most 1,000,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// The file that is written, whole or not at all. Default: the rows are the result of the
    /// job, at most 1,000 of them and 512 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<PathBuf>,
    /// Its format. Default: by its ending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_format: Option<Format>,
    /// The columns of a CSV output, in order. Default: the fields of the first row; a later row
    /// with another field then is an error.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// What becomes of a bad row: `"fail"`, or `{"reject": "path"}`. Default: `"fail"`.
    pub on_bad_row: OnBadRow,
    /// How many groups there may be. Default: 1,000,000; at most 10,000,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups_max: Option<usize>,
    /// How many rows `map` may make of one. Default: 1,000; at most 100,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub results_max: Option<usize>,
    /// How long the programs may take for one row. Default: 1 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row_time_max: Option<Span>,
}

/// A setter each for the fields of text.
macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty;)*) => {
        $($(#[$doc])*
        #[must_use]
        pub fn $name(mut self, $name: impl Into<$type>) -> Self {
            self.$name = Some($name.into());
            self
        })*
    };
}

impl DataArgs {
    /// How many rows `sort_by` keeps in memory at most.
    pub const SORTED_ROWS_MAX: u64 = 1_000_000;
    /// How many rows a result holds at most.
    pub const RESULT_ROWS_MAX: usize = 1_000;
    /// How long the rows of a result are at most, as JSON.
    pub const RESULT_BYTES_MAX: usize = 512 << 10;
    /// How long a row may be, as it stands in a file.
    pub const ROW_BYTES_MAX: u64 = 16 << 20;

    /// Reads that file.
    pub fn new(input: impl Into<PathBuf>) -> Self {
        DataArgs { input: input.into(), ..DataArgs::default() }
    }

    setters! {
        /// Says what format the file has.
        format: Format;
        /// Says where the array stands in a JSON document.
        path: String;
        /// Says what separates the fields of a CSV file.
        delimiter: char;
        /// Keeps the rows for which the jq program yields something true.
        filter: String;
        /// Makes new rows of each row with a jq program.
        map: String;
        /// Sorts by that field.
        sort_by: String;
        /// Writes the rows to that file.
        output: PathBuf;
        /// Says what format the output has.
        output_format: Format;
    }

    /// Gives out at most that many rows.
    #[must_use]
    pub fn limit(mut self, n_rows: u64) -> Self {
        self.limit = Some(n_rows);
        self
    }

    /// Leaves every field of a CSV file a text.
    #[must_use]
    pub fn untyped(mut self) -> Self {
        self.typed = Some(false);
        self
    }

    /// Groups by these fields.
    #[must_use]
    pub fn group_by<S: Into<String>>(mut self, fields: impl IntoIterator<Item = S>) -> Self {
        self.group_by = fields.into_iter().map(Into::into).collect();
        self
    }

    /// Computes a column of each group.
    #[must_use]
    pub fn aggregate(mut self, name: impl Into<String>, aggregate: impl Into<String>) -> Self {
        self.aggregates.insert(name.into(), aggregate.into());
        self
    }

    /// Puts the largest first.
    #[must_use]
    pub fn descending(mut self) -> Self {
        self.descending = true;
        self
    }

    /// Says which columns a CSV output has.
    #[must_use]
    pub fn columns<S: Into<String>>(mut self, columns: impl IntoIterator<Item = S>) -> Self {
        self.columns = columns.into_iter().map(Into::into).collect();
        self
    }

    /// Puts bad rows into that file.
    #[must_use]
    pub fn reject_to(mut self, path: impl Into<PathBuf>) -> Self {
        self.on_bad_row = OnBadRow::Reject(path.into());
        self
    }
}

/// What to do, checked; every error of the check is permanent.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) input: PathBuf,
    pub(super) format: Format,
    pub(super) path: Vec<String>,
    pub(super) delimiter: u8,
    pub(super) typed: bool,
    pub(super) filter: Option<String>,
    pub(super) map: Option<String>,
    pub(super) group: Option<GroupPlan>,
    pub(super) sort_by: Option<String>,
    pub(super) descending: bool,
    pub(super) limit: Option<u64>,
    pub(super) output: Option<(PathBuf, Format)>,
    pub(super) columns: Vec<String>,
    pub(super) on_bad_row: OnBadRow,
    pub(super) results_max: usize,
    pub(super) row_time_max: Duration,
}

/// How rows are grouped.
#[derive(Debug, Clone)]
pub(super) struct GroupPlan {
    pub(super) fields: Vec<String>,
    pub(super) aggregates: Vec<(String, Aggregate)>,
    pub(super) groups_max: usize,
}

impl DataArgs {
    pub(super) fn check(self) -> Result<Plan, TaskError> {
        if self.input.as_os_str().is_empty() {
            return Err(refused("`input` names no file"));
        }
        let format = format_of(&self.input, self.format, "format")?;
        let output = match &self.output {
            Some(path) => {
                Some((path.clone(), format_of(path, self.output_format, "output_format")?))
            }
            None => None,
        };
        if let OnBadRow::Reject(reject) = &self.on_bad_row
            && (*reject == self.input || Some(reject) == self.output.as_ref())
        {
            return Err(refused("bad rows need a file of their own"));
        }
        let delimiter = self.delimiter.unwrap_or(',');
        let delimiter = u8::try_from(delimiter)
            .ok()
            .filter(|it| it.is_ascii() && !matches!(it, b'\n' | b'\r' | b'"'))
            .ok_or_else(|| refused(format!("`delimiter` can't be {delimiter:?}")))?;
        let limit_max = if self.sort_by.is_some() { Self::SORTED_ROWS_MAX } else { u64::MAX };
        if self.limit.is_some_and(|it| limit_max < it) {
            return Err(refused(format!("with `sort_by`, `limit` is at most {limit_max}")));
        }
        let path = self.path.iter().flat_map(|it| it.split('.')).map(str::to_owned).collect();
        let results_max = bounded("results_max", self.results_max, 1_000, 100_000)?;
        let group = self.check_group()?;
        Ok(Plan {
            input: self.input,
            format,
            path,
            delimiter,
            typed: self.typed.unwrap_or(true),
            filter: self.filter,
            map: self.map,
            group,
            sort_by: self.sort_by,
            descending: self.descending,
            limit: self.limit,
            output,
            columns: self.columns,
            on_bad_row: self.on_bad_row,
            results_max,
            row_time_max: self.row_time_max.map_or(Duration::from_secs(1), |it| it.0),
        })
    }

    fn check_group(&self) -> Result<Option<GroupPlan>, TaskError> {
        if self.group_by.is_empty() && self.aggregates.is_empty() {
            return Ok(None);
        }
        let mut aggregates = Vec::new();
        for (name, text) in &self.aggregates {
            if self.group_by.contains(name) {
                return Err(refused(format!("two columns of a group are named `{name}`")));
            }
            let aggregate = Aggregate::parse(text).map_err(refused)?;
            aggregates.push((name.clone(), aggregate));
        }
        if aggregates.is_empty() {
            aggregates.push(("count".to_owned(), Aggregate::CountRows));
        }
        let groups_max = bounded("groups_max", self.groups_max, 1_000_000, 10_000_000)?;
        Ok(Some(GroupPlan { fields: self.group_by.clone(), aggregates, groups_max }))
    }
}

fn bounded(
    name: &str,
    given: Option<usize>,
    default: usize,
    max: usize,
) -> Result<usize, TaskError> {
    match given {
        None => Ok(default),
        Some(given) if (1..=max).contains(&given) => Ok(given),
        Some(given) => Err(refused(format!("`{name}` is {given}, and must be 1 to {max}"))),
    }
}

fn format_of(path: &Path, given: Option<Format>, argument: &str) -> Result<Format, TaskError> {
    if let Some(given) = given {
        return Ok(given);
    }
    let ending = path.extension().map(|it| it.to_string_lossy().to_ascii_lowercase());
    match ending.as_deref() {
        Some("csv") => Ok(Format::Csv),
        Some("ndjson" | "jsonl") => Ok(Format::Ndjson),
        Some("json" | "geojson") => Ok(Format::Json),
        _ => Err(refused(format!(
            "`{}` doesn't say what format it has: give `{argument}`, one of csv, ndjson, json",
            path.display()
        ))),
    }
}

/// The error of arguments that can't be.
pub(super) fn refused(why: impl Into<String>) -> TaskError {
    TaskError::permanent(why).code("data.args")
}
