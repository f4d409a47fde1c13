//! jq programs: compiled once a job, run once a row, and bounded.
//!
//! # Bounds
//! A program may not read (`input`, `env`), stop the node (`halt`) or call itself (`repeat`,
//! `while`, `until`, `recurse(f)`, a `def` that calls itself): what is left are loops over what
//! is there, and `range`. Wherever a loop turns, the time is looked at; `range` and the folds
//! (`reduce`, `foreach`) turn only so often for one row; a text may only be repeated so far.
//!
//! The memory and the stack a program uses are *not* bounded: one that doubles its value again
//! and again, or nests it many levels a turn, takes what there is. Let only those submit programs
//! who may use up the node's memory.

mod guard;
mod natives;

use std::cell::Cell;
use std::time::{Duration, Instant};

use jaq_core::load::parse::Def;
use jaq_core::load::{Arena, File, Lexer, Loader, Parser};
use jaq_core::{Compiler, Ctx, Vars};
use jaq_json::Val;

use natives::{Bounded, Globals};

use super::values;

/// The longest program, in bytes: the parser calls itself for each parenthesis.
const CODE_BYTES_MAX: usize = 16 << 10;

/// How deep a result may be nested; JSON that is read has the same bound.
const DEPTH_MAX: usize = 128;

/// What the program is called while it is compiled; no program may call that name.
const MAIN: &str = "the_whole_program";

/// Why a program yields no results for a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RunError {
    /// The row is at fault.
    Row(String),
    /// A bound was reached.
    Bound(String),
}

/// A program that can be run.
pub(super) struct Program {
    filter: jaq_core::Filter<Bounded>,
    limits: Limits,
}

/// What a program may still do for the row at hand. Counted by its natives.
pub(super) struct Limits {
    time_max: Duration,
    results_max: usize,
    begun: Cell<Instant>,
    n_turns: Cell<u64>,
    n_ranged: Cell<u64>,
    n_folded: Cell<u64>,
    /// The bound that was reached.
    reached: Cell<Option<&'static str>>,
}

impl Program {
    /// Compiles `code`; the error says what is wrong with it.
    pub(super) fn compile(
        code: &str,
        time_max: Duration,
        results_max: usize,
    ) -> Result<Program, String> {
        if CODE_BYTES_MAX < code.len() {
            return Err(format!("a program is at most {CODE_BYTES_MAX} bytes long"));
        }
        let tokens = Lexer::new(code).lex().map_err(|errors| {
            let at = errors.first().map(|(expected, rest)| (expected.as_str(), *rest));
            let (expected, rest) = at.unwrap_or(("a program", ""));
            format!("expected {expected} at `{}`", beginning(rest))
        })?;
        let parsed = Parser::new(&tokens).parse(|it| it.term());
        let mut body = parsed.map_err(|errors| {
            let Some((expected, found)) = errors.first() else { return String::new() };
            let found = found.map_or("its end", |it| beginning(it.0));
            format!("expected {}, found `{found}`", expected.as_str())
        })?;
        guard::guard(&mut body)?;
        let main = Def { name: MAIN, args: Vec::new(), body };
        let defs = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
        // The type says that the names of the library live as long as those of the program.
        let allowed = defs
            .filter_map(|it| -> Option<Def<&str>> { (!guard::is_refused(it.name)).then_some(it) });
        let defs = allowed.chain([main]);
        let arena = Arena::default();
        let loaded = Loader::new(defs).load(&arena, File { code: MAIN, path: () });
        let modules = loaded.map_err(|_| "it can't be loaded".to_owned())?;
        let compiled = Compiler::default().with_funs(natives::funs()).compile(modules);
        let filter = compiled.map_err(|errors| {
            let undefined = errors.iter().flat_map(|(_, it)| it);
            let undefined =
                undefined.map(|(name, it)| format!("undefined {} `{name}`", it.as_str()));
            undefined.collect::<Vec<_>>().join(", ")
        })?;
        Ok(Program { filter, limits: Limits::new(time_max, results_max) })
    }

    /// Every result for `row`.
    pub(super) fn run(&self, row: Val) -> Result<Vec<Val>, RunError> {
        let mut results = Vec::new();
        self.each(row, |result| {
            results.push(result);
            results.len() <= self.limits.results_max
        })?;
        if !results.iter().all(|it| values::is_within(it, DEPTH_MAX)) {
            return Err(RunError::Row(format!("a result is nested deeper than {DEPTH_MAX}")));
        }
        if self.limits.results_max < results.len() {
            let n_max = self.limits.results_max;
            return Err(RunError::Bound(format!("it yields more than {n_max} results for a row")));
        }
        Ok(results)
    }

    /// Whether its first result for `row` is neither false nor null.
    pub(super) fn holds(&self, row: Val) -> Result<bool, RunError> {
        let mut holds = false;
        self.each(row, |result| {
            holds = !matches!(result, Val::Null | Val::Bool(false));
            false
        })?;
        Ok(holds)
    }

    /// Hands out results until `take` has enough.
    fn each(&self, row: Val, mut take: impl FnMut(Val) -> bool) -> Result<(), RunError> {
        self.limits.start();
        let globals = Globals { lut: &self.filter.lut, limits: &self.limits };
        let context = Ctx::<Bounded>::new(globals, Vars::new([]));
        let bound = || self.limits.reached.get().map(|it| RunError::Bound(it.to_owned()));
        for result in self.filter.id.run((context, row)) {
            // A bound is looked for first: `try` and `//` may hide the error that told of it.
            if let Some(error) = bound() {
                return Err(error);
            }
            match result.map_err(jaq_core::Exn::get_err) {
                Ok(result) => {
                    if !take(result) {
                        return Ok(());
                    }
                }
                Err(Ok(error)) => {
                    let error = error.into_val();
                    return Err(RunError::Row(values::plain(&error).into_owned()));
                }
                Err(Err(_)) => return Err(RunError::Row("it left its own scope".into())),
            }
            self.limits.turn();
        }
        bound().map_or(Ok(()), Err)
    }
}

impl Limits {
    /// How many values `range` yields for one row.
    const RANGED_MAX: u64 = 1_000_000;
    /// How often the folds turn for one row: each turn may nest the value once more, and
    /// dropping a nested value takes stack for each level.
    const FOLDED_MAX: u64 = 20_000;
    /// How many turns are between two looks at the clock.
    const TURNS_UNTIMED: u64 = 64;

    fn new(time_max: Duration, results_max: usize) -> Limits {
        Limits {
            time_max,
            results_max,
            begun: Cell::new(Instant::now()),
            n_turns: Cell::new(0),
            n_ranged: Cell::new(0),
            n_folded: Cell::new(0),
            reached: Cell::new(None),
        }
    }

    fn start(&self) {
        self.n_turns.set(0);
        self.n_ranged.set(0);
        self.n_folded.set(0);
        self.reached.set(None);
    }

    /// A loop turns: whether it may.
    fn turn(&self) -> bool {
        let n_turns = self.n_turns.get();
        self.n_turns.set(n_turns + 1);
        if n_turns == 0 {
            // Most programs turn no loop, and so need no clock.
            self.begun.set(Instant::now());
        } else if n_turns.is_multiple_of(Self::TURNS_UNTIMED)
            && self.time_max < self.begun.get().elapsed()
        {
            self.reached.set(Some("it takes too long for a row (`row_time_max`)"));
        }
        self.reached.get().is_none()
    }

    /// `range` yields a value: whether it may.
    fn range_turn(&self) -> bool {
        self.n_ranged.set(self.n_ranged.get() + 1);
        if Self::RANGED_MAX < self.n_ranged.get() {
            self.reached.set(Some("its `range` yields more than 1,000,000 values for a row"));
        }
        self.turn()
    }

    /// A fold turns: whether it may.
    fn fold_turn(&self) -> bool {
        self.n_folded.set(self.n_folded.get() + 1);
        if Self::FOLDED_MAX < self.n_folded.get() {
            self.reached.set(Some("its folds turn more than 20,000 times for a row"));
        }
        self.turn()
    }
}

fn beginning(text: &str) -> &str {
    let end = text.char_indices().nth(20).map_or(text.len(), |(end, _)| end);
    &text[..end]
}

#[cfg(test)]
mod tests;
