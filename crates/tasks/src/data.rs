//! The task `data`: streams the rows of a file through jq programs, groups and sorts them, and
//! writes what comes out, whole or not at all.
//!
//! Files may be larger than memory: what is kept are groups, the rows that are sorted, and the
//! rows of a result, each within a bound.
//!
//! # Errors
//! All but I/O errors are permanent: `data.args`, `data.input` (no such file), `data.format`,
//! `data.path`, `data.program`, `data.row` (a bad row, with file and line), `data.row_length`,
//! `data.bound` (a program took too long or yielded too much for a row), `data.groups`,
//! `data.memory`, `data.columns`, `data.result` (too much for a result), `data.output`.

mod aggregate;
mod args;
mod group;
mod order;
mod output;
mod pipeline;
mod program;
mod quantile;
mod source;
mod values;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use taskloom_dispatch::{BlockingTask, Ctx, TaskError};

pub use args::{DataArgs, Format, OnBadRow};

/// The stack of the thread that runs programs: a value nested by a fold takes stack for each of
/// its levels as it is dropped. Only what is used of it takes memory.
const STACK_BYTES: usize = 256 << 20;

/// The task `data`.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Data {}

/// The result of the task `data`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct DataOutput {
    /// How many rows were read, bad ones included.
    pub rows_in: u64,
    /// How many rows were given out.
    pub rows_out: u64,
    /// How many bad rows were rejected.
    pub rows_rejected: u64,
    /// How many groups there were.
    pub groups: u64,
    /// How many bytes were read.
    pub bytes: u64,
    /// How long it took, in milliseconds.
    pub ms: u64,
    /// Rows read a second.
    pub rows_per_s: u64,
    /// The file that was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<PathBuf>,
    /// The rows, when no file was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<Vec<serde_json::Value>>,
}

impl BlockingTask for Data {
    const NAME: &'static str = "data";
    type Args = DataArgs;
    type Output = DataOutput;

    fn run(&self, ctx: &Ctx, args: DataArgs) -> Result<DataOutput, TaskError> {
        let plan = args.check()?;
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .name("taskloom-data".into())
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, || pipeline::run(ctx, &plan))?;
            match thread.join() {
                Ok(ended) => ended,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}
