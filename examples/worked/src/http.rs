//! HTTP as the programs use it: one `GET` with a limit of time, and what may go wrong with it.

use std::error::Error;
use std::io;
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use reqwest::header::{DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode};
use taskloom_flow::{TimedOut, timeout};

/// Why there is no page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// It took longer than it may.
    #[error("timed out")]
    Timeout,
    /// Nobody listens at that address.
    #[error("connection refused")]
    Refused,
    /// The connection ended before the answer did.
    #[error("connection closed early")]
    Closed,
    /// There is no host of that name.
    #[error("unknown host")]
    UnknownHost,
    /// The server answered, though not with the page.
    #[error("status {status}")]
    Status {
        /// What it answered.
        status: StatusCode,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl HttpError {
    /// What summaries count it under.
    #[must_use]
    pub fn kind(&self) -> String {
        match self {
            HttpError::Other(_) => "other error".to_owned(),
            HttpError::Timeout
            | HttpError::Refused
            | HttpError::Closed
            | HttpError::UnknownHost
            | HttpError::Status { .. } => self.to_string(),
        }
    }

    /// Whether another attempt may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            HttpError::Timeout | HttpError::Refused | HttpError::Closed => true,
            HttpError::Status { status, .. } => {
                status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429)
            }
            HttpError::UnknownHost | HttpError::Other(_) => false,
        }
    }

    /// When the server wants to be asked again, if it said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            HttpError::Status { retry_after, .. } => *retry_after,
            HttpError::Timeout
            | HttpError::Refused
            | HttpError::Closed
            | HttpError::UnknownHost
            | HttpError::Other(_) => None,
        }
    }
}

impl From<TimedOut> for HttpError {
    fn from(_: TimedOut) -> Self {
        HttpError::Timeout
    }
}

impl From<reqwest::Error> for HttpError {
    fn from(error: reqwest::Error) -> Self {
        let error = error.without_url();
        if error.is_timeout() {
            return HttpError::Timeout;
        }
        if error.is_dns() {
            return HttpError::UnknownHost;
        }
        let is_io = |kinds: &[io::ErrorKind]| {
            let mut found = causes(&error).filter_map(|it| it.downcast_ref::<io::Error>());
            found.any(|it| kinds.contains(&it.kind()))
        };
        if is_io(&[io::ErrorKind::ConnectionRefused]) {
            return HttpError::Refused;
        }
        let closed = [
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::ConnectionAborted,
            io::ErrorKind::BrokenPipe,
            io::ErrorKind::UnexpectedEof,
        ];
        // Hyper has words of its own for a connection that ended before the message did.
        let is_cut = causes(&error).any(|it| {
            let text = it.to_string();
            text.starts_with("connection closed before message completed")
                || text.contains("end of file before message")
        });
        if is_cut || is_io(&closed) {
            return HttpError::Closed;
        }
        let last = causes(&error).last().map(ToString::to_string);
        HttpError::Other(last.unwrap_or_else(|| error.to_string()))
    }
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

/// The answer, if its status is one of success.
///
/// # Errors
/// [`HttpError::Status`] otherwise.
pub fn check_status(response: Response) -> Result<Response, HttpError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    Err(HttpError::Status { status, retry_after: retry_after(response.headers()) })
}

/// The delay a server asks for, in seconds or as a date. A date is compared with the server's own
/// clock, so that it makes no difference how wrong ours is.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?;
    if let Ok(secs) = value.to_str().ok()?.trim().parse() {
        return Some(Duration::from_secs(secs));
    }
    let (until, now) = (date(value)?, date(headers.get(DATE)?)?);
    // A date that has passed asks for no delay.
    Some(Duration::try_from(until.duration_since(now)).unwrap_or_default())
}

fn date(value: &HeaderValue) -> Option<Timestamp> {
    rfc2822::DateTimeParser::new().parse_timestamp(value.to_str().ok()?.trim()).ok()
}

/// A page and its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// One of success.
    pub status: StatusCode,
    /// The whole body.
    pub text: String,
}

/// Fetches a page, body included, within `limit`.
///
/// # Errors
/// [`HttpError`].
///
/// # Cancel safety
/// Dropping it closes the connection.
pub async fn get(client: &Client, url: &str, limit: Duration) -> Result<Page, HttpError> {
    timeout(limit, async {
        let response = check_status(client.get(url).send().await?)?;
        Ok(Page { status: response.status(), text: response.text().await? })
    })
    .await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_retry_after(value: &str, date: Option<&str>, expected_secs: Option<u64>) {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, value.parse().unwrap());
        if let Some(date) = date {
            headers.insert(DATE, date.parse().unwrap());
        }
        assert_eq!(retry_after(&headers), expected_secs.map(Duration::from_secs), "{value}");
    }

    #[test]
    fn a_delay_is_seconds_or_a_date_by_the_clock_of_the_server() {
        let now = Some("Fri, 20 Nov 2026 10:00:00 GMT");
        check_retry_after("120", None, Some(120));
        check_retry_after("Fri, 20 Nov 2026 10:00:07 GMT", now, Some(7));
        check_retry_after("Fri, 20 Nov 2026 09:00:00 GMT", now, Some(0));
        check_retry_after("Fri, 20 Nov 2026 10:00:07 GMT", None, None);
        check_retry_after("soon", now, None);
    }

    #[test]
    fn only_what_time_may_mend_is_transient() {
        let status = |code: u16| {
            let status = StatusCode::from_u16(code).unwrap();
            HttpError::Status { status, retry_after: None }.is_transient()
        };
        assert!([408, 425, 429, 500, 503].into_iter().all(status));
        assert!(![301, 400, 403, 404, 410].into_iter().any(status));
    }
}
