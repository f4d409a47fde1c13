//! A span of time as people write it in arguments: `"10s"`, `"1m 30s"`, or milliseconds.

use std::fmt;
use std::time::Duration;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A span of time. In JSON it is a text such as `"500ms"`, `"10s"`, `"2m"`, `"1h"` or
/// `"1m 30s"`, or a number of milliseconds; it is written as milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// This many milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Span(Duration::from_millis(millis))
    }

    /// This many seconds.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Span(Duration::from_secs(secs))
    }

    /// Reads a text such as `"1m 30s"`; `None` when it isn't one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Span> {
        taskloom_dispatch::parse_duration(text).ok().map(Span)
    }
}

impl From<Duration> for Span {
    fn from(duration: Duration) -> Self {
        Span(duration)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SpanVisitor)
    }
}

struct SpanVisitor;

impl Visitor<'_> for SpanVisitor {
    type Value = Span;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a span of time such as \"10s\" or a number of milliseconds")
    }

    fn visit_u64<E: Error>(self, millis: u64) -> Result<Span, E> {
        Ok(Span::from_millis(millis))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Span, E> {
        Span::parse(text).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_span(json: &str, expected_millis: Option<u64>) {
        let actual = serde_json::from_str::<Span>(json).ok();
        assert_eq!(actual, expected_millis.map(Span::from_millis), "{json}");
    }

    #[test]
    fn a_span_is_a_text_or_milliseconds() {
        check_span(r#""10s""#, Some(10_000));
        check_span(r#""1m 30s""#, Some(90_000));
        check_span(r#""250 ms""#, Some(250));
        check_span(r#""2h""#, Some(7_200_000));
        check_span("1500", Some(1_500));
    }

    #[test]
    fn what_is_no_span_is_refused() {
        for json in [r#""""#, r#""10""#, r#""s""#, r#""-1s""#, r#""1y""#, "-1", "1.5", "null"] {
            check_span(json, None);
        }
        check_span(r#""99999999999999999999s""#, None);
    }
}
