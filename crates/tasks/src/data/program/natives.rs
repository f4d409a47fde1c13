//! The native filters of programs: those of jaq without what reads or stops, and our own.

use jaq_core::data::HasLut;
use jaq_core::native::{Filter, Fun, bome, run, v};
use jaq_core::{DataT, Error, Exn, Lut, RunPtr, ValX};
use jaq_json::{Num, Val};

use super::Limits;
use super::guard::{FOLD_TURN, MULTIPLY, TURN, is_refused};

/// The longest text that repeating one may make.
const REPEATED_BYTES_MAX: usize = 16 << 20;

/// What programs work on: values, and the limits of the program.
pub(super) struct Bounded;

/// What every native can reach.
#[derive(Clone)]
pub(super) struct Globals<'a> {
    pub(super) lut: &'a Lut<Bounded>,
    pub(super) limits: &'a Limits,
}

impl DataT for Bounded {
    type V<'a> = Val;
    type Data<'a> = Globals<'a>;
}

impl<'a> HasLut<'a, Bounded> for Globals<'a> {
    fn lut(&self) -> &'a Lut<Bounded> {
        self.lut
    }
}

pub(super) fn funs() -> impl Iterator<Item = Fun<Bounded>> {
    let theirs = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
    let theirs = theirs.filter(|(name, ..)| {
        !is_refused(name) && !matches!(*name, "range" | "fromjson" | "debug_empty" | "stderr_empty")
    });
    theirs.chain(ours().map(run::<Bounded>))
}

fn ours() -> [Filter<RunPtr<Bounded>>; 5] {
    [
        (TURN, v(0), |cv| bome_halt(cv.0.data().limits.turn())),
        (FOLD_TURN, v(0), |cv| bome_halt(cv.0.data().limits.fold_turn())),
        (MULTIPLY, v(2), |mut cv| {
            let right = cv.0.pop_var();
            let left = cv.0.pop_var();
            bome(multiply(left, right))
        }),
        ("range", v(3), |mut cv| {
            let by = cv.0.pop_var();
            let to = cv.0.pop_var();
            let from = cv.0.pop_var();
            Box::new(range(cv.0.data().limits, from, to, by))
        }),
        // Jaq's own has no bound for how deep a text is nested; this one has serde's, 128.
        ("fromjson", v(0), |cv| {
            let text = cv.1.try_as_utf8_bytes_owned();
            bome(text.and_then(|it| serde_json::from_slice(&it).map_err(Error::str)))
        }),
    ]
}

/// One result, or what no `try` catches.
fn bome_halt<'a>(may_go_on: bool) -> jaq_core::ValXs<'a, Val> {
    let result = if may_go_on { Ok(Val::Null) } else { Err(Exn::halt(0)) };
    Box::new(std::iter::once(result))
}

fn multiply(left: Val, right: Val) -> jaq_core::ValR<Val> {
    let repeated = match (&left, &right) {
        (Val::TStr(text) | Val::BStr(text), Val::Num(n))
        | (Val::Num(n), Val::TStr(text) | Val::BStr(text)) => match n {
            Num::Int(n) => usize::try_from(*n).unwrap_or(0).saturating_mul(text.len()),
            Num::BigInt(_) => usize::MAX,
            Num::Float(_) | Num::Dec(_) => 0,
        },
        _ => 0,
    };
    if REPEATED_BYTES_MAX < repeated {
        return Err(Error::str("a text can't be repeated beyond 16 MiB"));
    }
    left * right
}

fn range<'a>(
    limits: &'a Limits,
    from: Val,
    to: Val,
    by: Val,
) -> impl Iterator<Item = ValX<'a, Val>> {
    let zero = Val::from(0_usize);
    let mut next = Some(from);
    std::iter::from_fn(move || {
        let at = next.take()?;
        let goes_on = match by.cmp(&zero) {
            std::cmp::Ordering::Greater => at < to,
            std::cmp::Ordering::Less => at > to,
            std::cmp::Ordering::Equal => at != to,
        };
        if !goes_on {
            return None;
        }
        if !limits.range_turn() {
            return Some(Err(Exn::halt(0)));
        }
        match at.clone() + by.clone() {
            Ok(after) => next = Some(after),
            Err(error) => return Some(Err(Exn::from(error))),
        }
        Some(Ok(at))
    })
}
