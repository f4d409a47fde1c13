//! The task `http`: one HTTP request, and what is worth keeping of its answer.
//!
//! # Errors
//! Transient, so that the retry policy decides: transport errors (`http.dns`, `http.connect`,
//! `http.tls`, `http.reset`, `http.timeout`, `http.transport`) and the statuses 408, 425, 429
//! and 5xx (`http.status.NNN`), whose `Retry-After` is honoured up to a day.
//! Permanent: every other unexpected status, `http.url`, `http.args`, `http.redirects`,
//! `http.too_large`, `http.json` and `http.client`.

mod answer;
mod args;
mod charset;
mod errors;
mod title;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use taskloom_dispatch::{Ctx, Task, TaskError, TaskOptions};

pub use answer::HttpOutput;
pub use args::{HttpArgs, Keep};

use args::Request;

tokio::task_local! {
    /// How many redirects the request of this attempt may follow: the client is shared by all
    /// attempts, and its policy reads the limit of the one that polls it.
    static REDIRECTS_MAX: usize;
}

/// The task `http`. Its attempts share one client, and so its pool of connections.
pub struct Http {
    client: OnceLock<reqwest::Client>,
    now: fn() -> Timestamp,
}

impl Default for Http {
    fn default() -> Self {
        Http::with_clock(Timestamp::now)
    }
}

impl Http {
    /// Reads the time from `now`: it turns a `Retry-After` date into a delay when the server
    /// doesn't say what time it believes it is.
    #[must_use]
    pub fn with_clock(now: fn() -> Timestamp) -> Self {
        Http { client: OnceLock::new(), now }
    }

    /// Sends requests through `client`, instead of one with the default settings. Its redirect
    /// policy then holds, and the argument `redirects` doesn't.
    #[must_use]
    pub fn with_client(client: reqwest::Client) -> Self {
        let http = Http::default();
        http.client.set(client).ok();
        http
    }

    fn client(&self) -> Result<&reqwest::Client, TaskError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        crate::install_tls_provider();
        let built = reqwest::Client::builder()
            .user_agent(concat!("taskloom/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(30))
            .pool_idle_timeout(Duration::from_secs(60))
            .redirect(reqwest::redirect::Policy::custom(follow))
            .build();
        let client =
            built.map_err(|error| TaskError::from(error).into_permanent().code("http.client"))?;
        Ok(self.client.get_or_init(|| client))
    }
}

/// What to do with a redirect, by the limit of the request that met it.
fn follow(attempt: reqwest::redirect::Attempt<'_>) -> reqwest::redirect::Action {
    let limit = REDIRECTS_MAX.try_with(|it| *it).unwrap_or(HttpArgs::REDIRECTS_DEFAULT);
    if limit == 0 {
        return attempt.stop();
    }
    if limit < attempt.previous().len() {
        return attempt.error(errors::TooManyRedirects { limit });
    }
    attempt.follow()
}

impl Task for Http {
    const NAME: &'static str = "http";
    type Args = HttpArgs;
    type Output = HttpOutput;

    fn options(&self) -> TaskOptions {
        TaskOptions::default()
    }

    /// # Cancel safety
    /// Dropping it closes the connection; the server may have seen the request.
    async fn run(&self, ctx: &Ctx, args: HttpArgs) -> Result<HttpOutput, TaskError> {
        let request = Request::check(args, ctx.idempotency_key())?;
        let client = self.client()?;
        let redirects_max = request.redirects;
        let exchange = REDIRECTS_MAX.scope(redirects_max, self.exchange(client, request));
        tokio::select! {
            biased;
            () = ctx.cancelled() => Err(TaskError::cancelled()),
            ended = exchange => ended,
        }
    }
}

impl Http {
    /// # Cancel safety
    /// As [`Http::run`].
    async fn exchange(
        &self,
        client: &reqwest::Client,
        request: Request,
    ) -> Result<HttpOutput, TaskError> {
        let begun = Instant::now();
        let name = request.name();
        let mut builder = client
            .request(request.method, request.url)
            .headers(request.headers)
            .timeout(request.timeout);
        if let Some(body) = request.body {
            builder = builder.body(body);
        }
        let sent = builder.send().await;
        let response = sent.map_err(|error| errors::of_transport(&name, error))?;
        let status = response.status();
        let expected = match request.expect.as_slice() {
            [] => status.is_success(),
            listed => listed.contains(&status.as_u16()),
        };
        if !expected {
            return Err(errors::of_status(&name, status, response.headers(), self.now));
        }
        let wanted = answer::Wanted { keep: &request.keep, limit: request.limit, name: &name };
        let mut output = answer::read(response, wanted).await?;
        output.ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(output)
    }
}
