//! What went wrong with a request, and whether another attempt makes sense.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use reqwest::StatusCode;
use reqwest::header::{DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use taskloom_dispatch::TaskError;

/// The longest delay a server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// A request was sent on more often than it allows.
#[derive(Debug)]
pub(super) struct TooManyRedirects {
    pub(super) limit: usize,
}

impl fmt::Display for TooManyRedirects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it was redirected more than {} times", self.limit)
    }
}

impl Error for TooManyRedirects {}

/// The error of a request or of its body.
pub(super) fn of_transport(name: &str, error: reqwest::Error) -> TaskError {
    let error = error.without_url();
    let (code, is_permanent) = classify(&error);
    let cause = innermost(&error);
    let task_error = TaskError::new(format!("{name}: {cause}")).code(code);
    if is_permanent { task_error.into_permanent() } else { task_error }
}

/// The code of an error, and whether no other attempt can succeed.
fn classify(error: &reqwest::Error) -> (&'static str, bool) {
    if error.is_redirect() {
        return ("http.redirects", true);
    }
    if error.is_builder() {
        return ("http.url", true);
    }
    if error.is_timeout() {
        return ("http.timeout", false);
    }
    if error.is_dns() {
        return ("http.dns", false);
    }
    let causes: Vec<_> = causes(error).collect();
    if causes.iter().any(|it| it.is::<rustls::Error>()) {
        return ("http.tls", false);
    }
    if error.is_connect() {
        return ("http.connect", false);
    }
    let is_reset = causes.iter().any(|it| match it.downcast_ref::<io::Error>() {
        Some(io) => matches!(
            io.kind(),
            io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof
        ),
        // Hyper's words for a connection that ended before the message did.
        None => it.to_string().starts_with("connection closed before message completed"),
    });
    let is_cut = causes.iter().any(|it| it.to_string().contains("end of file before message"));
    if is_reset || is_cut { ("http.reset", false) } else { ("http.transport", false) }
}

/// `error` and what caused it, into the I/O errors that wrap others.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let first: &(dyn Error + 'static) = error;
    std::iter::successors(Some(first), |it| {
        let it: &(dyn Error + 'static) = *it;
        // An I/O error shows the source of the error in it, but not that error.
        let inner = it.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inner.map(|it| it as &(dyn Error + 'static)).or_else(|| it.source())
    })
}

fn innermost(error: &reqwest::Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    for cause in causes(error).map(ToString::to_string) {
        if !texts.iter().any(|it| it.contains(&cause)) {
            texts.push(cause);
        }
    }
    texts.join(": ")
}

/// The error of an unexpected status.
pub(super) fn of_status(
    name: &str,
    status: StatusCode,
    headers: &HeaderMap,
    now: fn() -> Timestamp,
) -> TaskError {
    let error = TaskError::new(format!("{name}: the server answered {status}"))
        .code(format!("http.status.{}", status.as_u16()));
    let is_transient = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
    if !is_transient {
        return error.into_permanent();
    }
    match retry_after(headers, now) {
        Some(delay) => error.retry_after(delay),
        None => error,
    }
}

/// The delay a server asks for: in seconds, or as a date. A date is compared with the server's
/// own clock when it tells it, so a node whose clock is wrong waits as long as it should.
fn retry_after(headers: &HeaderMap, now: fn() -> Timestamp) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?;
    let text = value.to_str().ok()?.trim();
    let delay = match text.parse::<u64>() {
        Ok(secs) => Duration::from_secs(secs),
        Err(_) => {
            let until = http_date(value)?;
            let server_now = headers.get(DATE).and_then(http_date).unwrap_or_else(now);
            // A date that has passed asks for no delay.
            Duration::try_from(until.duration_since(server_now)).unwrap_or_default()
        }
    };
    Some(delay.min(RETRY_AFTER_MAX))
}

fn http_date(value: &HeaderValue) -> Option<Timestamp> {
    rfc2822::DateTimeParser::new().parse_timestamp(value.to_str().ok()?.trim()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noon() -> Timestamp {
        "2026-11-20T12:00:00Z".parse().unwrap()
    }

    #[track_caller]
    fn check_retry_after(value: &str, date: Option<&str>, expected_secs: Option<u64>) {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, value.parse().unwrap());
        if let Some(date) = date {
            headers.insert(DATE, date.parse().unwrap());
        }
        let actual = retry_after(&headers, noon);
        assert_eq!(actual, expected_secs.map(Duration::from_secs), "{value}");
    }

    #[test]
    fn a_delay_is_seconds_or_a_date() {
        check_retry_after("120", None, Some(120));
        check_retry_after("Fri, 20 Nov 2026 12:01:30 GMT", None, Some(90));
        check_retry_after("Fri, 20 Nov 2026 11:00:00 GMT", None, Some(0));
        check_retry_after("soon", None, None);
        check_retry_after("-5", None, None);
    }

    #[test]
    fn a_date_is_compared_with_the_clock_of_the_server() {
        let server_now = Some("Fri, 20 Nov 2026 10:00:00 GMT");
        check_retry_after("Fri, 20 Nov 2026 10:00:07 GMT", server_now, Some(7));
    }

    #[test]
    fn no_server_may_ask_for_more_than_a_day() {
        check_retry_after("99999999", None, Some(86_400));
    }
}
