//! Rows of JSON: one a line, or the elements of an array somewhere in a document.

use std::fmt;
use std::io::BufRead;

use jaq_json::Val;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use taskloom_dispatch::TaskError;

use super::{Meter, Place, Raw, RawRow, Take, of_io};
use crate::data::args::Plan;

pub(super) fn read_lines(
    plan: &Plan,
    mut reader: impl BufRead,
    meter: &Meter,
    take: Take<'_>,
) -> Result<(), TaskError> {
    let mut line = Vec::new();
    for n_line in 1.. {
        line.clear();
        meter.begin_row();
        let n_bytes = reader.read_until(b'\n', &mut line).map_err(|it| of_io(plan, &it))?;
        if n_bytes == 0 {
            break;
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let value = serde_json::from_slice(text).map_err(|error| {
            // The line is known, and serde always says 1.
            let message = error.to_string();
            message.replace(" at line 1 column ", " at column ")
        });
        let row = RawRow { place: Place::Line(n_line), value, raw: Raw::Text(text) };
        if take(row)?.is_break() {
            break;
        }
    }
    Ok(())
}

pub(super) fn read_document(
    plan: &Plan,
    reader: impl BufRead,
    meter: &Meter,
    take: Take<'_>,
) -> Result<(), TaskError> {
    let mut walk = Walk { meter, take, n_taken: 0, ended: None, found: false };
    meter.begin_skip();
    let mut deserializer = serde_json::Deserializer::from_reader(reader);
    let seed = At { path: &plan.path, walk: &mut walk };
    let read = seed.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    match (walk.ended, read) {
        (Some(ended), _) => ended,
        (None, Err(error)) if error.is_io() => Err(of_io(plan, &error.into())),
        (None, Err(error)) => {
            let message = format!("{}: {error}", plan.input.display());
            Err(TaskError::permanent(message).code("data.format"))
        }
        (None, Ok(())) if !walk.found => {
            let (input, path) = (plan.input.display(), plan.path.join("."));
            let message = format!("{input}: there is no array at `{path}`");
            Err(TaskError::permanent(message).code("data.path"))
        }
        (None, Ok(())) => Ok(()),
    }
}

/// What a walk through a document knows.
struct Walk<'a, 't> {
    meter: &'a Meter,
    take: Take<'t>,
    n_taken: u64,
    /// Why the walk ended before the document did.
    ended: Option<Result<(), TaskError>>,
    found: bool,
}

/// The array at `path`, from here.
struct At<'a, 'w, 't> {
    path: &'a [String],
    walk: &'a mut Walk<'w, 't>,
}

impl<'de> DeserializeSeed<'de> for At<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for At<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.first() {
            None => f.write_str("an array of rows (`path` says where it stands)"),
            Some(name) => write!(f, "an object with the field `{name}`"),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let Some((name, rest)) = self.path.split_first() else {
            return Err(A::Error::invalid_type(serde::de::Unexpected::Map, &self));
        };
        while let Some(field) = fields.next_key::<String>()? {
            if field == *name {
                fields.next_value_seed(At { path: rest, walk: &mut *self.walk })?;
            } else {
                fields.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        if !self.path.is_empty() {
            return Err(A::Error::invalid_type(serde::de::Unexpected::Seq, &self));
        }
        let walk = self.walk;
        walk.found = true;
        walk.meter.begin_row();
        while let Some(value) = elements.next_element::<Val>()? {
            walk.n_taken += 1;
            let place = Place::Element(walk.n_taken);
            let taken = (walk.take)(RawRow { place, value: Ok(value), raw: Raw::Value });
            if !matches!(taken, Ok(std::ops::ControlFlow::Continue(()))) {
                walk.ended = Some(taken.map(|_| ()));
                // The only way out of a document; `ended` says what it means.
                return Err(A::Error::custom("the walk ended"));
            }
            walk.meter.begin_row();
        }
        walk.meter.begin_skip();
        Ok(())
    }
}
