//! The queue is worked off once, within its bounds, and a stop ends it well.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::get;
use parking_lot::Mutex;
use taskloom_cookbook::{Server, client};
use taskloom_flow::Cancellation;
use taskloom_worked::job_queue::{Report, Rules, work_off};

/// How often the server was asked for each page.
type Seen = Arc<Mutex<BTreeMap<usize, usize>>>;

/// A server whose page `/item/{n}` counts its calls; the call after `n_before_stop` others cancels
/// `stop`. Those divisible by 10 fail, but 0.
async fn server(n_before_stop: usize, stop: &Cancellation) -> (Server, Seen) {
    let seen = Seen::default();
    let (calls, stop) = (Arc::clone(&seen), stop.clone());
    let item = async move |Path(n): Path<usize>| {
        let n_before = {
            let mut calls = calls.lock();
            *calls.entry(n).or_default() += 1;
            calls.values().sum::<usize>() - 1
        };
        if n_before == n_before_stop {
            stop.cancel("the test asked");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        if n != 0 && n.is_multiple_of(10) { Err(StatusCode::GONE) } else { Ok(n.to_string()) }
    };
    (Server::with(Router::new().route("/item/{n}", get(item))).await, seen)
}

/// Works off the pages 0 to 99; answers also with the pages that were kept.
async fn work(server: &Server, stop: &Cancellation) -> (Report, Vec<usize>) {
    let urls = (0..100).map(|n| server.url(&format!("/item/{n}"))).collect();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keeper = Arc::clone(&kept);
    let keep = move |page: taskloom_worked::http::Page, _worker| {
        keeper.lock().push(page.text.parse().unwrap());
    };
    let report = work_off(&client(), urls, Rules::default(), stop, keep).await;
    let mut kept = kept.lock().clone();
    kept.sort_unstable();
    (report, kept)
}

#[tokio::test]
async fn every_item_is_handled_once_with_at_most_three_requests_at_once() {
    let stop = Cancellation::new();
    let (server, seen) = server(usize::MAX, &stop).await;
    let (report, kept) = work(&server, &stop).await;

    assert!(seen.lock().values().all(|it| *it == 1));
    assert_eq!(seen.lock().len(), 100);
    assert!(server.n_at_once_most() <= 3);
    let good: Vec<usize> = (0..100).filter(|it| *it == 0 || it % 10 != 0).collect();
    assert_eq!(kept, good);

    assert_eq!((report.workers.len(), report.n_done()), (5, 91));
    assert!(report.workers.iter().all(|it| 0 < it.n_done), "each worker has its share");
    assert_eq!((report.failures.len(), report.n_left, report.n_aborted), (9, 0, 0));
    assert!(report.to_string().contains("/item/90: status 410 Gone"), "{report}");
}

#[tokio::test]
async fn a_stop_takes_nothing_new_and_finishes_what_runs() {
    let stop = Cancellation::new();
    let (server, seen) = server(20, &stop).await;
    let (report, kept) = work(&server, &stop).await;

    let n_seen = seen.lock().len();
    assert!(seen.lock().values().all(|it| *it == 1));
    assert_eq!(kept.len() + report.failures.len(), n_seen, "nothing that was begun is lost");
    // 20 before it, its own, those the other workers had in hand, and what they took until the
    // stop was heard of.
    assert!((21..=30).contains(&n_seen), "{n_seen}");
    assert_eq!((report.n_left, report.n_aborted), (100 - n_seen, 0));
}

#[tokio::test]
async fn a_worker_that_does_not_end_is_cut_off_at_the_deadline() {
    let stop = Cancellation::new();
    let stopper = stop.clone();
    let silent = async move || {
        stopper.cancel("the test asked");
        std::future::pending::<()>().await;
    };
    let server = Server::with(Router::new().route("/silent", get(silent))).await;
    let urls = vec![server.url("/silent"); 100];
    let rules = Rules { deadline: Duration::from_millis(50), ..Rules::default() };
    let report = work_off(&client(), urls, rules, &stop, |_, _| ()).await;
    assert_eq!((report.n_done(), report.n_aborted, report.n_left), (0, 5, 95));
    assert!(report.to_string().contains("5 workers were cut off"), "{report}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_the_program_well() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_job_queue"))
        .args(["--pages", "10000", "--delay", "20"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("worker") {
        line.clear();
        assert!(0 < lines.read_line(&mut line).unwrap(), "it ended before it began");
    }
    let killed = Command::new("kill").args(["-INT", &program.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    assert!(program.wait().unwrap().success(), "{rest}");
    assert!(rest.contains("finishing what runs"), "{rest}");
    assert!(rest.trim_end().ends_with("not begun"), "{rest}");
}
