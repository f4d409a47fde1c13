//! Values of rows: how a CSV field becomes one, and how one is written.

use jaq_json::{Num, Val};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

/// The value of a field of a CSV file. A number is what JSON calls one; a whole number beyond 64
/// bits and a fraction beyond an `f64` stay texts, so that no digit of an identifier is lost.
pub(super) fn typed(field: &str) -> Val {
    if field.is_empty() {
        return Val::Null;
    }
    number(field).map_or_else(|| text(field), Val::Num)
}

/// A text.
pub(super) fn text(text: &str) -> Val {
    Val::utf8_str(text.as_bytes().to_vec())
}

fn number(field: &str) -> Option<Num> {
    let digits = field.strip_prefix('-').unwrap_or(field);
    let n_whole = digits.bytes().take_while(u8::is_ascii_digit).count();
    if n_whole == 0 || (1 < n_whole && digits.starts_with('0')) {
        return None;
    }
    let rest = &digits[n_whole..];
    if rest.is_empty() {
        return field.parse().ok().map(Num::Int);
    }
    let (fraction, exponent) = match rest.split_once(['e', 'E']) {
        Some((fraction, exponent)) => (fraction, Some(exponent)),
        None => (rest, None),
    };
    let all_digits = |it: &str| !it.is_empty() && it.bytes().all(|it| it.is_ascii_digit());
    let is_fraction = fraction.is_empty() || fraction.strip_prefix('.').is_some_and(all_digits);
    let is_exponent =
        exponent.is_none_or(|it| all_digits(it.strip_prefix(['+', '-']).unwrap_or(it)));
    if !is_fraction || !is_exponent {
        return None;
    }
    field.parse::<f64>().ok().filter(|it| it.is_finite()).map(Num::Float)
}

/// The number a value is; `None` when it isn't one.
pub(super) fn as_f64(value: &Val) -> Option<f64> {
    match value {
        #[expect(clippy::cast_precision_loss, reason = "an aggregate is an f64")]
        Val::Num(Num::Int(int)) => Some(*int as f64),
        Val::Num(Num::Float(float)) => Some(*float),
        Val::Num(Num::BigInt(int)) => int.to_string().parse().ok(),
        Val::Num(Num::Dec(digits)) => digits.parse().ok(),
        Val::Null | Val::Bool(_) | Val::BStr(_) | Val::TStr(_) | Val::Arr(_) | Val::Obj(_) => None,
    }
}

/// What a value is called in an error.
pub(super) fn kind(value: &Val) -> &'static str {
    match value {
        Val::Null => "null",
        Val::Bool(_) => "a boolean",
        Val::Num(_) => "a number",
        Val::BStr(_) | Val::TStr(_) => "a text",
        Val::Arr(_) => "an array",
        Val::Obj(_) => "an object",
    }
}

/// Whether a value is nested no deeper than `depth_max`.
pub(super) fn is_within(value: &Val, depth_max: usize) -> bool {
    let is_inner_within = |it: &Val| is_within(it, depth_max - 1);
    match value {
        Val::Arr(values) => 0 < depth_max && values.iter().all(is_inner_within),
        Val::Obj(fields) => 0 < depth_max && fields.values().all(is_inner_within),
        Val::Null | Val::Bool(_) | Val::Num(_) | Val::BStr(_) | Val::TStr(_) => true,
    }
}

/// A value as standard JSON: what JSON can't say (NaN, infinity) is null, and keys are texts.
pub(super) struct Json<'a>(pub(super) &'a Val);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Val::Null => serializer.serialize_unit(),
            Val::Bool(bool) => serializer.serialize_bool(*bool),
            Val::Num(Num::Int(int)) => serializer.serialize_i64(*int as i64),
            Val::Num(Num::BigInt(int)) => match int.to_string().parse::<u64>() {
                Ok(int) => serializer.serialize_u64(int),
                Err(_) => serializer.serialize_some(&as_f64(self.0)),
            },
            Val::Num(Num::Float(_) | Num::Dec(_)) => match as_f64(self.0) {
                Some(float) if float.is_finite() => serializer.serialize_f64(float),
                _ => serializer.serialize_unit(),
            },
            Val::BStr(bytes) | Val::TStr(bytes) => {
                serializer.serialize_str(&String::from_utf8_lossy(bytes))
            }
            Val::Arr(values) => {
                let mut seq = serializer.serialize_seq(Some(values.len()))?;
                for value in values.iter() {
                    seq.serialize_element(&Json(value))?;
                }
                seq.end()
            }
            Val::Obj(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (name, value) in fields.iter() {
                    map.serialize_entry(&plain(name), &Json(value))?;
                }
                map.end()
            }
        }
    }
}

/// A value as a field of a CSV file: null is empty, a text is itself, the rest is JSON.
pub(super) fn plain(value: &Val) -> std::borrow::Cow<'_, str> {
    match value {
        Val::Null => "".into(),
        Val::BStr(bytes) | Val::TStr(bytes) => String::from_utf8_lossy(bytes),
        Val::Bool(_) | Val::Num(_) | Val::Arr(_) | Val::Obj(_) => {
            serde_json::to_string(&Json(value)).unwrap_or_default().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check_typed(field: &str, expected_json: &str) {
        let actual = serde_json::to_string(&Json(&typed(field))).unwrap();
        assert_eq!(actual, expected_json, "{field:?}");
    }

    #[test]
    fn what_json_calls_a_number_is_one() {
        check_typed("0", "0");
        check_typed("-12", "-12");
        check_typed("1016.6", "1016.6");
        check_typed("1e3", "1000.0");
        check_typed("-2.5E-1", "-0.25");
        check_typed("9223372036854775807", "9223372036854775807");
    }

    #[test]
    fn what_would_change_as_a_number_stays_a_text() {
        for field in [
            "007",
            "+1",
            ".5",
            "5.",
            " 1",
            "1 ",
            "-",
            "1e",
            "1e+",
            "0x10",
            "1,5",
            "NaN",
            "inf",
            "9223372036854775808",
            "1e999",
            "00",
            "-01",
            "1.2.3",
            "1e5e5",
            "true",
        ] {
            check_typed(field, &format!("{field:?}"));
        }
    }

    #[test]
    fn an_empty_field_is_null() {
        check_typed("", "null");
    }

    proptest! {
        #[test]
        fn a_whole_number_is_read_and_written_the_same(int: i64) {
            let text = int.to_string();
            prop_assert_eq!(plain(&typed(&text)).into_owned(), text);
        }

        #[test]
        fn a_field_is_a_number_exactly_if_json_says_so(field in "[-+0-9.eE ]{1,8}") {
            let is_number = matches!(typed(&field), Val::Num(_));
            let json = serde_json::from_str::<f64>(&field).is_ok() && field.trim() == field;
            prop_assert_eq!(is_number, json, "{}", field);
        }
    }
}
