//! What is computed of the rows of a group.

use jaq_json::{Num, Val};

use super::quantile::Quantiles;
use super::values;

/// One thing to compute of the rows of a group.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Aggregate {
    /// `count()`: how many rows there are.
    CountRows,
    /// `count(f)`: how many rows have a field that isn't null.
    Count(String),
    /// `sum(f)`; 0 when there is nothing to add. Exact as long as all are whole numbers.
    Sum(String),
    /// `mean(f)`; null of nothing.
    Mean(String),
    /// `min(f)`: of anything, in jq's order; null of nothing.
    Min(String),
    /// `max(f)`.
    Max(String),
    /// `quantile(f, 0.95)`; null of nothing.
    Quantile(String, f64),
}

impl Aggregate {
    /// Reads one such as `quantile(delay, 0.95)`.
    pub(super) fn parse(text: &str) -> Result<Aggregate, String> {
        Self::parse_known(text.trim()).ok_or_else(|| {
            format!(
                "`{text}` is no aggregate: write count(), count(f), sum(f), mean(f), min(f), \
                 max(f) or quantile(f, 0.95)"
            )
        })
    }

    fn parse_known(text: &str) -> Option<Aggregate> {
        let (name, rest) = text.split_once('(')?;
        let inner = rest.strip_suffix(')')?.trim();
        let field = || (!inner.is_empty()).then(|| inner.to_owned());
        match name.trim_end() {
            "count" => Some(field().map_or(Aggregate::CountRows, Aggregate::Count)),
            "sum" => field().map(Aggregate::Sum),
            "mean" => field().map(Aggregate::Mean),
            "min" => field().map(Aggregate::Min),
            "max" => field().map(Aggregate::Max),
            "quantile" => {
                let (field, fraction) = inner.rsplit_once(',')?;
                let fraction =
                    fraction.trim().parse().ok().filter(|it| (0.0..=1.0).contains(it))?;
                let field = field.trim();
                (!field.is_empty()).then(|| Aggregate::Quantile(field.to_owned(), fraction))
            }
            _ => None,
        }
    }

    /// The field it looks at.
    pub(super) fn field(&self) -> Option<&str> {
        match self {
            Aggregate::CountRows => None,
            Aggregate::Count(field)
            | Aggregate::Sum(field)
            | Aggregate::Mean(field)
            | Aggregate::Min(field)
            | Aggregate::Max(field)
            | Aggregate::Quantile(field, _) => Some(field),
        }
    }

    /// Whether it can only take numbers.
    pub(super) fn needs_number(&self) -> bool {
        match self {
            Aggregate::Sum(_) | Aggregate::Mean(_) | Aggregate::Quantile(..) => true,
            Aggregate::CountRows | Aggregate::Count(_) | Aggregate::Min(_) | Aggregate::Max(_) => {
                false
            }
        }
    }

    /// What it is of no rows.
    pub(super) fn start(&self) -> Tally {
        match self {
            Aggregate::CountRows | Aggregate::Count(_) => Tally::Count(0),
            Aggregate::Sum(_) => Tally::Sum(Sum::default()),
            Aggregate::Mean(_) => Tally::Mean(Sum::default(), 0),
            Aggregate::Min(_) => Tally::Min(None),
            Aggregate::Max(_) => Tally::Max(None),
            Aggregate::Quantile(_, fraction) => Tally::Quantile(Box::default(), *fraction),
        }
    }
}

/// An aggregate of the rows so far.
#[derive(Debug, Clone)]
pub(super) enum Tally {
    Count(u64),
    Sum(Sum),
    Mean(Sum, u64),
    Min(Option<Val>),
    Max(Option<Val>),
    Quantile(Box<Quantiles>, f64),
}

impl Tally {
    /// Adds a value that is neither null nor, for those that need numbers, anything else. Says
    /// how many more values are kept in memory.
    pub(super) fn add(&mut self, value: &Val) -> isize {
        match self {
            Tally::Count(n) => *n += 1,
            Tally::Sum(sum) => sum.add(value),
            Tally::Mean(sum, n) => {
                sum.add(value);
                *n += 1;
            }
            Tally::Min(least) => {
                if least.as_ref().is_none_or(|it| value < it) {
                    *least = Some(value.clone());
                }
            }
            Tally::Max(most) => {
                if most.as_ref().is_none_or(|it| it < value) {
                    *most = Some(value.clone());
                }
            }
            Tally::Quantile(quantiles, _) => {
                if let Some(value) = values::as_f64(value).filter(|it| it.is_finite()) {
                    return quantiles.add(value);
                }
            }
        }
        0
    }

    /// Its value.
    pub(super) fn end(self) -> Val {
        match self {
            Tally::Count(n) => Val::Num(Num::from_integral(n)),
            Tally::Sum(sum) => sum.end(),
            Tally::Mean(_, 0) => Val::Null,
            Tally::Mean(sum, n) => Val::from(sum.as_f64() / n as f64),
            Tally::Min(value) | Tally::Max(value) => value.unwrap_or_default(),
            Tally::Quantile(mut quantiles, fraction) => {
                quantiles.quantile(fraction).map_or(Val::Null, Val::from)
            }
        }
    }
}

/// A sum: exact of whole numbers, compensated (Neumaier) of others.
#[derive(Debug, Clone, Default)]
pub(super) struct Sum {
    whole: i128,
    float: f64,
    lost: f64,
    has_floats: bool,
}

impl Sum {
    fn add(&mut self, value: &Val) {
        if let Val::Num(Num::Int(int)) = value {
            // 2^64 rows of the largest value fit.
            self.whole += *int as i128;
            return;
        }
        let value = values::as_f64(value).unwrap_or(0.0);
        self.has_floats = true;
        let sum = self.float + value;
        self.lost += if value.abs() <= self.float.abs() {
            (self.float - sum) + value
        } else {
            (value - sum) + self.float
        };
        self.float = sum;
    }

    fn as_f64(&self) -> f64 {
        self.whole as f64 + (self.float + self.lost)
    }

    fn end(self) -> Val {
        match i64::try_from(self.whole) {
            Ok(whole) if !self.has_floats => Val::Num(Num::from_integral(whole)),
            _ => Val::from(self.as_f64()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_tally(aggregate: &str, fields: &[&str], expected: &str) {
        let mut tally = Aggregate::parse(aggregate).unwrap().start();
        for field in fields {
            tally.add(&values::typed(field));
        }
        assert_eq!(values::plain(&tally.end()), expected, "{aggregate} of {fields:?}");
    }

    #[test]
    fn an_aggregate_is_what_it_says() {
        check_tally("count()", &["a", "b"], "2");
        check_tally("sum(x)", &["1", "2", "3"], "6");
        check_tally("mean(x)", &["1", "2"], "1.5");
        check_tally("min(x)", &["b", "a", "c"], "a");
        check_tally("max( x )", &["9", "10"], "10");
        check_tally("quantile(x, 0.5)", &["1", "9", "2"], "2.0");
        check_tally("sum(x)", &[], "0");
        check_tally("mean(x)", &[], "");
    }

    #[test]
    fn a_sum_keeps_what_floats_lose() {
        check_tally("sum(x)", &["9007199254740993", "1"], "9007199254740994");
        check_tally("sum(x)", &["1e100", "1.5", "-1e100"], "1.5");
        check_tally(
            "sum(x)",
            &["9223372036854775807", "9223372036854775807"],
            "1.8446744073709552e+19",
        );
    }

    #[test]
    fn what_is_no_aggregate_is_refused() {
        for text in [
            "",
            "count",
            "sum()",
            "median(x)",
            "quantile(x)",
            "quantile(x, 2)",
            "quantile(, 0.5)",
            "sum(x",
        ] {
            assert!(Aggregate::parse(text).is_err(), "{text}");
        }
    }
}
