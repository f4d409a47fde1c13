//! `taskloom bench`: it tells every number, and leaves nothing behind.

use serde_json::Value;

use crate::cli::Cli;
use crate::database::server;

/// What is there, at a path of keys.
#[track_caller]
fn check_numbers(report: &Value, keys: &[&str]) {
    for key in keys {
        let value = key.split('.').fold(report, |it, key| &it[key]);
        let number = value.as_f64().unwrap_or_else(|| panic!("no number {key}: {report}"));
        assert!(0.0 < number, "{key} of {report}");
    }
}

const LIFECYCLE: [&str; 16] = [
    "jobs",
    "args_bytes",
    "workers",
    "jobs_per_s",
    "drain_per_s",
    "cpu_us_per_job",
    "commits_per_job",
    "concurrent_submits_per_s",
    "rss_peak_mb",
    "submit_to_start_ms.p50",
    "submit_to_start_ms.p95",
    "submit_to_start_ms.p99",
    "submit_to_done_ms.p99",
    "submit_ms.p50",
    "submit_ms.p95",
    "submit_ms.p99",
];

#[test]
fn a_bench_on_a_file_tells_every_number() {
    let cli = Cli::new();
    let report = cli.json(&["bench", "--jobs", "1000"]);
    check_numbers(&report, &LIFECYCLE);
    assert!(report["start_after_submit_ms"]["p50"].is_number(), "{report}");
    assert_eq!((&report["jobs"], &report["synchronous"]), (&1000.into(), &"full".into()));
    let report = cli.json(&["bench", "--jobs", "500", "--processes", "2", "--task-ms", "1"]);
    check_numbers(&report, &["processes", "jobs_per_s", "task_ms"]);
    let report = cli.json(&["bench", "--backlog", "3000"]);
    check_numbers(&report, &["claim_ms.p50", "claim_ms.p99", "submits_per_s"]);
    let answer = cli.run(&["bench", "--hold", "10"]);
    assert!(answer.code == 2 && answer.err.contains("--hold is about PostgreSQL"), "{answer:?}");
    let left = std::fs::read_dir(cli.folder()).unwrap().count();
    assert_eq!(left, 0, "its temporary folder is gone");
}

#[test]
fn a_bench_on_a_server_tells_what_the_server_used_and_drops_what_it_made() {
    let (server, url) = server();
    let cli = Cli::with_store(&url);
    let report = cli.json(&["bench", "--jobs", "1000"]);
    check_numbers(&report, &LIFECYCLE);
    let used = ["cpu_us", "wal_bytes", "commits"];
    for of in ["server_per_job", "server_per_submit"] {
        check_numbers(&report[of], &used);
    }
    let report = cli.json(&["bench", "--jobs", "500", "--processes", "2"]);
    check_numbers(&report, &["processes", "jobs_per_s", "server_per_job.cpu_us"]);
    let report = cli.json(&["bench", "--backlog", "3000"]);
    check_numbers(&report, &["claim_ms.p50", "claim_ms.p99"]);
    let is_gone = "SELECT to_regnamespace('taskloom') IS NULL";
    assert_eq!(server.psql("db0", is_gone).unwrap(), "t");
    cli.submit("http://127.0.0.1:1/", &[]);
    let answer = cli.run(&["bench"]);
    assert_eq!(answer.code, 2, "{answer:?}");
    assert!(answer.err.contains("has a schema taskloom already"), "{answer:?}");
    assert_eq!(cli.json(&["jobs", "list"])["jobs"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_held_transaction_makes_a_table() {
    let (_server, url) = server();
    let report = Cli::with_store(&url).json(&["bench", "--workers", "50", "--hold", "5"]);
    let windows = report["windows"].as_array().unwrap();
    let held: Vec<_> = windows.iter().map(|it| it["is_held"].as_bool().unwrap()).collect();
    assert_eq!(held, [false, true]);
    for window in windows {
        check_numbers(window, &["jobs_per_s", "claim_ms.p50", "server_us_per_job"]);
    }
}
