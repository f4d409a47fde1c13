//! The server, asked over real connections: by reqwest, and by hand where the wire matters.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

const LONG: Duration = Duration::from_secs(10);

fn client() -> reqwest::Client {
    // Another test may have installed it already.
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    reqwest::Client::new()
}

async fn start(faults: Faults) -> (TaskGroup, Server) {
    let group = TaskGroup::isolated();
    let server = Server::start(&group, faults).await.unwrap();
    (group, server)
}

/// Finds a path whose first request meets a fault that `is_wanted`.
fn path_with(faults: &Faults, is_wanted: impl Fn(Fault) -> bool) -> String {
    let mut paths = records::airport_titles().keys().map(|it| format!("/airports/{it}"));
    paths.find(|it| faults.decide(it, 0).is_some_and(&is_wanted)).unwrap()
}

#[tokio::test]
async fn every_file_is_served_as_it_was_recorded() {
    let (group, server) = start(Faults::none()).await;
    for file in records::FILES {
        let path = format!("/data/{}", file.name);
        let answer = client().get(server.url(&path)).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], file.media_type);
        assert_eq!(answer.text().await.unwrap(), file.content);
    }
    assert_eq!(group.drain(LONG).await.n_aborted, 0);
}

#[tokio::test]
async fn an_airport_has_a_page_with_its_title_and_an_earthquake_is_json() {
    let (_group, server) = start(Faults::none()).await;
    let page = client().get(server.url("/airports/DBN")).send().await.unwrap();
    let page = page.text().await.unwrap();
    let title = "<title>W. H. &quot;Bud&quot; Barron — Dublin, GA</title>";
    assert!(page.contains(title), "{page}");
    let quake = client().get(server.url("/quakes/us1000chhc")).send().await.unwrap();
    let quake: serde_json::Value = serde_json::from_str(&quake.text().await.unwrap()).unwrap();
    assert_eq!(quake["properties"]["mag"], 6.4);
}

#[tokio::test]
async fn some_paths_never_work_and_every_answer_is_counted() {
    let (_group, server) = start(Faults::none()).await;
    for path in MISSING_PATHS {
        assert_eq!(client().get(server.url(path)).send().await.unwrap().status(), 404);
    }
    assert_eq!(client().get(server.url(BROKEN_PATH)).send().await.unwrap().status(), 500);
    assert_eq!(client().post(server.url("/data/x")).send().await.unwrap().status(), 405);
    let expected = Served { n_requests: 5, n_missing: 3, n_broken: 1, ..Served::default() };
    assert_eq!(server.served(), expected);
}

#[tokio::test]
async fn failing_answers_are_those_of_the_history_and_end() {
    let faults = Faults { failing: 1.0, ..Faults::none() };
    let (_group, server) = start(faults.clone()).await;
    let path = path_with(&faults, |it| it == Fault::Throttled);
    let answer = client().get(server.url(&path)).send().await.unwrap();
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.headers()["retry-after"], "1");
    let path = path_with(&faults, |it| it == Fault::ServerError);
    assert_eq!(client().get(server.url(&path)).send().await.unwrap().status(), 500);
    client().get(server.url(&path)).send().await.ok();
    let third = client().get(server.url(&path)).send().await.unwrap();
    assert_eq!(third.status(), 200);
}

#[tokio::test]
async fn a_slow_answer_is_right() {
    let (slow_min, slow_max) = (Duration::from_millis(1), Duration::from_millis(2));
    let faults = Faults { slow: 1.0, slow_min, slow_max, ..Faults::none() };
    let (_group, server) = start(faults).await;
    let answer = client().get(server.url("/data/weather.csv")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(server.served().n_slow, 1);
}

#[tokio::test]
async fn a_reset_is_a_reset_on_the_wire() {
    let faults = Faults { failing: 1.0, ..Faults::none() };
    let (_group, server) = start(faults.clone()).await;
    let path = path_with(&faults, |it| it == Fault::Reset);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: demo\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let error = stream.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(server.served().n_resets, 1);
}
