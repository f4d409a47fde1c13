//! What a program may not do, and where its loops are made to look at their limits.

use jaq_core::load::lex::StrPart;
use jaq_core::load::parse::{BinaryOp, Def, Pattern, Term};
use jaq_core::ops::Math;
use jaq_core::path::{Part, Path};

use super::MAIN;

// No program can call these: the names are none.
/// Yields null once, unless a bound is reached.
pub(super) const TURN: &str = "!turn";
/// The same, for a turn of a fold.
pub(super) const FOLD_TURN: &str = "!fold_turn";
/// `l * r`, within bounds.
pub(super) const MULTIPLY: &str = "!multiply";
const UNUSED: &str = "$!unused";
const FACTOR: &str = "$!factor";

/// Filters that read something other than the row, or that may never end.
const REFUSED: [&str; 16] = [
    "input",
    "inputs",
    "input_filename",
    "input_line_number",
    "env",
    "halt",
    "halt_error",
    "debug",
    "stderr",
    "repeat",
    "while",
    "until",
    "combinations",
    "walk",
    "get_search_list",
    MAIN,
];

/// Whether no program may call that filter.
pub(super) fn is_refused(name: &str) -> bool {
    REFUSED.contains(&name)
}

/// Refuses `program`, or makes each of its loops look at its limits as it turns.
pub(super) fn guard(program: &mut Term<&str>) -> Result<(), String> {
    Guard { open: Vec::new() }.term(program)
}

struct Guard<'s> {
    /// The definitions around the term at hand; calling one of them is a recursion.
    open: Vec<&'s str>,
}

impl<'s> Guard<'s> {
    fn term(&mut self, term: &mut Term<&'s str>) -> Result<(), String> {
        match term {
            Term::Id | Term::Recurse | Term::Num(_) | Term::Break(_) | Term::Arr(None) => Ok(()),
            Term::Var("$ENV") => Err(refusal("$ENV")),
            Term::Var(_) => Ok(()),
            Term::Str(_, parts) => parts.iter_mut().try_for_each(|part| match part {
                StrPart::Term(term) => self.term(term),
                StrPart::Str(_) | StrPart::Char(_) => Ok(()),
            }),
            Term::Arr(Some(inner)) | Term::Neg(inner) | Term::Label(_, inner) => self.term(inner),
            Term::Obj(fields) => fields.iter_mut().try_for_each(|(name, value)| {
                self.term(name)?;
                let Some(value) = value else { return Ok(()) };
                self.term(value)?;
                turn(TURN, value);
                Ok(())
            }),
            Term::BinOp(..) => self.operation(term),
            Term::Fold(_, values, pattern, bodies) => {
                self.term(values)?;
                self.pattern(pattern)?;
                for (place, body) in bodies.iter_mut().enumerate() {
                    self.term(body)?;
                    if 0 < place {
                        always_turn(FOLD_TURN, body);
                    }
                }
                Ok(())
            }
            Term::TryCatch(body, caught) => {
                self.term(body)?;
                caught.as_mut().map_or(Ok(()), |it| self.term(it))
            }
            Term::IfThenElse(branches, otherwise) => {
                for (condition, then) in branches {
                    self.term(condition)?;
                    self.term(then)?;
                    turn(TURN, then);
                }
                otherwise.as_mut().map_or(Ok(()), |it| self.term(it))
            }
            Term::Def(defs, body) => {
                defs.iter_mut().try_for_each(|it| self.definition(it))?;
                self.term(body)
            }
            Term::Call(name, args) => self.call(name, args),
            Term::Path(of, path) => {
                self.term(of)?;
                self.path(path)
            }
        }
    }

    fn operation(&mut self, term: &mut Term<&'s str>) -> Result<(), String> {
        let Term::BinOp(left, op, right) = term else { return Ok(()) };
        if let BinaryOp::Pipe(Some(pattern)) = op {
            self.pattern(pattern)?;
        }
        let is_update = match op {
            BinaryOp::Assign | BinaryOp::Update | BinaryOp::UpdateMath(_) | BinaryOp::UpdateAlt => {
                true
            }
            BinaryOp::Pipe(_)
            | BinaryOp::Comma
            | BinaryOp::Alt
            | BinaryOp::Or
            | BinaryOp::And
            | BinaryOp::Math(_)
            | BinaryOp::Cmp(_) => false,
        };
        if is_update && recurses(left) {
            // `.. |= [.]` finds new things to update for ever.
            return Err("an update of `..` may never end, and is refused".into());
        }
        self.term(left)?;
        self.term(right)?;
        if !is_single(left) {
            turn(TURN, right);
            if is_single(right) && matches!(op, BinaryOp::Pipe(_)) {
                always_turn(TURN, right);
            }
        }
        match op {
            BinaryOp::Math(Math::Mul) => {
                let args = vec![std::mem::take(&mut **left), std::mem::take(&mut **right)];
                *term = Term::Call(MULTIPLY, args);
            }
            BinaryOp::UpdateMath(Math::Mul) => {
                // `l *= r` is `r as $factor | l |= multiply(.; $factor)`.
                let product = Term::Call(MULTIPLY, vec![Term::Id, Term::Var(FACTOR)]);
                let left = Box::new(std::mem::take(&mut **left));
                let update = Term::BinOp(left, BinaryOp::Update, Box::new(product));
                let factor = Box::new(std::mem::take(&mut **right));
                let bind = BinaryOp::Pipe(Some(Pattern::Var(FACTOR)));
                *term = Term::BinOp(factor, bind, Box::new(update));
            }
            _ => (),
        }
        Ok(())
    }

    fn call(&mut self, name: &'s str, args: &mut [Term<&'s str>]) -> Result<(), String> {
        if self.open.contains(&name) {
            return Err(format!("`{name}` calls itself, and may never end"));
        }
        if is_refused(name) || (name == "recurse" && !args.is_empty()) {
            return Err(refusal(name));
        }
        for arg in args {
            self.term(arg)?;
            turn(TURN, arg);
        }
        Ok(())
    }

    fn definition(&mut self, def: &mut Def<&'s str>) -> Result<(), String> {
        self.open.push(def.name);
        let done = self.term(&mut def.body);
        self.open.pop();
        done
    }

    fn path(&mut self, path: &mut Path<Term<&'s str>>) -> Result<(), String> {
        path.0.iter_mut().try_for_each(|(part, _)| match part {
            Part::Index(index) => self.term(index),
            Part::Range(from, to) => from.iter_mut().chain(to).try_for_each(|it| self.term(it)),
        })
    }

    fn pattern(&mut self, pattern: &mut Pattern<&'s str>) -> Result<(), String> {
        match pattern {
            Pattern::Var(_) => Ok(()),
            Pattern::Arr(parts) => parts.iter_mut().try_for_each(|it| self.pattern(it)),
            Pattern::Obj(fields) => fields.iter_mut().try_for_each(|(name, it)| {
                self.term(name)?;
                self.pattern(it)
            }),
        }
    }
}

fn refusal(name: &str) -> String {
    match name {
        "env" | "$ENV" => format!("`{name}` would tell the secrets of the node, and is refused"),
        "repeat" | "while" | "until" | "recurse" | "walk" | "combinations" => {
            format!("`{name}` may never end, and is refused")
        }
        _ => format!("`{name}` is refused: a program sees nothing but its row"),
    }
}

/// Makes a term that takes time look at its limits whenever it is evaluated.
fn turn(native: &'static str, term: &mut Term<&str>) {
    if !is_single(term) {
        always_turn(native, term);
    }
}

/// `native as $unused | term`: a binding, since paths and updates go through one.
fn always_turn(native: &'static str, term: &mut Term<&str>) {
    let inner = Box::new(std::mem::take(term));
    let bind = BinaryOp::Pipe(Some(Pattern::Var(UNUSED)));
    *term = Term::BinOp(Box::new(Term::Call(native, Vec::new())), bind, inner);
}

/// Whether a term surely yields one result at most, in little time.
fn is_single(term: &Term<&str>) -> bool {
    match term {
        Term::Id | Term::Num(_) | Term::Var(_) | Term::Arr(None) => true,
        Term::Str(_, parts) => parts.iter().all(|it| match it {
            StrPart::Term(term) => is_single(term),
            StrPart::Str(_) | StrPart::Char(_) => true,
        }),
        Term::Arr(Some(inner)) | Term::Neg(inner) => is_single(inner),
        Term::Obj(fields) => fields
            .iter()
            .all(|(name, value)| is_single(name) && value.as_ref().is_none_or(is_single)),
        Term::BinOp(left, op, right) => {
            !matches!(op, BinaryOp::Comma) && is_single(left) && is_single(right)
        }
        Term::IfThenElse(branches, otherwise) => {
            branches.iter().all(|(condition, then)| is_single(condition) && is_single(then))
                && otherwise.as_ref().is_none_or(|it| is_single(it))
        }
        Term::TryCatch(body, caught) => {
            is_single(body) && caught.as_ref().is_none_or(|it| is_single(it))
        }
        Term::Call(name, args) => match *name {
            "select" | MULTIPLY | "has" | "startswith" | "endswith" | "test" | "split"
            | "ltrimstr" | "rtrimstr" | "contains" => args.iter().all(is_single),
            "length" | "tostring" | "tonumber" | "not" | "floor" | "round" | "ceil" | "type"
            | "true" | "false" | "null" | "empty" | "ascii_downcase" | "ascii_upcase" | "trim"
            | "abs" => args.is_empty(),
            _ => false,
        },
        Term::Path(of, path) => {
            is_single(of)
                && path.0.iter().all(|(part, _)| match part {
                    Part::Index(index) => is_single(index),
                    Part::Range(None, None) => false,
                    Part::Range(from, to) => from.iter().chain(to).all(is_single),
                })
        }
        Term::Recurse | Term::Label(..) | Term::Break(_) | Term::Fold(..) | Term::Def(..) => false,
    }
}

/// Whether a term, as the left side of an update, could find what the update has made.
fn recurses(term: &Term<&str>) -> bool {
    match term {
        Term::Recurse => true,
        Term::Call(name, args) => {
            matches!(*name, "recurse" | "paths" | "flatten") || args.iter().any(recurses)
        }
        Term::BinOp(left, _, right) => recurses(left) || recurses(right),
        Term::Path(of, _) => recurses(of),
        Term::Label(_, inner) | Term::Neg(inner) | Term::Arr(Some(inner)) => recurses(inner),
        Term::TryCatch(body, caught) => {
            recurses(body) || caught.as_ref().is_some_and(|it| recurses(it))
        }
        Term::IfThenElse(branches, otherwise) => {
            branches.iter().any(|(condition, then)| recurses(condition) || recurses(then))
                || otherwise.as_ref().is_some_and(|it| recurses(it))
        }
        Term::Def(defs, body) => defs.iter().any(|it| recurses(&it.body)) || recurses(body),
        Term::Fold(_, values, _, bodies) => recurses(values) || bodies.iter().any(recurses),
        Term::Id
        | Term::Num(_)
        | Term::Str(..)
        | Term::Arr(None)
        | Term::Obj(_)
        | Term::Break(_)
        | Term::Var(_) => false,
    }
}
