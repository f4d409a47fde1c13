//! Every good page becomes one whole file, and every other one a failure with its stage.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use taskloom_cookbook::client;
use taskloom_worked::pipeline::{Record, Rules, Table, start, write_atomically};
use taskloom_worked::site::Site;

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn every_good_page_becomes_a_file_and_every_other_a_failure() {
    let (site, folder) = (Site::start().await, tempfile::tempdir().unwrap());
    let urls = site.mostly_good(30);
    let report = start(&client(), urls.clone(), Rules::new(folder.path())).join().await.unwrap();

    let expected: BTreeSet<String> = (0..30).map(|n| format!("page-{n:04}.json")).collect();
    assert_eq!(names(folder.path()), expected, "and no part of a file is left");
    for (n, url) in urls.iter().enumerate().take(30) {
        let json = fs::read(folder.path().join(format!("page-{n:04}.json"))).unwrap();
        let record: Record = serde_json::from_slice(&json).unwrap();
        let title = format!("Article {n}");
        assert_eq!(record, Record { url: url.clone(), title, n_words: 3 * (n + 1) });
    }

    let counts = report.stages.iter().map(|it| (it.name, it.n_in, it.n_out, it.n_errors));
    let expected = [
        ("source", 32, 32, 0),
        ("fetch", 32, 31, 1),
        ("transform", 31, 30, 1),
        ("write", 30, 30, 0),
    ];
    assert_eq!(counts.collect::<Vec<_>>(), expected);
    let said = Table(&report).to_string();
    let missing = format!("failed: stage `fetch`: {}: status 404 Not Found", urls[30]);
    let untitled = format!("failed: stage `transform`: {}: the page has no title", urls[31]);
    assert!(said.contains(&missing) && said.contains(&untitled), "{said}");
}

#[tokio::test]
async fn a_folder_that_is_not_there_fails_the_pages_and_not_the_pipeline() {
    let (site, folder) = (Site::start().await, tempfile::tempdir().unwrap());
    let urls = site.articles(3, std::time::Duration::ZERO);
    let rules = Rules::new(folder.path().join("missing"));
    let report = start(&client(), urls, rules).join().await.unwrap();
    assert_eq!(report.failures.len(), 3);
    assert!(report.failures.iter().all(|it| it.stage == "write"));
}

#[tokio::test]
async fn a_file_is_replaced_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.json");
    write_atomically(&path, b"one").await.unwrap();
    write_atomically(&path, b"two").await.unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");

    // A rename onto a folder is refused: the part is removed then.
    let blocked = folder.path().join("b.json");
    fs::create_dir(&blocked).unwrap();
    fs::write(blocked.join("inside"), "").unwrap();
    write_atomically(&blocked, b"three").await.unwrap_err();
    assert_eq!(names(folder.path()), ["a.json", "b.json"].map(str::to_owned).into());
}
