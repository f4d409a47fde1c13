//! What became of a fetch: a line as each URL ends, a table, a summary.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use taskloom::JobError;
use taskloom::tasks::HttpOutput;

use crate::print;

/// What became of one URL.
#[derive(Debug, Serialize)]
pub(super) struct Fetched {
    /// Its place in the list, from 0.
    pub(super) line: usize,
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fetched: Option<HttpOutput>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Cause>,
}

#[derive(Debug, Serialize)]
struct Cause {
    code: String,
    message: String,
}

impl Fetched {
    pub(super) fn new((line, url): (usize, String), result: Result<HttpOutput, JobError>) -> Self {
        match result {
            Ok(fetched) => Fetched { line, url, fetched: Some(fetched), error: None },
            Err(error) => Fetched { line, url, fetched: None, error: Some(Cause::of(&error)) },
        }
    }

    /// As it ends.
    pub(super) fn line(&self) -> String {
        match (&self.fetched, &self.error) {
            (Some(it), _) => {
                let title = it.title.as_deref().map(|it| print::short(it, 60)).unwrap_or_default();
                format!("ok    {}  {}  {} B  {} ms  {title}", self.url, it.status, it.length, it.ms)
            }
            (None, error) => {
                let cause = error.as_ref().map_or("", |it| &it.message);
                format!("error {}  {}", self.url, print::short(cause, 100))
            }
        }
    }
}

impl Cause {
    fn of(error: &JobError) -> Cause {
        if let JobError::Failed { error: Some(attempt), .. } = error {
            let code = attempt.code.clone().unwrap_or_else(|| error.code().to_owned());
            return Cause { code, message: attempt.message.clone() };
        }
        Cause { code: error.code().to_owned(), message: error.to_string() }
    }
}

/// What became of all.
#[derive(Debug)]
pub(super) struct Report {
    fetched: Vec<Fetched>,
    took: Duration,
    one_by_one: Option<Duration>,
}

#[derive(Debug, Serialize)]
pub(super) struct Summary {
    total: usize,
    succeeded: usize,
    failed: BTreeMap<String, usize>,
    ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    one_by_one_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    speed_up: Option<f64>,
}

impl Report {
    pub(super) fn new(
        fetched: Vec<Fetched>,
        took: Duration,
        one_by_one: Option<Duration>,
    ) -> Report {
        Report { fetched, took, one_by_one }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.fetched.iter().any(|it| it.error.is_some())
    }

    pub(super) fn summary(&self) -> Summary {
        let mut failed = BTreeMap::new();
        for cause in self.fetched.iter().filter_map(|it| it.error.as_ref()) {
            *failed.entry(cause.code.clone()).or_default() += 1;
        }
        let millis = |it: Duration| u64::try_from(it.as_millis()).unwrap_or(u64::MAX);
        let speed_up = self.one_by_one.map(|it| {
            let ratio = it.as_secs_f64() / self.took.as_secs_f64().max(0.001);
            (ratio * 10.0).round() / 10.0
        });
        Summary {
            total: self.fetched.len(),
            succeeded: self.fetched.iter().filter(|it| it.fetched.is_some()).count(),
            failed,
            ms: millis(self.took),
            one_by_one_ms: self.one_by_one.map(millis),
            speed_up,
        }
    }

    pub(super) fn print(&self) -> Result<()> {
        let mut table = print::table(["url", "status", "bytes", "ms", "title or error"]);
        for it in &self.fetched {
            let url = print::short(&it.url, 60);
            table.add_row(match (&it.fetched, &it.error) {
                (Some(ok), _) => vec![
                    url,
                    ok.status.to_string(),
                    print::grouped(ok.length),
                    ok.ms.to_string(),
                    ok.title.as_deref().map(|it| print::short(it, 60)).unwrap_or_default(),
                ],
                (None, error) => {
                    let code = error.as_ref().map_or("", |it| &it.code);
                    vec![url, "-".into(), "-".into(), "-".into(), code.to_owned()]
                }
            });
        }
        print::line(table.to_string())?;
        let summary = self.summary();
        let (total, succeeded) = (summary.total, summary.succeeded);
        let n_failed = total - succeeded;
        let took = self.took;
        print::line(format!("{total} URLs: {succeeded} succeeded, {n_failed} failed, {took:.1?}"))?;
        for (code, n) in &summary.failed {
            print::line(format!("  {n} × {code}"))?;
        }
        if let (Some(one_by_one), Some(speed_up)) = (self.one_by_one, summary.speed_up) {
            print::line(format!("one by one {one_by_one:.1?}: {speed_up} times as fast"))?;
        }
        Ok(())
    }
}
