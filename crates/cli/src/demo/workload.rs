//! The workload: which jobs a run has, what must become of each, and how a run is begun or taken
//! up again.
//!
//! # Invariants
//! - The jobs of run 3 have the key `demo:3` and the unique texts `demo:3/NAME`. Names are the
//!   same in every run, so a run that was begun and never submitted whole is completed.
//! - A job that exists is never submitted again, whether it has ended or not.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use taskloom::tasks::http::Keep;
use taskloom::tasks::{Data, DataArgs, HttpOutput};
use taskloom::{
    Backoff, BlockingTask, Filter, Invocation, Jitter, JobId, JobView, Page, RetryPolicy,
    StateName, Task, TaskOptions, TaskSystem,
};

use super::folder::Folder;
use super::records;
use super::results::{ANSWERS, DELAYS, DELAYS_ALL, QUAKES, RAIN, RAIN_TENTHS, STRIKES};
use super::server::{BROKEN_PATH, MISSING_PATHS};
use super::tasks::{Download, DownloadArgs, FetchPage, FetchPageArgs, Report, ReportArgs};

/// Airports whose pages are fetched: those with the most flights in the recorded data.
const AIRPORTS: &str = "ABQ ATL AUS BDL BNA BOS BUR BWI CLE CLT CMH CVG DAL DCA DEN DFW DTW ELP \
    EWR FLL HNL HOU IAD IAH IND JAX JFK LAS LAX LGA MCI MCO MDW MEM MIA MSP MSY OAK OKC ONT ORD \
    PDX PHL PHX PIT PVD RDU RNO RSW SAN SAT SEA SFO SJC SJU SLC SMF SNA STL TPA";

/// Earthquakes that are fetched one by one.
const EARTHQUAKES: &str = "us1000chhc us1000cfn6 us2000crmu us1000cdn0 us1000ce9r us2000crtj";

/// The server fails twice in a row at most, but forgets how often when it starts anew.
const ATTEMPTS_MAX: u32 = 10;

/// How often what never works is tried.
const BROKEN_ATTEMPTS_MAX: u32 = 4;

/// One run of the workload.
#[derive(Debug)]
pub(super) struct Run {
    /// From 1.
    pub(super) number: u64,
    /// Whether an earlier process began it.
    pub(super) resumed: bool,
    jobs: Vec<(Planned, JobId)>,
}

/// A job of every run.
#[derive(Debug)]
struct Planned {
    name: String,
    after: Vec<&'static str>,
    expected: Expected,
    invocation: Invocation<serde_json::Value>,
}

/// What must become of a job.
#[derive(Debug)]
enum Expected {
    Succeeds,
    /// It succeeds and finds this title.
    Title(&'static str),
    /// It succeeds and finds the earthquake of this id.
    Quake(&'static str),
    /// It fails with this code.
    Fails(&'static str),
}

impl Run {
    /// Takes up the newest run if it is unfinished, else begins another.
    ///
    /// # Cancel safety
    /// A run that was begun is found again by the next call.
    pub(super) async fn take_up(system: &TaskSystem, folder: &Folder) -> Result<Run> {
        let newest = newest_run(system).await?;
        let mut number = newest.unwrap_or(1);
        let mut found = found_jobs(system, number).await?;
        let planned = plan(number, folder);
        let is_whole = planned.iter().all(|it| found.contains_key(&it.name));
        if newest.is_some() && is_whole && found.values().all(|(_, state)| state.is_ended()) {
            number += 1;
            found.clear();
        }
        let resumed = !found.is_empty();
        let mut known = found.into_iter().map(|(name, (id, _))| (name, id)).collect();
        submit(system, number, plan(number, folder), &mut known).await?;
        let with_id = |it: Planned| known.get(&it.name).map(|id| (it, *id));
        let jobs = plan(number, folder).into_iter().filter_map(with_id).collect();
        Ok(Run { number, resumed, jobs })
    }

    /// The jobs and what they are called.
    pub(super) fn names(&self) -> HashMap<JobId, String> {
        self.jobs.iter().map(|(planned, id)| (*id, planned.name.clone())).collect()
    }

    /// Every job as it is now.
    ///
    /// # Errors
    /// When the store can't be read, or a job is gone.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn views(&self, system: &TaskSystem) -> Result<Vec<JobView>> {
        let ids = self.jobs.iter().map(|(_, id)| *id).collect();
        let views = system.store().get(ids).await?;
        views.into_iter().collect::<Option<_>>().context("a job of the demo is gone from its store")
    }

    /// What came otherwise than it must, given [`Run::views`].
    pub(super) fn unexpected(&self, views: &[JobView]) -> Vec<String> {
        let mut unexpected = Vec::new();
        for ((planned, id), view) in self.jobs.iter().zip(views) {
            if !planned.expected.is_met(view) {
                let (name, state) = (&planned.name, view.state);
                let error = view.error.as_ref().map_or("", |it| &it.message);
                unexpected.push(format!("{name} ({id}) is {state} {error}").trim_end().to_owned());
            }
        }
        unexpected
    }
}

impl Expected {
    fn is_met(&self, view: &JobView) -> bool {
        let output = || -> Option<HttpOutput> {
            let result = view.result.as_ref().filter(|_| view.state == StateName::Succeeded)?;
            serde_json::from_str(result.get()).ok()
        };
        match self {
            Expected::Succeeds => view.state == StateName::Succeeded,
            Expected::Title(title) => output().is_some_and(|it| it.title.as_deref() == Some(title)),
            Expected::Quake(id) => {
                output().is_some_and(|it| it.json.is_some_and(|json| json["id"] == *id))
            }
            Expected::Fails(code) => {
                let said = view.error.as_ref().and_then(|it| it.code.as_deref());
                view.state == StateName::Failed && said == Some(code)
            }
        }
    }
}

/// Submits what is not known yet: first what waits for nothing, then what waits for that.
async fn submit(
    system: &TaskSystem,
    number: u64,
    planned: Vec<Planned>,
    known: &mut HashMap<String, JobId>,
) -> Result<()> {
    let mut left: Vec<Planned> =
        planned.into_iter().filter(|it| !known.contains_key(&it.name)).collect();
    while !left.is_empty() {
        let is_next = |it: &Planned| it.after.iter().all(|name| known.contains_key(*name));
        let (next, later): (Vec<_>, Vec<_>) = left.into_iter().partition(is_next);
        anyhow::ensure!(!next.is_empty(), "the plan of the demo waits for itself");
        let mut names = Vec::new();
        let mut invocations = Vec::new();
        for it in next {
            let after: Vec<JobId> =
                it.after.iter().filter_map(|name| known.get(*name)).copied().collect();
            let unique = format!("{}/{}", key(number), it.name);
            invocations.push(it.invocation.key(key(number)).unique(unique).after(after));
            names.push(it.name);
        }
        let handles = system.submit(invocations).await?;
        known.extend(names.into_iter().zip(handles.iter().map(taskloom::JobHandle::id)));
        left = later;
    }
    Ok(())
}

fn key(number: u64) -> String {
    format!("demo:{number}")
}

async fn newest_run(system: &TaskSystem) -> Result<Option<u64>> {
    let mut page = Page { before: None, limit: Page::LIMIT_MAX };
    loop {
        let listed = system.store().list(Filter::default(), page).await?;
        let number = |it: &JobView| it.key.as_deref()?.strip_prefix("demo:")?.parse().ok();
        if let Some(number) = listed.jobs.iter().find_map(number) {
            return Ok(Some(number));
        }
        let Some(next) = listed.next else { return Ok(None) };
        page.before = Some(next);
    }
}

/// The jobs of a run, by name.
async fn found_jobs(
    system: &TaskSystem,
    number: u64,
) -> Result<HashMap<String, (JobId, StateName)>> {
    let filter = Filter { key: Some(key(number)), ..Filter::default() };
    let prefix = format!("{}/", key(number));
    let mut page = Page { before: None, limit: Page::LIMIT_MAX };
    let mut found = HashMap::new();
    loop {
        let listed = system.store().list(filter.clone(), page).await?;
        for it in listed.jobs {
            if let Some(name) = it.unique.as_deref().and_then(|it| it.strip_prefix(&prefix)) {
                found.insert(name.to_owned(), (it.id, it.state));
            }
        }
        let Some(next) = listed.next else { return Ok(found) };
        page.before = Some(next);
    }
}

/// Every job of a run.
fn plan(number: u64, folder: &Folder) -> Vec<Planned> {
    let mut plan: Vec<Planned> = Vec::new();
    for it in records::FILES {
        plan.push(download(it.name, Expected::Succeeds));
    }
    for path in MISSING_PATHS {
        let expected = Expected::Fails("http.status.404");
        plan.push(match path.strip_prefix("/data/") {
            Some(file) => download(file, expected),
            None => fetch(path, Keep::Status, expected),
        });
    }
    let mut broken = fetch(BROKEN_PATH, Keep::Status, Expected::Fails("http.status.500"));
    broken.invocation = broken.invocation.max_attempts(BROKEN_ATTEMPTS_MAX);
    plan.push(broken);
    let titles = records::airport_titles();
    for it in AIRPORTS.split_ascii_whitespace() {
        let title = titles.get(it).map_or("", String::as_str);
        plan.push(fetch(&format!("/airports/{it}"), Keep::Title, Expected::Title(title)));
    }
    for it in EARTHQUAKES.split_ascii_whitespace() {
        plan.push(fetch(&format!("/quakes/{it}"), Keep::Json, Expected::Quake(it)));
    }
    plan.extend(analyses(&folder.data(), &folder.results()));
    let report = invocation::<Report>(&ReportArgs { run: number }).priority(9);
    plan.push(Planned::new("report", report).after(ANSWERS));
    plan
}

/// The `data` jobs, each named by the file it writes.
fn analyses(data: &Path, results: &Path) -> [Planned; 6] {
    let job = |name: &'static str, input: &Path, args: fn(DataArgs) -> DataArgs| {
        let args = args(DataArgs::new(input)).output(results.join(name));
        let options = TaskOptions { retry: retry(), ..Data::default().options() };
        Planned::new(name, Invocation::new(Data::NAME, options, &args))
    };
    let delays_all = job(DELAYS_ALL, &data.join("flights-20k.json"), |it| {
        it.group_by(["origin"])
            .aggregate("count", "count()")
            .aggregate("total_delay", "sum(delay)")
            .aggregate("mean_delay", "mean(delay)")
            .aggregate("max_delay", "max(delay)")
            .sort_by("mean_delay")
            .descending()
    });
    let delays = job(DELAYS, &results.join(DELAYS_ALL), |it| {
        it.filter(".count >= 50")
            .map(".mean_delay = (.total_delay * 100 / .count | round / 100) | del(.total_delay)")
            .limit(10)
    });
    let rain_tenths = job(RAIN_TENTHS, &data.join("weather.csv"), |it| {
        it.map("{location, month: .date[:7], tenths: (.precipitation * 10 | round)}")
            .group_by(["location", "month"])
            .aggregate("tenths", "sum(tenths)")
    });
    let rain = job(RAIN, &results.join(RAIN_TENTHS), |it| {
        it.map(".rain_mm = .tenths / 10 | del(.tenths)")
    });
    // The field `order` breaks ties: without it, equals would stand as they do in the file.
    let quakes = job(QUAKES, &data.join("earthquakes.json"), |it| {
        it.path("features")
            .filter(".properties.mag != null")
            .map(
                "{id, mag: .properties.mag, place: .properties.place, time: .properties.time} \
                 | .order = [-.mag, .id]",
            )
            .sort_by("order")
            .limit(10)
    });
    let strikes = job(STRIKES, &data.join("birdstrikes.csv"), |it| {
        it.map(
            r#"{cost: .["Cost Total $"], airport: .["Airport Name"], date: .["Flight Date"],
                species: .["Wildlife Species"], operator: .["Aircraft Airline Operator"]}
               | .order = [-.cost, .date, .airport, .species]"#,
        )
        .sort_by("order")
        .limit(10)
    });
    [
        delays_all.after(["download/flights-20k.json"]),
        delays.after([DELAYS_ALL]),
        rain_tenths.after(["download/weather.csv"]),
        rain.after([RAIN_TENTHS]),
        quakes.after(["download/earthquakes.json"]),
        strikes.after(["download/birdstrikes.csv"]),
    ]
}

impl Planned {
    fn new(name: impl Into<String>, invocation: Invocation<serde_json::Value>) -> Planned {
        Planned { name: name.into(), after: Vec::new(), expected: Expected::Succeeds, invocation }
    }

    fn after(self, names: impl Into<Vec<&'static str>>) -> Planned {
        Planned { after: names.into(), ..self }
    }
}

fn download(file: &str, expected: Expected) -> Planned {
    let invocation = invocation::<Download>(&DownloadArgs { file: file.to_owned() }).priority(5);
    Planned { expected, ..Planned::new(format!("download/{file}"), invocation) }
}

fn fetch(path: &str, keep: Keep, expected: Expected) -> Planned {
    let args = FetchPageArgs { path: path.to_owned(), keep: vec![keep] };
    Planned { expected, ..Planned::new(format!("fetch{path}"), invocation::<FetchPage>(&args)) }
}

fn invocation<T: Task>(args: &impl Serialize) -> Invocation<serde_json::Value> {
    let options = TaskOptions { retry: retry(), ..TaskOptions::default() };
    Invocation::new(T::NAME, options, args)
}

/// Quick, so that the demo is short.
fn retry() -> RetryPolicy {
    let backoff = Backoff {
        delay_first: Duration::from_millis(400),
        factor: 2.0,
        delay_max: Duration::from_secs(3),
        jitter: Jitter::Full,
    };
    RetryPolicy { max_attempts: ATTEMPTS_MAX, backoff }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_job_waits_for_jobs_of_the_plan_and_has_a_name_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let plan = plan(1, &Folder::open(root.path(), false).unwrap());
        let names: HashSet<&str> = plan.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names.len(), plan.len());
        for it in plan.iter().flat_map(|it| &it.after) {
            assert!(names.contains(it), "{it} is no job");
        }
    }

    #[test]
    fn every_airport_of_the_plan_has_a_page() {
        let airports: Vec<&str> = AIRPORTS.split_ascii_whitespace().collect();
        assert_eq!(airports.len(), 60);
        assert!(airports.iter().all(|it| records::airport_titles().contains_key(*it)));
    }
}
