//! How a run ended: for people and for programs.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use taskloom::tasks::EmailOutput;
use taskloom::{JobId, JobView, StateName, Task as _, TaskSystem};

use super::folder::{Folder, messages};
use super::results::Results;
use super::server::Served;
use super::tasks::Report;
use super::workload::Run;
use crate::print;

/// How a run ended.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    run: u64,
    resumed: bool,
    jobs: BTreeMap<StateName, u64>,
    retries: u64,
    faults: Faults,
    results: Option<Results>,
    mails: usize,
    store: String,
    ms: u64,
    #[serde(skip)]
    n_caught: u64,
    /// The job that was tried most often.
    #[serde(skip)]
    hardest: Option<JobId>,
    /// What came otherwise than it must.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unexpected: Vec<String>,
}

/// What the server did to this process.
#[derive(Debug, Serialize)]
struct Faults {
    requests: u64,
    slow: u64,
    server_errors: u64,
    throttled: u64,
    resets: u64,
    missing: u64,
    broken: u64,
}

/// What happened in this process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) n_retries: u64,
    pub(super) served: Served,
    /// Messages caught.
    pub(super) n_caught: u64,
    pub(super) took: Duration,
}

impl Summary {
    /// Looks at everything a run left behind.
    ///
    /// # Errors
    /// When the store or the mail can't be read.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub(super) async fn of(
        run: &Run,
        system: &TaskSystem,
        folder: &Folder,
        seen: Seen,
    ) -> Result<Summary> {
        let views = run.views(system).await?;
        let mut unexpected = run.unexpected(&views);
        let mut jobs = BTreeMap::new();
        for view in &views {
            *jobs.entry(view.state).or_default() += 1;
        }
        let results = Results::read(&folder.results());
        match &results {
            Ok(results) => {
                let differing = results.differing(&Results::expected()?);
                let differ = |it| format!("results/{it} differs from data/expected.json");
                unexpected.extend(differing.into_iter().map(differ));
            }
            Err(error) => unexpected.push(format!("the results can't be read: {error}")),
        }
        let mails = n_mails(&views, folder)?;
        if mails == 0 {
            unexpected.push("the report is not in the mail".into());
        }
        Ok(Summary {
            run: run.number,
            resumed: run.resumed,
            jobs,
            retries: seen.n_retries,
            faults: Faults::new(seen.served),
            results: results.ok(),
            mails,
            store: format!("sqlite://{}", folder.shown("demo.db")),
            ms: u64::try_from(seen.took.as_millis()).unwrap_or(u64::MAX),
            n_caught: seen.n_caught,
            hardest: views.iter().max_by_key(|it| it.attempts).map(|it| it.id),
            unexpected,
        })
    }

    /// Whether everything came as it must, the failures that belong to the show included.
    pub(super) fn is_as_expected(&self) -> bool {
        self.unexpected.is_empty()
    }

    /// Prints it for people.
    pub(super) fn print(&self, folder: &Folder) -> Result<()> {
        if let Some(results) = &self.results {
            results.print()?;
        }
        let jobs: Vec<String> = self.jobs.iter().map(|(state, n)| format!("{n} {state}")).collect();
        let faults = &self.faults;
        let took = Duration::from_millis(self.ms);
        print::line("")?;
        let mut table = print::table(["run", &self.run.to_string()]);
        let mut row = |name: &str, value: String| {
            table.add_row([name.to_owned(), value]);
        };
        row("jobs", format!("{} (three pages are missing, one never works)", jobs.join(", ")));
        row("retries", self.retries.to_string());
        row("requests", faults.line());
        let (mails, n_caught) = (self.mails, self.n_caught);
        let mail = folder.shown("mail");
        row("mail", format!("{mails} with the report, {n_caught} caught just now, in {mail}"));
        row("results", folder.shown("results"));
        row("store", self.store.clone());
        row("took", format!("{took:.1?}"));
        print::line(table.to_string())?;
        for it in &self.unexpected {
            print::line(format!("unexpected: {it}"))?;
        }
        if self.is_as_expected() {
            print::line("Every result equals the value computed apart from this program.")?;
        }
        self.print_next(folder)
    }

    fn print_next(&self, folder: &Folder) -> Result<()> {
        let program = std::env::args().next().unwrap_or_else(|| "taskloom".into());
        let store = &self.store;
        print::line("\nTry next:")?;
        print::line(format!("  {program} --store '{store}' jobs list --state failed"))?;
        if let Some(id) = self.hardest {
            print::line(format!("  {program} --store '{store}' jobs show {id}"))?;
        }
        let folder = folder.shown("");
        let folder = folder.trim_end_matches('/');
        print::line(format!(
            "  {program} demo --folder '{folder}'  # kill -9 it midway: it goes on"
        ))
    }
}

impl Faults {
    fn new(served: Served) -> Faults {
        Faults {
            requests: served.n_requests,
            slow: served.n_slow,
            server_errors: served.n_server_errors,
            throttled: served.n_throttled,
            resets: served.n_resets,
            missing: served.n_missing,
            broken: served.n_broken,
        }
    }

    fn line(&self) -> String {
        let Faults { requests, slow, server_errors, throttled, resets, missing, broken } = self;
        let errors = server_errors + broken;
        format!(
            "{requests}: {slow} slow, {errors} status 500, {throttled} status 429, {resets} \
             connections reset, {missing} status 404"
        )
    }
}

/// How many copies of this run's report were caught: one, or two when the process died between
/// the mail and its commit.
fn n_mails(views: &[JobView], folder: &Folder) -> Result<usize> {
    let report = views.iter().find(|it| &*it.task == Report::NAME);
    let Some(result) = report.and_then(|it| it.result.as_ref()) else { return Ok(0) };
    let sent: EmailOutput = serde_json::from_str(result.get())?;
    let header = format!("Message-ID: {}", sent.message_id);
    let mut n = 0;
    for path in messages(&folder.mail()).context("can't read the mail")? {
        let message = fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
        n += usize::from(String::from_utf8_lossy(&message).contains(&header));
    }
    Ok(n)
}
