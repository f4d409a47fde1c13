//! `taskloom serve`: it drains on a signal, and a second one stops it.

use std::time::{Duration, Instant};

use crate::cli::{Cli, code_of};
use crate::server::Server;

#[test]
fn a_signal_lets_what_runs_end_and_the_rest_wait() {
    let (cli, server) = (Cli::new(), Server::start());
    let mut serving = cli.serve(&["--workers", "1", "--log", "info"]);
    let running = cli.submit(&server.url("/hold/1"), &[]);
    let waiting = cli.submit(&server.url("/hold/2"), &[]);
    server.wait_for("/hold/", 1);
    serving.signal("TERM");
    serving.err.with("draining");
    server.open();
    let (status, _, errors) = serving.end();
    assert_eq!(code_of(status), 0, "{errors:?}");
    let state = |id: &str| cli.json(&["jobs", "show", id])["job"]["state"].clone();
    assert_eq!((state(&running), state(&waiting)), ("succeeded".into(), "ready".into()));
    assert_eq!(server.hits().get("/hold/2"), None);
}

#[test]
fn a_second_signal_stops_at_once_and_gives_the_attempt_back() {
    let (cli, server) = (Cli::new(), Server::start());
    let mut serving = cli.serve(&["--log", "info", "--drain", "10m"]);
    let id = cli.submit(&server.url("/hold/1"), &[]);
    server.wait_for("/hold/", 1);
    serving.signal("INT");
    serving.err.with("draining");
    let asked = Instant::now();
    serving.signal("INT");
    let (status, _, errors) = serving.end();
    let took = asked.elapsed();
    assert_eq!(code_of(status), 0, "{errors:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    let shown = cli.json(&["jobs", "show", &id]);
    assert_eq!((&shown["job"]["state"], &shown["job"]["attempts"]), (&"ready".into(), &0.into()));
    assert_eq!(shown["job"]["crashes"], 0);
    assert_eq!(shown["attempts"][0]["outcome"], "interrupted");
}

#[test]
fn a_killed_node_is_rescued_by_the_next() {
    let (cli, server) = (Cli::new(), Server::start());
    let mut serving = cli.serve(&[]);
    let id = cli.submit(&server.url("/hold/1"), &[]);
    server.wait_for("/hold/", 1);
    serving.signal("KILL");
    serving.end();
    server.open();
    let _next = cli.serve(&["--json"]);
    cli.ok(&["jobs", "watch", &id]);
    let shown = cli.json(&["jobs", "show", &id]);
    assert_eq!(
        (&shown["job"]["state"], &shown["job"]["crashes"]),
        (&"succeeded".into(), &1.into())
    );
    assert_eq!(shown["attempts"][0]["outcome"], "lost");
}

#[test]
fn a_queue_has_slots_of_its_own() {
    let (cli, server) = (Cli::new(), Server::start());
    let _serving = cli.serve(&["--workers", "1", "--queue", "web=1"]);
    cli.submit(&server.url("/hold/1"), &["--queue", "web"]);
    cli.submit(&server.url("/hold/2"), &["--queue", "web"]);
    server.wait_for("/hold/", 1);
    cli.submit(&server.url("/page/1"), &["--wait"]);
    assert_eq!(server.hits().len(), 2, "the second of the queue waits");
}
