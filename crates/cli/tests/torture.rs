//! `taskloom torture`: it holds, it can be seen to fail, and what was killed runs again soon.

#[expect(dead_code, reason = "the tests of the other commands need more of it")]
#[path = "support/cli.rs"]
mod cli;
#[path = "support/database.rs"]
mod database;
#[path = "support/child.rs"]
mod process;

use std::time::{Duration, Instant};

use cli::{Answer, Cli, code_of};
use database::server;
use process::Running;
use serde_json::Value;

/// How many jobs a process holds when the speed of their rescue is measured: one a slot.
const N_HELD: usize = 50;

fn left(cli: &Cli) -> Vec<String> {
    let entries = std::fs::read_dir(cli.folder()).expect("it is there");
    entries.map(|it| it.expect("it reads").file_name().to_string_lossy().into_owned()).collect()
}

fn tortured(cli: &Cli, args: &[&str]) -> (Answer, Value) {
    let answer = cli.run(&[&["torture", "--json"], args].concat());
    let report = serde_json::from_str(&answer.out);
    let report = report.unwrap_or_else(|error| panic!("{error}: {answer:?}"));
    (answer, report)
}

/// Tortures for a while, and checks what must hold whatever the store is.
fn check_torture(cli: &Cli, args: &[&str], faults: &[&str]) {
    let (answer, report) = tortured(cli, &[&["--workers", "3", "--seed", "3"], args].concat());
    println!("{report:#}");
    assert_eq!(answer.code, 0, "{report:#}");
    let n = |key: &str| report[key].as_u64().unwrap_or_else(|| panic!("{key} of {report:#}"));
    assert_eq!((n("lost"), n("unexplained"), n("seed"), n("workers")), (0, 0, 3, 3));
    assert_eq!(
        (&report["breaches"], &report["broken"]),
        (&Value::from([0; 0]), &Value::from([0; 0]))
    );
    let n_ended = n("finished") + n("cancelled") + n("quarantined");
    // What nobody was told of may have ended without a note.
    assert!(
        n("accepted") <= n_ended && n_ended <= n("accepted") + n("unacknowledged"),
        "{report:#}"
    );
    // There was something to lose, and something was done.
    assert!(500 < n("finished") && 0 < n("cancelled"), "{report:#}");
    for fault in faults {
        assert!(0 < report["faults"][fault].as_u64().unwrap_or(0), "no {fault}: {report:#}");
    }
    for cause in ["killed", "errored as told", "timed out as told"] {
        assert!(0 < report["causes"][cause].as_u64().unwrap_or(0), "no {cause}: {report:#}");
    }
    assert_eq!(left(cli), Vec::<String>::new(), "all promises held, and nothing is kept");
}

#[test]
fn nothing_is_lost_on_a_file_whatever_is_done() {
    let faults = ["kill", "pause", "drain", "hold", "disk_full"];
    check_torture(&Cli::without_store(), &["--seconds", "15"], &faults);
}

/// `scripts/test` tortures a server of its own, for longer; this one is somebody else's.
#[test]
fn nothing_is_lost_on_a_server_whatever_is_done() {
    let (_server, url) = server();
    let faults = ["kill", "pause", "drain", "cut", "cut_all", "hold_rows", "hold_snapshot"];
    check_torture(&Cli::without_store(), &["--seconds", "15", "--store", &url], &faults);
}

#[track_caller]
fn check_found_out(sabotage: &str, counted: &str, says: &str) {
    let cli = Cli::without_store();
    let args = ["--workers", "1", "--seconds", "1", "--seed", "7", "--sabotage", sabotage];
    let (answer, report) = tortured(&cli, &args);
    assert_eq!((answer.code, &report["seed"]), (1, &7.into()), "{report:#}");
    let broken = report["broken"].as_array().expect("a list");
    assert!(0 < report[counted].as_u64().expect("a number") && !broken.is_empty(), "{report:#}");
    let is_told = |it: &&Value| it["what"].as_str().is_some_and(|it| it.contains(says));
    let told = broken.iter().find(is_told).unwrap_or_else(|| panic!("no {says}: {report:#}"));
    // The store is kept, and its job can be looked at.
    let (store, id) = (report["store"].as_str().expect("a text"), told["job"].as_str());
    let shown = cli.json(&["--store", store, "jobs", "show", id.expect("an id")]);
    assert_eq!(shown["job"]["state"], "succeeded");
}

#[test]
fn work_that_was_not_done_is_found_out() {
    check_found_out("skip-end", "lost", "noted no end");
}

#[test]
fn an_attempt_too_many_is_found_out() {
    check_found_out("start-twice", "unexplained", "began 2 times under one lease");
}

#[test]
fn a_store_of_others_is_left_alone() {
    let cli = Cli::new();
    cli.submit("http://127.0.0.1:1/", &[]);
    let answer = cli.run(&["torture", "--seconds", "1"]);
    assert_eq!(answer.code, 2, "{answer:?}");
    assert!(answer.err.contains("a store of its own"), "{answer:?}");
    for (store, says) in [("sqlite::memory:", "in memory"), ("mysql://host/jobs", "names no store")]
    {
        let answer = cli.run(&["torture", "--seconds", "1", "--store", store]);
        assert!(answer.code == 2 && answer.err.contains(says), "{store}: {answer:?}");
    }
}

#[test]
fn an_interrupt_ends_it_early_and_everything_is_counted() {
    let cli = Cli::without_store();
    let mut running = cli.start(&["torture", "--workers", "1", "--minutes", "60"]);
    running.err.with("torturing");
    running.signal("INT");
    let (status, out, errors) = running.end();
    assert_eq!(code_of(status), 0, "{out:?} {errors:?}");
    assert!(out.iter().any(|it| it.contains("all promises held")), "{out:?}");
    assert_eq!(left(&cli), Vec::<String>::new());
}

/// A worker of the command, alone.
fn worker(cli: &Cli, role: &str) -> Running {
    cli.start(&["torture-worker", "--role", role, "--notes", "notes"])
}

/// A process that holds [`N_HELD`] jobs, each with an attempt under way.
fn holder(cli: &Cli) -> Running {
    let running = worker(cli, "hold");
    all_started(&running, Instant::now());
    running
}

/// Waits until every held job has begun.
fn all_started(running: &Running, since: Instant) -> Duration {
    (0..N_HELD).for_each(|_| drop(running.out.with("started ")));
    since.elapsed()
}

fn check_takes_over(cli: &Cli) {
    let mut holding = holder(cli);
    let living = worker(cli, "work");
    living.out.with("ready");
    let killed = Instant::now();
    holding.signal("KILL");
    holding.end();
    let took = all_started(&living, killed);
    println!("{N_HELD} running jobs began again {took:.1?} after the kill, on a living process");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_living_process_takes_over_within_five_seconds_on_a_file() {
    check_takes_over(&Cli::new());
}

#[test]
fn a_living_process_takes_over_within_five_seconds_on_a_server() {
    let (_server, url) = server();
    check_takes_over(&Cli::with_store(&url));
}

/// A process that stands still for longer than its lease holds its liveness lock all the while.
fn check_comes_back(cli: &Cli) {
    let holding = holder(cli);
    let mut living = worker(cli, "work");
    living.out.with("ready");
    holding.signal("STOP");
    let took = all_started(&living, Instant::now());
    println!("{N_HELD} running jobs began again {took:.1?} after their process was stopped");
    assert!(Duration::from_secs(25) < took, "its lock is held, the lease decides: {took:?}");
    holding.signal("CONT");
    holding.err.with("this node was taken for dead; its jobs belong to others");
    (0..N_HELD).for_each(|_| drop(holding.err.with("a late outcome is refused")));
    // It has registered again: it may rescue, and run what it rescues.
    living.signal("KILL");
    living.end();
    all_started(&holding, Instant::now());
}

#[test]
fn a_stopped_process_comes_back_as_another_on_a_file() {
    check_comes_back(&Cli::new());
}

#[test]
fn a_stopped_process_comes_back_as_another_on_a_server() {
    let (_server, url) = server();
    check_comes_back(&Cli::with_store(&url));
}

#[test]
fn a_restarted_process_takes_over_within_a_second() {
    let cli = Cli::new();
    let mut holding = holder(&cli);
    holding.signal("KILL");
    holding.end();
    let started = Instant::now();
    let restarted = worker(&cli, "work");
    restarted.out.with("starting");
    let since = Instant::now();
    let took = all_started(&restarted, since);
    println!(
        "{N_HELD} running jobs began again {took:.0?} after the restart, {:.0?} with the start of \
         the process",
        started.elapsed()
    );
    assert!(took < Duration::from_secs(1), "{took:?}");
}
