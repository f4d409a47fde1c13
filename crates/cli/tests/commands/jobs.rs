//! `taskloom submit` and `taskloom jobs`.

use serde_json::Value;

use crate::cli::{Cli, code_of};
use crate::server::Server;

const NOWHERE: &str = "http://127.0.0.1:9/";

fn state_of(cli: &Cli, id: &str) -> String {
    let shown = cli.json(&["jobs", "show", id]);
    shown["job"]["state"].as_str().unwrap().to_owned()
}

#[test]
fn a_submitted_job_is_durable_when_its_id_is_printed() {
    let cli = Cli::new();
    let id = cli.submit(NOWHERE, &["--queue", "web", "--priority", "7", "--key", "acme"]);
    let listed = cli.json(&["jobs", "list"]);
    let job = &listed["jobs"][0];
    assert_eq!((&job["id"], &job["task"]), (&id.into(), &"http".into()));
    assert_eq!((&job["queue"], &job["key"]), (&"web".into(), &"acme".into()));
    assert_eq!((&job["state"], &job["priority"]), (&"ready".into(), &7.into()));
    assert_eq!(job["args"]["url"], NOWHERE);
}

#[test]
fn submit_tells_of_a_duplicate() {
    let cli = Cli::new();
    let first = cli.submit(NOWHERE, &["--unique", "daily"]);
    assert_eq!(cli.submit(NOWHERE, &["--unique", "daily"]), format!("{first} (was there already)"));
    let again = cli.json(&["submit", "http", "--unique", "daily"]);
    assert_eq!((&again["id"], &again["duplicate"]), (&first.into(), &true.into()));
}

#[test]
fn submit_reads_its_arguments_from_a_file() {
    let cli = Cli::new();
    std::fs::write(cli.folder().join("args.json"), format!(r#"{{"url": "{NOWHERE}"}}"#)).unwrap();
    let id = cli.ok(&["submit", "http", "--args", "@args.json"]);
    assert_eq!(cli.json(&["jobs", "show", &id])["job"]["args"]["url"], NOWHERE);
}

#[test]
fn a_list_can_be_narrowed_and_paged() {
    let cli = Cli::new();
    let web: Vec<_> = (0..3).map(|_| cli.submit(NOWHERE, &["--queue", "web"])).collect();
    cli.submit(NOWHERE, &["--delay", "1h"]);
    let ids = |args: &[&str]| -> Vec<String> {
        let listed = cli.json(&[&["jobs", "list"], args].concat());
        let jobs = listed["jobs"].as_array().unwrap().iter();
        jobs.map(|it| it["id"].as_str().unwrap().to_owned()).collect()
    };
    let newest_first: Vec<_> = web.iter().rev().cloned().collect();
    assert_eq!(ids(&["--queue", "web"]), newest_first);
    assert_eq!(ids(&["--queue", "web", "--limit", "2"]), newest_first[..2]);
    assert_eq!(ids(&["--queue", "web", "--before", &newest_first[1]]), newest_first[2..]);
    assert_eq!(ids(&["--state", "delayed"]).len(), 1);
    assert_eq!(ids(&["--state", "ready", "--state", "delayed"]).len(), 4);
    assert!(ids(&["--task", "email"]).is_empty());
}

#[test]
fn a_piped_list_has_no_colours_and_no_frames() {
    let cli = Cli::new();
    assert!(cli.ok(&["jobs", "list"]).contains("no jobs here"));
    let id = cli.submit(NOWHERE, &[]);
    for args in [&["jobs", "list"][..], &["jobs", "show", &id]] {
        let out = cli.ok(args);
        assert!(out.contains(&id) && out.contains("ready"), "{out}");
        let is_plain = |it: char| it != '\x1b' && !('\u{2500}'..='\u{257f}').contains(&it);
        assert!(out.chars().all(is_plain), "{out:?}");
    }
}

#[test]
fn jobs_are_cancelled_and_retried() {
    let cli = Cli::new();
    let id = cli.submit(NOWHERE, &[]);
    assert_eq!(cli.ok(&["jobs", "cancel", &id]), format!("{id}  cancelled"));
    assert_eq!(state_of(&cli, &id), "cancelled");
    let refused = cli.run(&["jobs", "cancel", &id]);
    assert_eq!(refused.code, 1, "{refused:?}");
    let retried = cli.json(&["jobs", "retry", &id]);
    assert_eq!((&retried["id"], &retried["state"]), (&id.clone().into(), &"ready".into()));
    assert_eq!(cli.run(&["jobs", "retry", &id]).code, 1, "it has not ended");
    assert_eq!(state_of(&cli, &id), "ready");
}

#[test]
fn a_waiting_submit_prints_the_result() {
    let (cli, server) = (Cli::new(), Server::start());
    let _serving = cli.serve(&[]);
    let result = cli.submit(&server.url("/page/1"), &["--wait"]);
    let result: Value = serde_json::from_str(&result).unwrap();
    assert_eq!((&result["status"], &result["url"]), (&200.into(), &server.url("/page/1").into()));
    let failed = cli.run(&[
        "submit",
        "http",
        "--wait",
        "--args",
        &format!(r#"{{"url": "{}"}}"#, server.url("/missing/1")),
        "--json",
    ]);
    assert_eq!(failed.code, 1, "{failed:?}");
    let error: Value = serde_json::from_str(&failed.err).unwrap();
    assert_eq!(error["error"]["code"], "job.failed");
    assert!(error["error"]["message"].as_str().unwrap().contains("404"), "{error}");
    let shown = cli.json(&["jobs", "show", error["id"].as_str().unwrap()]);
    assert_eq!(shown["attempts"].as_array().unwrap().len(), 1, "a 404 is permanent");
    assert_eq!(shown["job"]["error"]["code"], "http.status.404");
    assert!(shown["logs"].is_array());
}

#[test]
fn a_waiting_submit_that_is_interrupted_leaves_the_job() {
    let (cli, server) = (Cli::new(), Server::start());
    let _serving = cli.serve(&[]);
    let args = format!(r#"{{"url": "{}"}}"#, server.url("/hold/1"));
    let mut waiting = cli.start(&["submit", "http", "--wait", "--args", &args]);
    server.wait_for("/hold/", 1);
    waiting.signal("INT");
    assert_eq!(code_of(waiting.end().0), 130);
    server.open();
    let id = cli.json(&["jobs", "list"])["jobs"][0]["id"].as_str().unwrap().to_owned();
    cli.ok(&["jobs", "watch", &id]);
    assert_eq!(state_of(&cli, &id), "succeeded");
}

#[test]
fn a_watch_follows_a_job_to_its_end() {
    let (cli, server) = (Cli::new(), Server::start());
    let good = cli.submit(&server.url("/hold/1"), &[]);
    let bad = cli.submit(&server.url("/missing/1"), &[]);
    let mut watching = cli.start(&["jobs", "watch", &good, &bad, "--json"]);
    for _ in 0..2 {
        let line: Value = serde_json::from_str(&watching.out.next().unwrap()).unwrap();
        assert_eq!(line["state"], "ready");
    }
    let _serving = cli.serve(&[]);
    watching.out.with("JobFailed");
    server.open();
    let last: Value = serde_json::from_str(&watching.out.with("JobSucceeded")).unwrap();
    assert_eq!((&last["id"], &last["attempt"]), (&good.clone().into(), &1.into()));
    assert_eq!(code_of(watching.end().0), 1, "one of them failed");
    assert!(cli.ok(&["jobs", "watch", &good]).contains("succeeded"), "it has ended already");
}

#[test]
fn a_watch_ends_with_an_interrupt() {
    let cli = Cli::new();
    let id = cli.submit(NOWHERE, &[]);
    let mut watching = cli.start(&["jobs", "watch", &id]);
    watching.out.with("ready");
    watching.signal("INT");
    assert_eq!(code_of(watching.end().0), 130);
}
