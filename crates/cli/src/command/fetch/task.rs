//! The task behind a fetch: `http` at a common rate.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use taskloom::tasks::http::Keep;
use taskloom::tasks::{Http, HttpArgs, HttpOutput};
use taskloom::{Ctx, Task, TaskError};
use taskloom_flow::{Rate, RateLimiter};

/// Fetches one URL of a list.
pub(super) struct FetchUrl {
    http: Http,
    limiter: Option<RateLimiter>,
    timeout: Duration,
    title: bool,
}

/// One URL of a list.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FetchUrlArgs {
    pub(super) line: usize,
    pub(super) url: String,
}

impl FetchUrl {
    pub(super) fn new(rate: Option<Rate>, timeout: Duration, title: bool) -> Self {
        let limiter = rate.map(|it| RateLimiter::new(it, 1));
        FetchUrl { http: Http::default(), limiter, timeout, title }
    }

    fn args(&self, url: &str) -> HttpArgs {
        let args = HttpArgs::get(url).timeout(self.timeout);
        if self.title { args.keep([Keep::Title]) } else { args }
    }

    /// Without a job.
    pub(super) async fn fetch_plain(&self, url: &str) -> Result<HttpOutput, TaskError> {
        self.fetch(&Ctx::detached(), url).await
    }

    async fn fetch(&self, ctx: &Ctx, url: &str) -> Result<HttpOutput, TaskError> {
        if let Some(limiter) = &self.limiter {
            tokio::select! {
                biased;
                () = ctx.cancelled() => return Err(TaskError::cancelled()),
                () = limiter.acquire() => {}
            }
        }
        self.http.run(ctx, self.args(url)).await
    }
}

impl Task for FetchUrl {
    const NAME: &'static str = "fetch_url";
    type Args = FetchUrlArgs;
    type Output = HttpOutput;

    async fn run(&self, ctx: &Ctx, args: FetchUrlArgs) -> Result<HttpOutput, TaskError> {
        self.fetch(ctx, &args.url).await
    }
}
