//! `taskloom fetch`: a list of addresses, stopped midway and taken up again.

use serde_json::Value;

use crate::cli::{Answer, Cli, code_of};
use crate::server::Server;

fn write_list(cli: &Cli, server: &Server, paths: impl IntoIterator<Item = String>) {
    let urls: Vec<String> = paths.into_iter().map(|it| server.url(&it)).collect();
    std::fs::write(cli.folder().join("urls.txt"), urls.join("\n")).unwrap();
}

fn pages(n: usize) -> Vec<String> {
    (0..n).map(|it| format!("/page/{it}")).collect()
}

/// The lines of a fetch in JSON, and its summary.
fn lines_of(answer: &Answer) -> (Vec<Value>, Value) {
    let lines = answer.out.lines().map(|it| serde_json::from_str(it).unwrap());
    let mut lines: Vec<Value> = lines.collect();
    let summary = lines.pop().expect("the summary is the last line");
    (lines, summary)
}

#[test]
fn a_fetch_tells_of_each_address_and_sums_up() {
    let (cli, server) = (Cli::new(), Server::start());
    let mut paths = pages(6);
    paths.extend(["/missing/1", "/missing/2", "/broken/1", "/flaky/1"].map(str::to_owned));
    write_list(&cli, &server, paths);
    let args = ["fetch", "urls.txt", "--max-attempts", "2", "--extract", "title"];
    let answer = cli.run(&args);
    assert_eq!(answer.code, 1, "{answer:?}");
    for said in ["10 URLs: 7 succeeded, 3 failed", "2 × http.status.404", "1 × http.status.500"] {
        assert!(answer.out.contains(said), "no `{said}` in {}", answer.out);
    }
    assert!(answer.out.contains("Page /page/3"), "the title is told: {}", answer.out);
    let is_plain = |it: char| it != '\x1b' && it != '\r' && it != '█';
    assert!(answer.out.chars().all(is_plain) && answer.err.chars().all(is_plain), "{answer:?}");
    let ends = answer.err.lines().filter(|it| it.starts_with("ok ") || it.starts_with("error "));
    assert_eq!(ends.count(), 10, "a line as each ends: {}", answer.err);
    let hits = server.hits();
    assert_eq!((hits["/missing/1"], hits["/broken/1"], hits["/flaky/1"]), (1, 2, 2));
}

#[test]
fn a_fetch_in_json_has_a_line_an_address_and_a_summary() {
    let (cli, server) = (Cli::new(), Server::start());
    write_list(&cli, &server, ["/page/1".into(), "/missing/1".into()]);
    let answer = cli.run(&["fetch", "urls.txt", "--json"]);
    assert_eq!(answer.code, 1, "{answer:?}");
    let (mut lines, summary) = lines_of(&answer);
    lines.sort_by_key(|it| it["line"].as_u64());
    assert_eq!(lines[0]["fetched"]["status"], 200);
    assert_eq!(lines[0]["url"], server.url("/page/1"));
    assert_eq!(lines[1]["error"]["code"], "http.status.404");
    assert_eq!((&summary["total"], &summary["succeeded"]), (&2.into(), &1.into()));
    assert_eq!(summary["failed"]["http.status.404"], 1);
    assert!(summary["ms"].is_number() && summary.get("speed_up").is_none());
}

#[test]
fn an_interrupted_fetch_goes_on_and_fetches_only_what_is_missing() {
    let (cli, server) = (Cli::new(), Server::start());
    let held = (0..12).map(|it| format!("/hold/{it}"));
    write_list(&cli, &server, pages(8).into_iter().chain(held));
    let args = ["fetch", "urls.txt", "--concurrency", "4", "--json"];
    let mut fetching = cli.start(&args);
    for _ in 0..8 {
        fetching.out.with("/page/");
    }
    server.wait_for("/hold/", 4);
    fetching.signal("INT");
    let (status, _, errors) = fetching.end();
    assert_eq!(code_of(status), 130, "{errors:?}");
    assert!(errors.iter().any(|it| it.contains("stopped with 8 of 20 fetched")), "{errors:?}");
    server.open();
    let answer = cli.run(&args);
    assert_eq!(answer.code, 0, "{answer:?}");
    let (lines, summary) = lines_of(&answer);
    assert_eq!((lines.len(), &summary["succeeded"]), (20, &20.into()));
    let hits = server.hits();
    assert!(pages(8).iter().all(|it| hits[it] == 1), "no page is fetched twice: {hits:?}");
    let n_held: usize = hits.iter().filter(|(it, _)| it.starts_with("/hold/")).map(|it| it.1).sum();
    assert_eq!(n_held, 12 + 4, "only the four that were cut off came again");
}

#[test]
fn a_finished_fetch_begins_anew() {
    let (cli, server) = (Cli::new(), Server::start());
    write_list(&cli, &server, pages(3));
    for _ in 0..2 {
        cli.ok(&["fetch", "urls.txt"]);
    }
    assert!(server.hits().values().all(|it| *it == 2), "{:?}", server.hits());
}

#[test]
fn a_comparison_tells_how_much_faster_it_is() {
    let (cli, server) = (Cli::new(), Server::start());
    write_list(&cli, &server, (0..20).map(|it| format!("/slow/{it}")));
    let answer = cli.run(&["fetch", "urls.txt", "--compare", "--json"]);
    let (_, summary) = lines_of(&answer);
    let (speed_up, ms) = (summary["speed_up"].as_f64().unwrap(), summary["one_by_one_ms"].as_u64());
    println!("20 addresses of 50 ms: one by one {ms:?} ms, {speed_up} times as fast");
    assert!(Some(1000) <= ms && 2.0 < speed_up, "{summary}");
    let told = cli.ok(&["fetch", "urls.txt", "--compare"]);
    assert!(told.contains("times as fast"), "{told}");
}

#[test]
fn a_rate_is_kept() {
    let (cli, server) = (Cli::new(), Server::start());
    write_list(&cli, &server, pages(11));
    let answer = cli.run(&["fetch", "urls.txt", "--rate", "20/s", "--json"]);
    let (_, summary) = lines_of(&answer);
    let ms = summary["ms"].as_u64().unwrap();
    // Ten gaps of 50 ms.
    assert!(500 <= ms, "{ms} ms");
}

#[test]
fn a_fetch_that_waits_for_its_rate_stops_at_once() {
    let (cli, server) = (Cli::new(), Server::start());
    write_list(&cli, &server, pages(5));
    let mut fetching = cli.start(&["fetch", "urls.txt", "--rate", "1/h", "--json"]);
    fetching.out.with("/page/");
    let asked = std::time::Instant::now();
    fetching.signal("INT");
    assert_eq!(code_of(fetching.end().0), 130);
    assert!(asked.elapsed() < std::time::Duration::from_secs(3), "{:?}", asked.elapsed());
}
