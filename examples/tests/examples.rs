//! Every example runs, says what it should, and can run again on the store it left behind.

use std::path::Path;
use std::process::Command;

#[track_caller]
fn check_example(binary: &str, expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    for run in 1..=2 {
        let ran = Command::new(binary).current_dir(folder.path()).output().unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        let errors = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{binary}, run {run}: {errors}");
        assert_eq!(said, expected, "{binary}, run {run}");
    }
}

#[test]
fn quickstart_adds() {
    check_example(env!("CARGO_BIN_EXE_quickstart"), "3 and 7\n");
}

#[test]
fn retries_tell_their_attempts() {
    check_example(
        env!("CARGO_BIN_EXE_retries"),
        "flaky succeeded at attempt 3\n  attempt 1: errored the other side hung up\n  \
         attempt 2: errored busy\n  attempt 3: succeeded \nrefused failed: permanent\n",
    );
}

#[test]
fn a_task_type_has_state() {
    check_example(env!("CARGO_BIN_EXE_task_type"), "[6, 4], 10 in all\n");
}

#[test]
fn a_pipeline_ends_in_order() {
    check_example(env!("CARGO_BIN_EXE_pipeline"), "[4, 25, 168]: counting is done\n");
}

#[test]
fn a_crash_of_a_child_costs_an_attempt() {
    check_example(
        env!("CARGO_BIN_EXE_process"),
        "78498 primes below a million\nsucceeded at attempt 2\nthe first: task.process.killed\n",
    );
}

#[test]
fn a_transfer_and_its_job_are_both_or_neither() {
    check_example(
        env!("CARGO_BIN_EXE_transaction"),
        "bob has got 70\nnot enough money, and no job\n",
    );
}

#[test]
fn the_readme_shows_the_quickstart_as_it_stands() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let example = std::fs::read_to_string(root.join("examples/quickstart.rs")).unwrap();
    let block = readme.split("```rust\n").nth(1).and_then(|it| it.split("```").next()).unwrap();
    assert_eq!(block, example);
    assert!(example.lines().filter(|it| !it.is_empty()).count() <= 20, "a 20-line example");
}
