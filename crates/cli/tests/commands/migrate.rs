//! `taskloom migrate`: an administrator can do it instead of the program.

use std::path::Path;
use std::process::Command;

use taskloom::torture::PrivateServer;

use crate::cli::{Cli, code_of};
use crate::database::server;

/// Lets psql run a file as it is; whether it went well.
fn psql(server: &PrivateServer, file: &Path) -> bool {
    let mut psql = Command::new("psql");
    psql.arg("-h").arg(server.folder()).args(["-U", "postgres", "-X", "-q", "-d", "db0", "-f"]);
    psql.arg(file).output().expect("psql is installed").status.success()
}

const N_TABLES: &str = "SELECT count(*) FROM pg_tables WHERE schemaname = 'taskloom'";
/// Reading and writing rows, and nothing else.
const ROLE: &str = "CREATE ROLE hand LOGIN; GRANT USAGE ON SCHEMA taskloom TO hand; \
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA taskloom TO hand; \
    GRANT USAGE ON ALL SEQUENCES IN SCHEMA taskloom TO hand";

#[test]
fn what_psql_has_migrated_needs_no_right_to_change_a_schema() {
    let (server, url) = server();
    let cli = Cli::with_store(&url);
    assert!(cli.ok(&["migrate", "--dry-run"]).contains("would bring the schema from version 0"));
    let sql = cli.ok(&["migrate", "--dump-sql"]);
    assert_eq!(sql, cli.ok(&["migrate", "--dump-sql", "--from", "0"]));
    assert_eq!(server.psql("db0", N_TABLES).unwrap(), "0", "nothing was changed");
    let file = cli.folder().join("migrate.sql");
    std::fs::write(&file, sql).unwrap();
    assert!(psql(&server, &file));
    assert!(!psql(&server, &file), "a second time finds it done, and fails");
    server.psql("db0", ROLE).unwrap();
    let hand = Cli::with_store(&url.replace("postgres@", "hand@"));
    assert!(hand.ok(&["migrate"]).contains("nothing to do"));
    let _worker = hand.serve(&[]);
    let args = r#"{"url": "http://127.0.0.1:1/"}"#;
    let answer = hand.run(&["submit", "http", "--args", args, "--max-attempts", "1", "--wait"]);
    assert_eq!(answer.code, 1, "it ran, and found nobody there: {answer:?}");
    assert_eq!(hand.json(&["verify"])["breaches"], serde_json::json!([]));
}

#[test]
fn two_processes_migrate_a_server_at_once() {
    let (server, url) = server();
    let cli = Cli::with_store(&url);
    let mut both = [cli.start(&["migrate"]), cli.start(&["migrate"])];
    for migrating in &mut both {
        let (status, _, errors) = migrating.end();
        assert_eq!(code_of(status), 0, "{errors:?}");
    }
    assert_eq!(cli.json(&["migrate", "--dry-run"])["pending"], false);
    let newer = "UPDATE taskloom.meta SET value = 99 WHERE name = 'version'";
    server.psql("db0", newer).unwrap();
    for args in [&["migrate"][..], &["migrate", "--dry-run"]] {
        let answer = cli.run(args);
        assert!(answer.code == 3 && answer.err.contains("store.newer_schema"), "{answer:?}");
    }
}

#[test]
fn what_sqlite3_has_migrated_is_opened() {
    let cli = Cli::new();
    assert!(cli.ok(&["migrate", "--dry-run"]).contains("would bring the schema from version 0"));
    let file = cli.folder().join("jobs.db");
    assert!(!file.exists(), "nothing was changed");
    std::fs::write(cli.folder().join("migrate.sql"), cli.ok(&["migrate", "--dump-sql"])).unwrap();
    let mut sqlite3 = Command::new("sqlite3");
    let ran = sqlite3.arg(&file).arg(".read migrate.sql").current_dir(cli.folder()).output();
    let ran = ran.expect("sqlite3 is installed");
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(cli.ok(&["migrate"]), "nothing to do: the schema has version 1");
    cli.submit("http://127.0.0.1:1/", &[]);
    assert_eq!(cli.json(&["verify"])["jobs"], 1);
}
