//! The answer of a server, and what is kept of it.

use reqwest::Response;
use reqwest::header::CONTENT_TYPE;
use serde::{Deserialize, Serialize};
use taskloom_dispatch::TaskError;

use super::args::Keep;
use super::{charset, errors, title};

/// How much of a page is searched for its title.
const TITLE_BYTES: usize = 512 << 10;
/// How much `text` and `json` together may add to a result, as JSON.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// The result of the task `http`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct HttpOutput {
    /// The status.
    pub status: u16,
    /// The address that answered, after redirects.
    pub url: String,
    /// The length of the body in bytes, decompressed.
    pub length: u64,
    /// How long the request took, body included, in milliseconds.
    pub ms: u64,
    /// The title of the page, when it was asked for and there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The body as text, when it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The body as JSON, when it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<serde_json::Value>,
}

/// What a request wants of its answer.
pub(super) struct Wanted<'a> {
    pub(super) keep: &'a [Keep],
    pub(super) limit: u64,
    /// What errors call the request.
    pub(super) name: &'a str,
}

/// Reads the body to its end, keeping no more of it in memory than is wanted.
///
/// # Cancel safety
/// Dropping it closes the connection.
pub(super) async fn read(
    mut response: Response,
    wanted: Wanted<'_>,
) -> Result<HttpOutput, TaskError> {
    let mut output = HttpOutput {
        status: response.status().as_u16(),
        url: response.url().to_string(),
        ..HttpOutput::default()
    };
    let content_type = response.headers().get(CONTENT_TYPE);
    let content_type = content_type.and_then(|it| it.to_str().ok()).map(str::to_owned);
    if response.content_length().is_some_and(|it| wanted.limit < it) {
        return Err(wanted.too_large());
    }
    let kept_max = wanted.kept_max();
    let mut kept: Vec<u8> = Vec::new();
    loop {
        let chunk = response.chunk().await;
        let chunk = chunk.map_err(|error| errors::of_transport(wanted.name, error))?;
        let Some(chunk) = chunk else { break };
        output.length += chunk.len() as u64;
        if wanted.limit < output.length {
            return Err(wanted.too_large());
        }
        let room = kept_max.saturating_sub(kept.len());
        kept.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
    wanted.keep_parts(&kept, content_type.as_deref(), &mut output)?;
    Ok(output)
}

impl Wanted<'_> {
    fn wants(&self, part: Keep) -> bool {
        self.keep.contains(&part)
    }

    /// How many bytes of a body must be in memory at once.
    fn kept_max(&self) -> usize {
        if self.wants(Keep::Text) || self.wants(Keep::Json) {
            return usize::MAX;
        }
        if self.wants(Keep::Title) { TITLE_BYTES } else { 0 }
    }

    fn keep_parts(
        &self,
        body: &[u8],
        content_type: Option<&str>,
        output: &mut HttpOutput,
    ) -> Result<(), TaskError> {
        let mut kept_bytes = 0;
        if self.wants(Keep::Title) {
            let head = &body[..body.len().min(TITLE_BYTES)];
            output.title = title::find(&charset::decode(head, content_type));
        }
        if self.wants(Keep::Json) {
            let json = serde_json::from_slice(body).map_err(|error| {
                TaskError::permanent(format!("{}: the body is no JSON: {error}", self.name))
                    .code("http.json")
            })?;
            kept_bytes += body.len();
            output.json = Some(json);
        }
        if self.wants(Keep::Text) {
            let text = charset::decode(body, content_type);
            kept_bytes += serde_json::to_string(&text).map_or(usize::MAX, |it| it.len());
            output.text = Some(text);
        }
        if KEPT_BYTES_MAX < kept_bytes {
            let message = format!(
                "{}: what is to be kept of the body is {kept_bytes} bytes, and a result holds \
                 at most {KEPT_BYTES_MAX}",
                self.name
            );
            return Err(TaskError::permanent(message).code("http.too_large"));
        }
        Ok(())
    }

    fn too_large(&self) -> TaskError {
        let message = format!("{}: the body is longer than {} bytes", self.name, self.limit);
        TaskError::permanent(message).code("http.too_large")
    }
}
