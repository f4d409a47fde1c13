//! The way of a row: read, filtered, mapped, grouped, sorted, given out.

use std::fs::File;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use jaq_json::Val;
use taskloom_dispatch::{Ctx, TaskError};

use super::DataOutput;
use super::args::{OnBadRow, Plan};
use super::group::Groups;
use super::order::Sorted;
use super::output::{Output, Rejects};
use super::program::{Program, RunError};
use super::source::{self, Meter, Place, Raw, RawRow};

/// How many rows are between two looks at the clock and at the cancellation.
const ROWS_UNWATCHED: u64 = 256;
/// How often the progress is said.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Does what `plan` says.
pub(super) fn run(ctx: &Ctx, plan: &Plan) -> Result<DataOutput, TaskError> {
    let begun = Instant::now();
    let file = File::open(&plan.input).map_err(|error| source::of_io(plan, &error))?;
    let n_bytes = file.metadata().map_err(|error| source::of_io(plan, &error))?.len();
    let meter = Meter::new();
    let mut pipeline = Pipeline::new(plan)?;
    let mut watch = Watch { ctx, meter: meter.clone(), n_bytes, said: begun };
    source::read(plan, file, &meter, &mut |row| {
        watch.look(pipeline.rows_in)?;
        pipeline.take(row)
    })?;
    let mut done = pipeline.end(ctx)?;
    let elapsed = begun.elapsed();
    done.bytes = meter.n_read();
    done.ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    let rows_per_s = done.rows_in as f64 / elapsed.as_secs_f64().max(1e-6);
    done.rows_per_s = rows_per_s as u64;
    ctx.progress(1.0, format!("{} rows, {} a second", done.rows_in, done.rows_per_s));
    Ok(done)
}

/// Looks, now and then, whether to go on, and says how far the job is.
struct Watch<'a> {
    ctx: &'a Ctx,
    meter: Meter,
    n_bytes: u64,
    said: Instant,
}

impl Watch<'_> {
    fn look(&mut self, n_rows: u64) -> Result<(), TaskError> {
        if !n_rows.is_multiple_of(ROWS_UNWATCHED) {
            return Ok(());
        }
        if self.ctx.is_cancelled() {
            return Err(TaskError::cancelled());
        }
        let now = Instant::now();
        if PROGRESS_EVERY <= now - self.said {
            self.said = now;
            let fraction = self.meter.n_read() as f64 / self.n_bytes.max(1) as f64;
            // What comes after reading is the rest.
            self.ctx.progress(fraction * 0.99, format!("{n_rows} rows"));
        }
        Ok(())
    }
}

/// What takes rows once they are mapped.
enum Stage {
    Groups(Groups),
    Sorted(Sorted),
    /// Straight to the output.
    Through,
}

struct Pipeline<'a> {
    plan: &'a Plan,
    filter: Option<Program>,
    map: Option<Program>,
    stage: Stage,
    output: Output,
    rejects: Option<Rejects>,
    rows_in: u64,
    rows_out: u64,
    rows_rejected: u64,
}

impl<'a> Pipeline<'a> {
    fn new(plan: &'a Plan) -> Result<Pipeline<'a>, TaskError> {
        let compile = |name: &str, code: &Option<String>| {
            let Some(code) = code else { return Ok(None) };
            Program::compile(code, plan.row_time_max, plan.results_max).map(Some).map_err(|why| {
                TaskError::permanent(format!("`{name}` is no program that can run: {why}"))
                    .code("data.program")
            })
        };
        let (filter, map) = (compile("filter", &plan.filter)?, compile("map", &plan.map)?);
        let stage = match (&plan.group, &plan.sort_by) {
            (Some(group), _) => Stage::Groups(Groups::new(group.clone())),
            (None, Some(field)) => Stage::Sorted(Sorted::new(field, plan.descending, plan.limit)),
            (None, None) => Stage::Through,
        };
        let rejects = match &plan.on_bad_row {
            OnBadRow::Fail => None,
            OnBadRow::Reject(path) => Some(Rejects::create(path)?),
        };
        let output = Output::open(plan)?;
        let (rows_in, rows_out, rows_rejected) = (0, 0, 0);
        Ok(Pipeline { plan, filter, map, stage, output, rejects, rows_in, rows_out, rows_rejected })
    }

    fn take(&mut self, row: RawRow<'_>) -> Result<ControlFlow<()>, TaskError> {
        if matches!(self.stage, Stage::Through) && self.is_full() {
            return Ok(ControlFlow::Break(()));
        }
        self.rows_in += 1;
        let value = match row.value {
            Ok(value) => value,
            Err(fault) => {
                self.reject(row.place, &fault, row.raw, None)?;
                return Ok(ControlFlow::Continue(()));
            }
        };
        let kept = matches!(row.raw, Raw::Value) && self.rejects.is_some();
        let kept = kept.then(|| value.clone());
        let results = match self.transform(value) {
            Ok(results) => results,
            Err(RunError::Row(fault)) => {
                self.reject(row.place, &fault, row.raw, kept.as_ref())?;
                return Ok(ControlFlow::Continue(()));
            }
            Err(RunError::Bound(bound)) => {
                let message = format!("{}: a program was ended: {bound}", self.name(row.place));
                return Err(TaskError::permanent(message).code("data.bound"));
            }
        };
        if let Stage::Groups(groups) = &self.stage
            && let Some(fault) = results.iter().find_map(|it| groups.fault(it))
        {
            self.reject(row.place, &fault, row.raw, kept.as_ref())?;
            return Ok(ControlFlow::Continue(()));
        }
        for result in results {
            match &mut self.stage {
                Stage::Groups(groups) => groups.add(&result)?,
                Stage::Sorted(sorted) => sorted.add(result)?,
                Stage::Through => {
                    if self.is_full() {
                        return Ok(ControlFlow::Break(()));
                    }
                    self.give(&result)?;
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The rows that a row becomes.
    fn transform(&self, row: Val) -> Result<Vec<Val>, RunError> {
        if let Some(filter) = &self.filter
            && !filter.holds(row.clone())?
        {
            return Ok(Vec::new());
        }
        match &self.map {
            Some(map) => map.run(row),
            None => Ok(vec![row]),
        }
    }

    fn is_full(&self) -> bool {
        self.plan.limit.is_some_and(|it| it <= self.rows_out)
    }

    fn give(&mut self, row: &Val) -> Result<(), TaskError> {
        self.rows_out += 1;
        self.output.add(row)
    }

    /// Puts a bad row aside, or ends the job.
    fn reject(
        &mut self,
        place: Place,
        fault: &str,
        raw: Raw<'_>,
        value: Option<&Val>,
    ) -> Result<(), TaskError> {
        self.rows_rejected += 1;
        match &mut self.rejects {
            Some(rejects) => rejects.add(place, fault, raw, value),
            None => {
                let message = format!("{}: {fault}", self.name(place));
                Err(TaskError::permanent(message).code("data.row"))
            }
        }
    }

    /// What errors call a row.
    fn name(&self, place: Place) -> String {
        let input = self.plan.input.display();
        match place {
            Place::Line(n) => format!("{input}:{n}"),
            Place::Element(n) => format!("{input}, element {n}"),
        }
    }

    /// Gives out what was kept, and makes the files appear.
    fn end(mut self, ctx: &Ctx) -> Result<DataOutput, TaskError> {
        let mut n_groups = 0;
        match std::mem::replace(&mut self.stage, Stage::Through) {
            Stage::Through => (),
            Stage::Sorted(sorted) => self.give_all(ctx, sorted.into_rows())?,
            Stage::Groups(groups) => {
                n_groups = groups.len() as u64;
                match &self.plan.sort_by {
                    None => self.give_all(ctx, groups.into_rows())?,
                    Some(field) => {
                        let mut sorted = Sorted::new(field, self.plan.descending, self.plan.limit);
                        groups.into_rows().try_for_each(|it| sorted.add(it))?;
                        self.give_all(ctx, sorted.into_rows())?;
                    }
                }
            }
        }
        if let Some(rejects) = self.rejects {
            rejects.publish()?;
        }
        let rows = self.output.end()?;
        Ok(DataOutput {
            rows_in: self.rows_in,
            rows_out: self.rows_out,
            rows_rejected: self.rows_rejected,
            groups: n_groups,
            output: self.plan.output.as_ref().map(|(path, _)| path.clone()),
            rows,
            ..DataOutput::default()
        })
    }

    fn give_all(&mut self, ctx: &Ctx, rows: impl Iterator<Item = Val>) -> Result<(), TaskError> {
        for row in rows {
            if self.is_full() {
                break;
            }
            if self.rows_out.is_multiple_of(ROWS_UNWATCHED) && ctx.is_cancelled() {
                return Err(TaskError::cancelled());
            }
            self.give(&row)?;
        }
        Ok(())
    }
}
