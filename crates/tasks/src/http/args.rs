//! The arguments of `http`: as they are written, and as they are once checked.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};
use serde::{Deserialize, Serialize};
use taskloom_dispatch::TaskError;

use crate::Span;

/// What is kept of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// The status; it is always kept.
    Status,
    /// The length of the body in bytes, decompressed; it is always kept.
    Length,
    /// The body, read as JSON. Together with `text` at most 1 MiB.
    Json,
    /// The body, decoded as text.
    Text,
    /// The title of an HTML page, looked for in the first 512 KiB.
    Title,
}

/// The arguments of the task `http`.
///
/// ```
/// use taskloom_tasks::{HttpArgs, http::Keep};
///
/// let args = HttpArgs::get("https://example.com/").keep([Keep::Title]);
/// assert_eq!(serde_json::to_string(&args).unwrap(),
///     r#"{"url":"https://example.com/","keep":["title"]}"#);
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpArgs {
    /// The address: `http` or `https`.
    pub url: String,
    /// The method. Default: `GET`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Headers of the request. `POST` and `PATCH` carry an `Idempotency-Key` that is the same for
    /// every attempt of the job, unless one is given here.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Headers whose value is that of an environment variable of the node, by its name: secrets
    /// given this way stay out of the store.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers_env: BTreeMap<String, String>,
    /// The body, as text. Not together with `json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The body, as JSON; sets `Content-Type: application/json` unless `headers` say otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<serde_json::Value>,
    /// The statuses that count as success. Default: any from 200 to 299.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expect: Vec<u16>,
    /// What is kept of the answer, besides status, address, length and time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keep: Vec<Keep>,
    /// How long one attempt may take, body included: `"10s"`, or milliseconds. Default: 30 s.
    /// The timeout of the job holds as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// The longest body accepted, in bytes, decompressed. Default: 10 MiB; at most 1 GiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// How many redirects are followed. Default: 10; at most 50. 0 takes a redirect as the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirects: Option<usize>,
}

impl HttpArgs {
    /// How long an attempt takes at most, unless it says otherwise.
    pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
    /// The longest body accepted, unless a job says otherwise.
    pub const LIMIT_DEFAULT: u64 = 10 << 20;
    /// The longest body a job may ask for.
    pub const LIMIT_MAX: u64 = 1 << 30;
    /// How many redirects are followed, unless a job says otherwise.
    pub const REDIRECTS_DEFAULT: usize = 10;
    /// How many redirects a job may ask for.
    pub const REDIRECTS_MAX: usize = 50;

    /// A request of that method.
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Self {
        HttpArgs { url: url.into(), method: Some(method.into()), ..HttpArgs::default() }
    }

    /// A `GET`.
    pub fn get(url: impl Into<String>) -> Self {
        HttpArgs { url: url.into(), ..HttpArgs::default() }
    }

    /// A `POST`.
    pub fn post(url: impl Into<String>) -> Self {
        HttpArgs::new("POST", url)
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Adds a header whose value is that of the node's environment variable `variable`.
    #[must_use]
    pub fn header_env(mut self, name: impl Into<String>, variable: impl Into<String>) -> Self {
        self.headers_env.insert(name.into(), variable.into());
        self
    }

    /// Sends a text.
    #[must_use]
    pub fn body(mut self, text: impl Into<String>) -> Self {
        self.body = Some(text.into());
        self
    }

    /// Sends a JSON value.
    #[must_use]
    pub fn json(mut self, value: impl Into<serde_json::Value>) -> Self {
        self.json = Some(value.into());
        self
    }

    /// Says which statuses count as success.
    #[must_use]
    pub fn expect(mut self, statuses: impl IntoIterator<Item = u16>) -> Self {
        self.expect.extend(statuses);
        self
    }

    /// Says what is kept of the answer.
    #[must_use]
    pub fn keep(mut self, parts: impl IntoIterator<Item = Keep>) -> Self {
        self.keep.extend(parts);
        self
    }

    /// Says how long one attempt may take.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(Span(timeout));
        self
    }

    /// Says how long a body may be, in bytes.
    #[must_use]
    pub fn limit(mut self, bytes: u64) -> Self {
        self.limit = Some(bytes);
        self
    }

    /// Says how many redirects are followed.
    #[must_use]
    pub fn redirects(mut self, n_redirects: usize) -> Self {
        self.redirects = Some(n_redirects);
        self
    }
}

/// A request that can be sent.
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<String>,
    pub(super) expect: Vec<u16>,
    pub(super) keep: Vec<Keep>,
    pub(super) timeout: Duration,
    pub(super) limit: u64,
    pub(super) redirects: usize,
}

impl Request {
    /// Checks `args`; every error is permanent.
    pub(super) fn check(args: HttpArgs, idempotency_key: &str) -> Result<Request, TaskError> {
        let method = args.method.as_deref().unwrap_or("GET").to_ascii_uppercase();
        let method = Method::from_bytes(method.as_bytes())
            .map_err(|_| refused(format!("`{method}` is no HTTP method")))?;
        let url = check_url(&args.url)?;
        let mut headers = check_headers(&args)?;
        let is_unsafe = method == Method::POST || method == Method::PATCH;
        if is_unsafe
            && !headers.contains_key("idempotency-key")
            && let Ok(key) = HeaderValue::from_str(idempotency_key)
        {
            headers.insert("idempotency-key", key);
        }
        let body = match (args.body, args.json) {
            (Some(_), Some(_)) => return Err(refused("give `body` or `json`, not both")),
            (body, None) => body,
            (None, Some(json)) => {
                let json_type = HeaderValue::from_static("application/json");
                headers.entry(CONTENT_TYPE).or_insert(json_type);
                Some(json.to_string())
            }
        };
        if let Some(status) = args.expect.iter().find(|it| !(100..600).contains(*it)) {
            return Err(refused(format!("`expect` holds {status}, which is no status")));
        }
        let limit = args.limit.unwrap_or(HttpArgs::LIMIT_DEFAULT);
        let redirects = args.redirects.unwrap_or(HttpArgs::REDIRECTS_DEFAULT);
        if HttpArgs::LIMIT_MAX < limit {
            return Err(refused(format!("`limit` is at most {} bytes", HttpArgs::LIMIT_MAX)));
        }
        if HttpArgs::REDIRECTS_MAX < redirects {
            return Err(refused(format!("`redirects` is at most {}", HttpArgs::REDIRECTS_MAX)));
        }
        let timeout = args.timeout.map_or(HttpArgs::TIMEOUT_DEFAULT, |it| it.0);
        let (expect, keep) = (args.expect, args.keep);
        Ok(Request { method, url, headers, body, expect, keep, timeout, limit, redirects })
    }

    /// What errors call the request: no query and no password, which may be secrets.
    pub(super) fn name(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        url.set_fragment(None);
        url.set_username("").ok();
        url.set_password(None).ok();
        format!("{} {url}", self.method)
    }
}

fn check_url(text: &str) -> Result<Url, TaskError> {
    let refuse = |why: String| TaskError::permanent(why).code("http.url");
    let url = Url::parse(text).map_err(|error| refuse(format!("`{text}` is no URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refuse(format!("`{text}` is no http or https URL")));
    }
    Ok(url)
}

fn check_headers(args: &HttpArgs) -> Result<HeaderMap, TaskError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &args.headers {
        headers.insert(header_name(name)?, header_value(name, value)?);
    }
    for (name, variable) in &args.headers_env {
        let value = std::env::var(variable).map_err(|_| {
            refused(format!("header `{name}` needs the environment variable `{variable}`"))
        })?;
        let mut value = header_value(name, &value)?;
        value.set_sensitive(true);
        headers.insert(header_name(name)?, value);
    }
    Ok(headers)
}

fn header_name(name: &str) -> Result<HeaderName, TaskError> {
    name.parse().map_err(|_| refused(format!("`{name}` is no header name")))
}

fn header_value(name: &str, value: &str) -> Result<HeaderValue, TaskError> {
    value.parse().map_err(|_| refused(format!("the value of header `{name}` can't be sent")))
}

fn refused(why: impl Into<String>) -> TaskError {
    TaskError::permanent(why).code("http.args")
}
