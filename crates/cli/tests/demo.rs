//! The demo, as a user runs it: what it finds out, what it survives, what it leaves behind.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

/// How many jobs fail on purpose: three pages that are missing, and one that never works.
const FAILED: u64 = 4;

/// A folder for a demo.
struct Demo {
    folder: TempDir,
}

impl Demo {
    fn new() -> Demo {
        Demo { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, options: &[&str]) -> Command {
        let mut command = taskloom();
        command
            .args(["demo", "--once", "--json", "--folder"])
            .arg(self.folder.path())
            .args(options);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn start(&self) -> Child {
        self.command(&[]).spawn().unwrap()
    }

    /// What a demo that exits well says.
    #[track_caller]
    fn run(&self, options: &[&str]) -> Value {
        let output = self.command(options).output().unwrap();
        let (said, errors) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{}: {said}\n{errors}", output.status);
        assert_eq!(said.lines().count(), 1, "{said}");
        serde_json::from_str(&said).unwrap()
    }

    /// Every job of the store, by id.
    fn jobs(&self) -> BTreeMap<String, Value> {
        if !self.path("demo.db").exists() {
            return BTreeMap::new();
        }
        let store = format!("sqlite://{}", self.path("demo.db").display());
        let mut list = taskloom();
        list.args(["--json", "--store", &store, "jobs", "list", "--limit", "1000"]);
        let output = list.output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
        let jobs = listed["jobs"].as_array().unwrap().iter();
        jobs.map(|it| (it["id"].as_str().unwrap().to_owned(), it.clone())).collect()
    }

    fn ended(&self) -> BTreeMap<String, Value> {
        let mut jobs = self.jobs();
        jobs.retain(|_, it| !it["ended"].is_null());
        jobs
    }

    /// Kills the demo when so many jobs have ended.
    fn kill_after(&self, n_ended: usize) {
        let mut demo = self.start();
        while self.ended().len() < n_ended {
            assert!(demo.try_wait().unwrap().is_none(), "the demo ended before it was killed");
            thread::yield_now();
        }
        // SIGKILL: nothing is said good-bye to.
        demo.kill().unwrap();
        demo.wait().unwrap();
    }

    fn mails(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("mail")).unwrap();
        entries.map(|it| text(&fs::read(it.unwrap().path()).unwrap())).collect()
    }
}

fn taskloom() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taskloom"));
    command.env_remove("TASKLOOM_STORE").env_remove("TASKLOOM_LOG");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The values that `data/expected.py` computed, as the demo tells them.
fn expected() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/expected.json");
    let expected: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let mut rain = Vec::new();
    for (location, months) in expected["weather"]["monthly_rain_mm"].as_object().unwrap() {
        for (month, rain_mm) in months.as_object().unwrap() {
            rain.push(json!({"location": location, "month": month, "rain_mm": rain_mm}));
        }
    }
    json!({
        "delay_by_airport": expected["flights"]["worst_10_with_50_flights"],
        "monthly_rain": rain,
        "strongest_quakes": expected["earthquakes"]["strongest_10"],
        "costliest_strikes": expected["birdstrikes"]["costliest_10"],
    })
}

/// Equal, where 6 and 6.0 are one number.
#[track_caller]
fn check_same(found: &Value, expected: &Value) {
    match (found, expected) {
        (Value::Array(found), Value::Array(expected)) => {
            assert_eq!(found.len(), expected.len());
            found.iter().zip(expected).for_each(|(found, expected)| check_same(found, expected));
        }
        (Value::Object(found), Value::Object(expected)) => {
            assert!(found.keys().eq(expected.keys()), "{found:?} is not {expected:?}");
            found.iter().for_each(|(name, found)| check_same(found, &expected[name]));
        }
        (Value::Number(found), Value::Number(expected)) => {
            assert_eq!(found.as_f64(), expected.as_f64());
        }
        (found, expected) => assert_eq!(found, expected),
    }
}

#[track_caller]
fn check_is_complete(summary: &Value) {
    check_same(&summary["results"], &expected());
    let states: Vec<&String> = summary["jobs"].as_object().unwrap().keys().collect();
    assert_eq!(states, ["failed", "succeeded"], "{summary}");
    assert_eq!(summary["jobs"]["failed"], FAILED);
    assert_eq!(summary["unexpected"], Value::Null);
}

#[test]
fn a_bad_day_changes_no_result() {
    let demo = Demo::new();
    let summary = demo.run(&[]);
    check_is_complete(&summary);
    assert_eq!((&summary["run"], &summary["resumed"]), (&json!(1), &json!(false)));
    for fault in ["slow", "server_errors", "throttled", "resets", "missing", "broken"] {
        assert!(0 < summary["faults"][fault].as_u64().unwrap(), "{fault}: {summary}");
    }
    assert!(10 < summary["retries"].as_u64().unwrap(), "{summary}");
}

#[test]
fn a_killed_demo_goes_on_and_runs_no_ended_job_again() {
    let demo = Demo::new();
    demo.kill_after(15);
    let ended = demo.ended();
    assert!(ended.len() < 75, "it was killed too late: {} jobs had ended", ended.len());
    let summary = demo.run(&[]);
    check_is_complete(&summary);
    assert_eq!((&summary["run"], &summary["resumed"]), (&json!(1), &json!(true)));
    let jobs = demo.jobs();
    assert!(jobs.values().all(|it| !it["ended"].is_null()));
    for (id, before) in ended {
        assert_eq!(jobs[&id], before, "an ended job changed");
    }
    let mut names: Vec<_> = jobs.values().map(|it| it["unique"].as_str().unwrap()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), jobs.len(), "a job was submitted twice");
}

#[test]
fn a_demo_killed_at_once_goes_on_as_well() {
    let demo = Demo::new();
    demo.kill_after(1);
    check_is_complete(&demo.run(&["--no-faults"]));
}

#[test]
fn without_faults_only_what_never_works_is_retried() {
    let demo = Demo::new();
    let summary = demo.run(&["--no-faults"]);
    check_is_complete(&summary);
    assert_eq!(summary["retries"], 3);
    for fault in ["slow", "server_errors", "throttled", "resets"] {
        assert_eq!(summary["faults"][fault], 0);
    }
    let again = demo.run(&["--no-faults"]);
    assert_eq!((&again["run"], &again["resumed"]), (&json!(2), &json!(false)));
    fs::write(demo.path("data/mine.csv"), "kept").unwrap();
    let fresh = demo.run(&["--no-faults", "--fresh"]);
    assert_eq!(fresh["run"], 1);
    assert_eq!(demo.mails().len(), 1);
    assert!(demo.path("data/mine.csv").exists());
}

#[test]
fn the_report_is_in_the_mail() {
    let demo = Demo::new();
    let summary = demo.run(&["--no-faults"]);
    assert_eq!(summary["mails"], 1);
    let mails = demo.mails();
    let [mail] = mails.as_slice() else { panic!("there are {} mails", mails.len()) };
    let report = demo.jobs().into_values().find(|it| it["task"] == "demo_report").unwrap();
    let message_id = report["result"]["message_id"].as_str().unwrap();
    assert!(mail.contains(&format!("Message-ID: {message_id}")), "{mail}");
    for part in ["JFK", "Hualian, Taiwan", "delay_by_airport.json"] {
        assert!(mail.contains(part), "{part} is not in {mail}");
    }
}

#[test]
fn a_person_is_shown_results_and_what_to_try_next() {
    let demo = Demo::new();
    let folder = demo.folder.path().to_str().unwrap();
    let output = taskloom().args(["demo", "--once", "--folder", folder]).output().unwrap();
    let (said, told) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}\n{told}");
    for part in ["JFK", "Strongest earthquakes", "jobs list --state failed"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    for part in ["retrying  fetch/", "failed    fetch/broken  attempt 4", "succeeded report"] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
}

#[cfg(unix)]
#[test]
fn an_interrupted_demo_gives_its_jobs_back_and_says_how_to_go_on() {
    let demo = Demo::new();
    let child = demo.start();
    while demo.ended().len() < 5 {
        thread::yield_now();
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(text(&output.stderr).contains("the same command goes on"));
    assert!(output.stdout.is_empty());
    assert!(demo.jobs().values().all(|it| it["state"] != "running"));
}
