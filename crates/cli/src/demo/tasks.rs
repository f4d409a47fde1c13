//! The demo's own tasks, beside the built-in `data`: a download to a file, a page fetched by
//! `http`, a report sent by `email`.
//!
//! Their arguments name paths on the server, never its port: the server is a field of the task, so
//! that a job outlives the process whose server it first asked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use taskloom::tasks::email::{Attachment, Tls};
use taskloom::tasks::http::Keep;
use taskloom::tasks::{Email, EmailArgs, EmailOutput, Http, HttpArgs, HttpOutput};
use taskloom::{Ctx, Task, TaskError};
use taskloom_flow::RateLimiter;
use tokio::io::AsyncWriteExt as _;

use super::folder::unfinished;
use super::results::{ANSWERS, Results};
use super::server::Server;
use super::smtp::MailCatcher;

/// Downloads a file of recorded data.
#[derive(Debug)]
pub(super) struct Download {
    pub(super) client: reqwest::Client,
    pub(super) server: Server,
    /// Where files go.
    pub(super) folder: PathBuf,
}

/// Which file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct DownloadArgs {
    pub(super) file: String,
}

/// What was downloaded.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Downloaded {
    path: PathBuf,
    bytes: u64,
}

impl Task for Download {
    const NAME: &'static str = "demo_download";
    type Args = DownloadArgs;
    type Output = Downloaded;

    /// # Cancel safety
    /// Dropped, it leaves at most an unfinished file beside the one that was there.
    async fn run(&self, ctx: &Ctx, args: DownloadArgs) -> Result<Downloaded, TaskError> {
        if Path::new(&args.file).file_name().is_none_or(|it| it != args.file.as_str()) {
            let why = format!("`{}` is no plain name of a file", args.file);
            return Err(TaskError::permanent(why).code("demo.file"));
        }
        tokio::select! {
            biased;
            () = ctx.cancelled() => Err(TaskError::cancelled()),
            downloaded = self.download(&args.file) => downloaded,
        }
    }
}

impl Download {
    async fn download(&self, name: &str) -> Result<Downloaded, TaskError> {
        let url = self.server.url(&format!("/data/{name}"));
        let sent = self.client.get(&url).send().await;
        let response = sent.map_err(of_transport)?;
        let status = response.status();
        if !status.is_success() {
            return Err(of_status(status, response.headers()));
        }
        let (path, part) = (self.folder.join(name), self.folder.join(unfinished(name)));
        let bytes = write(response, &part).await?;
        tokio::fs::rename(&part, &path).await?;
        Ok(Downloaded { path, bytes })
    }
}

/// Writes the body to a file, and returns when it is on the disk.
async fn write(mut response: Response, path: &Path) -> Result<u64, TaskError> {
    let mut file = tokio::fs::File::create(path).await?;
    let mut bytes = 0;
    while let Some(chunk) = response.chunk().await.map_err(of_transport)? {
        bytes += chunk.len() as u64;
        file.write_all(&chunk).await?;
    }
    file.sync_all().await?;
    Ok(bytes)
}

fn of_transport(error: reqwest::Error) -> TaskError {
    TaskError::from(error.without_url()).code("http.transport")
}

/// As the task `http` has it: other statuses than these won't change with another attempt.
fn of_status(status: StatusCode, headers: &HeaderMap) -> TaskError {
    let error = TaskError::new(format!("the server answered {status}"))
        .code(format!("http.status.{}", status.as_u16()));
    if !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS {
        return error.into_permanent();
    }
    let asked = headers.get(RETRY_AFTER).and_then(|it| it.to_str().ok()?.parse().ok());
    match asked {
        Some(secs) => error.retry_after(Duration::from_secs(secs)),
        None => error,
    }
}

/// Fetches a page with the built-in `http`, at a rate that a polite crawler keeps.
pub(super) struct FetchPage {
    pub(super) http: Http,
    pub(super) limiter: RateLimiter,
    pub(super) server: Server,
}

/// Which page, and what is kept of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FetchPageArgs {
    pub(super) path: String,
    pub(super) keep: Vec<Keep>,
}

impl Task for FetchPage {
    const NAME: &'static str = "demo_fetch";
    type Args = FetchPageArgs;
    type Output = HttpOutput;

    async fn run(&self, ctx: &Ctx, args: FetchPageArgs) -> Result<HttpOutput, TaskError> {
        tokio::select! {
            biased;
            () = ctx.cancelled() => return Err(TaskError::cancelled()),
            () = self.limiter.acquire() => {}
        }
        let url = self.server.url(&args.path);
        self.http.run(ctx, HttpArgs::get(url).keep(args.keep)).await
    }
}

/// Sends the results of a run with the built-in `email`.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) email: Email,
    pub(super) catcher: MailCatcher,
    /// Where the results are.
    pub(super) folder: PathBuf,
}

/// Of which run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ReportArgs {
    pub(super) run: u64,
}

impl Task for Report {
    const NAME: &'static str = "demo_report";
    type Args = ReportArgs;
    type Output = EmailOutput;

    async fn run(&self, ctx: &Ctx, args: ReportArgs) -> Result<EmailOutput, TaskError> {
        let results = Results::read(&self.folder)?;
        let address = self.catcher.address();
        let from = "Taskloom demo <demo@taskloom.example>";
        let email = EmailArgs::new(address.ip().to_string(), from, "you@taskloom.example")
            .port(address.port())
            .tls(Tls::None)
            .subject(format!("Taskloom demo, run {}: delays, rain, earthquakes, birds", args.run))
            .text(results.text())
            .html(results.html());
        let email = ANSWERS.iter().fold(email, |email, name| {
            let attached = Attachment::file(self.folder.join(name));
            let media_type = Some("application/json".into());
            email.attach(Attachment { content_type: media_type, ..attached })
        });
        self.email.run(ctx, email).await
    }
}
