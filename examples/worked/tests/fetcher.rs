//! Every address comes to an end of its own, and is told of as soon as it does.

use std::collections::BTreeMap;
use std::time::Duration;

use taskloom_cookbook::client;
use taskloom_worked::fetcher::{Fetched, Rules, Summary, fetch_all};
use taskloom_worked::site::Site;

const RULES: Rules = Rules { timeout: Duration::from_secs(1), n_at_once_max: 16 };

fn outcome(fetched: &Fetched) -> String {
    match &fetched.ended {
        Ok((status, n_bytes)) => format!("{status}, {n_bytes} bytes"),
        Err(error) => error.kind(),
    }
}

#[tokio::test]
async fn every_kind_of_end_has_its_name_and_its_place() {
    let (site, client) = (Site::start().await, client());
    let urls = site.of_every_kind();
    let all = fetch_all(&client, &urls, RULES, |_, _| ()).await;
    assert_eq!(all.iter().map(|it| &it.url).collect::<Vec<_>>(), urls.iter().collect::<Vec<_>>());
    let outcomes: Vec<String> = all[8..].iter().map(outcome).collect();
    let expected = [
        "200 OK, 20 bytes",
        "status 503 Service Unavailable",
        "status 429 Too Many Requests",
        "status 404 Not Found",
        "timed out",
        "connection closed early",
        "connection refused",
    ];
    assert_eq!(outcomes, expected);
    let summary = Summary::of(&all);
    assert_eq!(summary.by_outcome["status 200 OK"], 9);
    assert_eq!(summary.by_outcome.values().sum::<usize>(), urls.len());
}

#[tokio::test]
async fn the_quick_are_told_of_before_the_slow() {
    let (site, client) = (Site::start().await, client());
    let slow = site.articles(1, Duration::from_millis(300)).remove(0);
    let quick = site.articles(3, Duration::ZERO);
    let urls = [vec![slow.clone()], quick].concat();
    let mut told = BTreeMap::new();
    let all = fetch_all(&client, &urls, Rules::default(), |n_done, it| {
        told.insert(n_done, it.url.clone());
    });
    let all = all.await;
    assert_eq!(told.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!((&told[&4], &all[0].url), (&slow, &slow));
}

#[tokio::test]
async fn never_more_requests_at_once_than_allowed() {
    let (site, client) = (Site::start().await, client());
    let urls = site.articles(20, Duration::from_millis(5));
    let rules = Rules { n_at_once_max: 3, ..RULES };
    let all = fetch_all(&client, &urls, rules, |_, _| ()).await;
    assert!(all.iter().all(|it| it.ended.is_ok()));
    assert!(site.n_at_once_most().into_iter().all(|it| it <= 3));
}
