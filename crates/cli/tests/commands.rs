//! The `taskloom` binary as a person and a program meet it: what it prints, and how it ends.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

#[path = "commands/bench.rs"]
mod bench;
#[path = "support/cli.rs"]
mod cli;
#[path = "support/database.rs"]
mod database;
#[path = "commands/fetch.rs"]
mod fetch;
#[path = "commands/jobs.rs"]
mod jobs;
#[path = "commands/migrate.rs"]
mod migrate;
#[path = "support/child.rs"]
mod process;
#[path = "commands/serve.rs"]
mod serve;
#[path = "support/server.rs"]
mod server;
#[path = "commands/verify.rs"]
mod verify;
#[path = "commands/worker.rs"]
mod worker;

use cli::Cli;
use serde_json::Value;

#[track_caller]
fn check_exit(cli: &Cli, args: &[&str], code: i32, says: &str) {
    let answer = cli.run(args);
    assert_eq!(answer.code, code, "{args:?}: {answer:?}");
    assert!(answer.err.contains(says), "{args:?} should say `{says}`: {answer:?}");
}

#[test]
fn wrong_usage_ends_with_2() {
    let cli = Cli::new();
    check_exit(&cli, &["jabs"], 2, "jabs");
    check_exit(&cli, &["submit"], 2, "TASK");
    check_exit(&cli, &["submit", "http", "--args", "{url}"], 2, "--args is no JSON");
    check_exit(&cli, &["submit", "http", "--args", "@no/such/file"], 2, "no/such/file");
    check_exit(&cli, &["submit", "http", "--priority", "10"], 2, "10");
    check_exit(&cli, &["submit", "http", "--delay", "soon"], 2, "soon");
    check_exit(&cli, &["submit", "http", "--max-attempts", "0"], 2, "max_attempts");
    check_exit(&cli, &["fetch", "no-such-list"], 2, "no-such-list");
    check_exit(&cli, &["fetch", "-"], 2, "holds no URL");
    check_exit(&cli, &["jobs", "list", "--state", "lost"], 2, "no state `lost`");
    check_exit(&cli, &["jobs", "show", "7"], 2, "7");
    check_exit(&cli, &["serve", "--queue", "web"], 2, "NAME=SLOTS");
    check_exit(&cli, &["--store", "mysql://host/jobs", "jobs", "list"], 2, "mysql");
    check_exit(&cli, &["--store", "sqlite://a.db?sync=no", "jobs", "list"], 2, "sync=no");
}

#[test]
fn a_store_that_cannot_be_used_ends_with_3() {
    let cli = Cli::new();
    std::fs::write(cli.folder().join("notes.txt"), "no database, but a text ".repeat(50)).unwrap();
    check_exit(
        &cli,
        &["--store", "sqlite://notes.txt", "jobs", "list"],
        3,
        "notes.txt is no store",
    );
    check_exit(&cli, &["--store", "sqlite://notes.txt/jobs.db", "jobs", "list"], 3, "notes.txt");
}

#[test]
fn an_unknown_job_ends_with_4() {
    let (cli, other) = (Cli::new(), Cli::new());
    let id = other.submit("http://127.0.0.1:9/", &[]);
    check_exit(&cli, &["jobs", "show", &id], 4, &id);
    check_exit(&cli, &["jobs", "watch", &id], 4, &id);
    for verb in ["cancel", "retry"] {
        let answer = cli.run(&["jobs", verb, &id]);
        assert_eq!(answer.code, 4, "{answer:?}");
        assert!(answer.out.contains(&id) && answer.out.contains("no such job"), "{answer:?}");
    }
    check_exit(&cli, &["submit", "http", "--after", &id], 2, "");
}

#[test]
fn errors_are_json_when_that_is_wanted() {
    let cli = Cli::new();
    let answer = cli.run(&["fetch", "no-such-list", "--json"]);
    let error: Value = serde_json::from_str(&answer.err).unwrap();
    assert_eq!(error["error"]["code"], "cli.usage");
    assert!(error["error"]["message"].as_str().unwrap().contains("no-such-list"));
}

#[test]
fn help_shows_the_exit_codes() {
    let help = Cli::new().ok(&["--help"]);
    for code in ["0    done", "4    no such job", "130"] {
        assert!(help.contains(code), "{help}");
    }
}

#[test]
fn completions_are_a_script() {
    let script = Cli::new().ok(&["completions", "bash"]);
    assert!(script.contains("_taskloom()") && script.contains("complete -F _taskloom"));
}
