//! How to test code that talks to servers: against a real server on this machine that is told to
//! misbehave, and that remembers what it saw. Nothing here waits for time to pass but what is
//! about time, and what is about time compares in one direction only: a busy machine is late,
//! never early.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use futures::StreamExt as _;
use parking_lot::Mutex;
use reqwest::Url;
use taskloom_cookbook::{Server, client};
use taskloom_flow::{Backoff, TaskGroup, timeout};
use taskloom_worked::http::HttpError;
use taskloom_worked::scraper::{Rules, Scraped, Scraper, Summary};
use taskloom_worked::site::{closed_address, routes};
use tokio::net::TcpListener;
use tokio::sync::Barrier;
use tokio::time::Instant;

/// No test takes longer: what hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(20);

/// Rules that are never in the way; a test writes only those that it is about.
fn rules() -> Rules {
    Rules {
        timeout: PATIENCE,
        backoff: Backoff::none(),
        n_per_host_max: 32,
        rate_per_host: "1000/s".parse().unwrap(),
        ..Rules::default()
    }
}

/// What became of `urls`, in their order.
async fn scrape(rules: Rules, urls: &[String]) -> Vec<Scraped> {
    let scraper = Scraper::new(client(), rules);
    let parsed: Vec<Url> = urls.iter().map(|it| it.parse().unwrap()).collect();
    let scraped = timeout(PATIENCE, scraper.scrape(parsed.clone()).collect::<Vec<_>>());
    let mut scraped = scraped.await.expect("it is done in time");
    scraped.sort_by_key(|it| parsed.iter().position(|url| *url == it.url));
    scraped
}

async fn scrape_one(rules: Rules, url: String) -> Scraped {
    scrape(rules, &[url]).await.remove(0)
}

/// A server whose page `/` is what `answer` makes of the number of the call, from 1; and when each
/// of the calls came.
async fn server_of<R: IntoResponse>(
    answer: impl Fn(usize) -> R + Clone + Send + Sync + 'static,
) -> (Server, Arc<Mutex<Vec<Instant>>>) {
    let arrivals = Arc::new(Mutex::new(Vec::new()));
    let calls = Arc::clone(&arrivals);
    let handler = async move || {
        let n = {
            let mut calls = calls.lock();
            calls.push(Instant::now());
            calls.len()
        };
        answer(n)
    };
    (Server::with(Router::new().route("/", get(handler))).await, arrivals)
}

/// A listener that resets every connection as soon as there is one.
async fn resetting(group: &TaskGroup) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    group.spawn("resetting", async move {
        loop {
            let (connection, _) = listener.accept().await?;
            connection.set_zero_linger()?;
            drop(connection);
        }
        #[expect(unreachable_code, reason = "it says what the loop returns on an error")]
        Ok::<(), std::io::Error>(())
    });
    address
}

fn status_of(error: &HttpError) -> u16 {
    let HttpError::Status { status, .. } = error else { panic!("{error}") };
    status.as_u16()
}

// Success and failure.

#[tokio::test]
async fn pages_have_their_titles() {
    let server = Server::start().await;
    let urls = [1, 2, 3].map(|n| server.url(&format!("/page/{n}")));
    let scraped = scrape(rules(), &urls).await;
    let titles: Vec<_> = scraped.into_iter().map(|it| it.title.unwrap().unwrap()).collect();
    assert_eq!(titles, ["Page 1", "Page 2", "Page 3"]);
}

#[tokio::test]
async fn a_missing_page_is_asked_for_once() {
    let server = Server::start().await;
    let scraped = scrape_one(rules(), server.url("/missing")).await;
    assert_eq!(status_of(&scraped.title.unwrap_err()), 404);
    assert_eq!((scraped.n_attempts, server.n_requests()), (1, 1));
}

#[tokio::test]
async fn a_silent_server_is_left_after_the_timeout_of_each_attempt() {
    let server = Server::with(routes()).await;
    let began = Instant::now();
    let rules = Rules { timeout: Duration::from_millis(50), n_attempts_max: 2, ..rules() };
    let scraped = scrape_one(rules, server.url("/silent")).await;
    assert_eq!(scraped.title, Err(HttpError::Timeout));
    assert_eq!(scraped.n_attempts, 2);
    assert!(Duration::from_millis(100) <= began.elapsed());
}

#[tokio::test]
async fn the_timeout_covers_the_body_too() {
    let (server, _) = server_of(|_| {
        let first = futures::stream::iter([Ok::<_, Infallible>(Bytes::from("<html>"))]);
        Html(Body::from_stream(first.chain(futures::stream::pending())))
    })
    .await;
    let rules = Rules { timeout: Duration::from_millis(50), n_attempts_max: 1, ..rules() };
    assert_eq!(scrape_one(rules, server.url("/")).await.title, Err(HttpError::Timeout));
}

#[tokio::test]
async fn refused_reset_and_cut_connections_are_told_apart_and_tried_again() {
    let group = TaskGroup::isolated();
    let server = Server::with(routes()).await;
    let urls = [
        format!("http://{}/", closed_address().await),
        format!("http://{}/", resetting(&group).await),
        server.url("/cut"),
    ];
    let scraped = scrape(rules(), &urls).await;
    let errors: Vec<_> = scraped.iter().map(|it| it.title.clone().unwrap_err()).collect();
    assert_eq!(errors, [HttpError::Refused, HttpError::Closed, HttpError::Closed]);
    assert!(scraped.iter().all(|it| it.n_attempts == 3));
}

#[tokio::test]
async fn one_bad_page_is_no_matter_of_the_others() {
    let server = Server::with(routes()).await;
    let urls = ["/missing", "/page/1", "/untitled", "/page/2"].map(|it| server.url(it));
    let mut summary = Summary::default();
    for scraped in scrape(rules(), &urls).await {
        summary.add(&scraped);
    }
    let outcomes: Vec<_> = summary.by_outcome.iter().map(|(it, n)| (it.as_str(), *n)).collect();
    assert_eq!(outcomes, [("a title", 2), ("no title", 1), ("status 404 Not Found", 1)]);
    assert_eq!((summary.n_pages, summary.n_failed, summary.n_retries), (4, 1, 0));
    assert!(summary.to_string().contains("4 pages, 0 retries"), "{summary}");
}

// Retries.

#[tokio::test]
async fn a_server_that_recovers_is_asked_until_it_does() {
    let server = Server::start().await;
    let scraped = scrape_one(rules(), server.url("/flaky/a/2")).await;
    assert_eq!((scraped.title, scraped.n_attempts), (Ok(None), 3));
}

#[tokio::test]
async fn a_server_that_does_not_recover_is_left_alone() {
    let server = Server::start().await;
    let rules = Rules { n_attempts_max: 4, ..rules() };
    let scraped = scrape_one(rules, server.url("/flaky/a/100")).await;
    assert_eq!(status_of(&scraped.title.unwrap_err()), 503);
    assert_eq!((scraped.n_attempts, server.n_requests()), (4, 4));
}

#[tokio::test]
async fn attempts_are_spaced_by_the_backoff() {
    let (server, arrivals) = server_of(|_| StatusCode::BAD_GATEWAY).await;
    let delay = Duration::from_millis(60);
    let rules = Rules { backoff: Backoff::constant(delay), ..rules() };
    scrape_one(rules, server.url("/")).await;
    let arrivals = arrivals.lock();
    assert_eq!(arrivals.len(), 3);
    assert!(arrivals.windows(2).all(|it| delay <= it[1] - it[0]), "{arrivals:?}");
}

#[tokio::test]
async fn retry_after_is_honoured_to_the_second() {
    let (server, arrivals) = server_of(|n| match n {
        1 => (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, "1")]).into_response(),
        _ => Html("<title>at last</title>").into_response(),
    })
    .await;
    let scraped = scrape_one(rules(), server.url("/")).await;
    assert_eq!((scraped.title, scraped.n_attempts), (Ok(Some("at last".to_owned())), 2));
    let arrivals = arrivals.lock();
    assert!(Duration::from_secs(1) <= arrivals[1] - arrivals[0], "{arrivals:?}");
}

#[tokio::test]
async fn retry_after_takes_the_place_of_the_backoff() {
    let server = Server::start().await;
    let rules = Rules { backoff: Backoff::constant(Duration::from_secs(3600)), ..rules() };
    let scraped = scrape_one(rules, server.url("/busy/a")).await; // `Retry-After: 0`
    assert_eq!((scraped.title, scraped.n_attempts), (Ok(None), 2));
}

#[tokio::test]
async fn retry_after_holds_for_the_whole_host_and_for_no_other() {
    let (busy, arrivals) = server_of(|n| match n {
        1 => (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")]).into_response(),
        _ => Html("<title>page</title>").into_response(),
    })
    .await;
    let other = Server::start().await;
    let rules = Rules { n_per_host_max: 1, ..rules() };
    let urls = [busy.url("/"), busy.url("/?again"), other.url("/page/1")];
    let scraped = scrape(rules, &urls).await;
    assert!(scraped.iter().all(|it| it.title.is_ok()));
    assert!(scraped[2].took < scraped[0].took, "the other host was not kept waiting");
    let arrivals = arrivals.lock();
    assert_eq!(arrivals.len(), 3);
    assert!(arrivals[1..].iter().all(|it| Duration::from_secs(1) <= *it - arrivals[0]));
}

#[tokio::test]
async fn a_server_that_asks_for_an_hour_is_not_waited_for() {
    let hour = |_| (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "3600")]);
    let (server, arrivals) = server_of(hour).await;
    let scraped = scrape_one(rules(), server.url("/")).await;
    assert_eq!(scraped.title.unwrap_err().retry_after(), Some(Duration::from_secs(3600)));
    assert_eq!(arrivals.lock().len(), 1);
}

// Bounds.

/// The server answers only when as many requests are there at once as there may be: so many there
/// were. It keeps them for a while, in which one too many would come, and counts.
async fn check_at_once(rules: Rules, n_urls: usize, expected: usize) {
    let barrier = Arc::new(Barrier::new(expected));
    let meet = async move || {
        barrier.wait().await;
        tokio::time::sleep(Duration::from_millis(30)).await;
        Html("<title>met</title>")
    };
    let server = Server::with(Router::new().route("/meet/{n}", get(meet))).await;
    let urls: Vec<_> = (0..n_urls).map(|n| server.url(&format!("/meet/{n}"))).collect();
    let scraped = scrape(rules, &urls).await;
    assert!(scraped.iter().all(|it| it.title.is_ok()));
    assert_eq!(server.n_at_once_most(), expected);
}

#[tokio::test]
async fn a_host_has_as_many_requests_at_once_as_it_may_and_no_more() {
    check_at_once(Rules { n_per_host_max: 2, ..rules() }, 12, 2).await;
    check_at_once(Rules { n_at_once_max: 3, ..rules() }, 12, 3).await;
}

#[tokio::test]
async fn waiting_for_one_host_keeps_no_other_waiting() {
    let (slow, other) = (Server::with(routes()).await, Server::start().await);
    let slow = (0..10).map(|n| slow.url(&format!("/silent?{n}")));
    let urls: Vec<Url> = slow.chain([other.url("/page/1")]).map(|it| it.parse().unwrap()).collect();
    let rules = Rules { n_at_once_max: 2, n_per_host_max: 1, ..rules() };
    let scraper = Scraper::new(client(), rules);
    let mut scraped = std::pin::pin!(scraper.scrape(urls));
    let first = timeout(PATIENCE, scraped.next()).await.expect("it is not kept waiting").unwrap();
    assert_eq!(first.title, Ok(Some("Page 1".to_owned())));
}

#[tokio::test]
async fn a_host_is_never_asked_faster_than_its_rate() {
    let (server, arrivals) = server_of(|_| Html("<title>page</title>")).await;
    let urls: Vec<_> = (0..8).map(|n| server.url(&format!("/?{n}"))).collect();
    let rules = Rules { rate_per_host: "25/s".parse().unwrap(), ..rules() };
    let began = Instant::now();
    scrape(rules, &urls).await;
    // Request `n` may come late, so two may come close together; none may come early.
    let arrivals = arrivals.lock();
    assert_eq!(arrivals.len(), 8);
    for (n, arrival) in (0..).zip(&*arrivals) {
        assert!(Duration::from_millis(40) * n <= *arrival - began, "request {n} came early");
    }
}

#[tokio::test]
async fn each_host_has_a_rate_of_its_own() {
    let servers = [Server::start().await, Server::start().await];
    let urls = servers.each_ref().map(|it| it.url("/page/1"));
    let rules = Rules { rate_per_host: "1/h".parse().unwrap(), ..rules() };
    let scraped = scrape(rules, &urls).await;
    assert!(scraped.iter().all(|it| it.title.is_ok()));
}

// Titles.

async fn title_of(content_type: &'static str, page: impl Into<Bytes>) -> Option<String> {
    let page: Bytes = page.into();
    let content_type = HeaderValue::from_static(content_type);
    let (server, _) =
        server_of(move |_| ([(CONTENT_TYPE, content_type.clone())], page.clone())).await;
    scrape_one(rules(), server.url("/")).await.title.unwrap()
}

async fn check_title(page: &str, expected: Option<&str>) {
    let title = title_of("text/html; charset=utf-8", page.to_owned()).await;
    assert_eq!(title.as_deref(), expected, "{page:.100}");
}

#[tokio::test]
async fn entities_are_decoded_and_white_space_is_one_space() {
    check_title("<title>A &amp; B</title>", Some("A & B")).await;
    check_title("<TITLE lang=en>\n Fish\n &#38; &eacute;&#x2603; </TITLE>", Some("Fish & é☃"))
        .await;
    check_title("<title>1 < 2 <b>not bold</b></title>", Some("1 < 2 <b>not bold</b>")).await;
}

#[tokio::test]
async fn what_is_no_title_of_the_page_is_none() {
    check_title("", None).await;
    check_title("<title> &nbsp; </title>", None).await;
    check_title("<!-- <title>x</title> --><script>'<title>y</title>'</script>", None).await;
    check_title("<svg><title>logo</title></svg><title>page</title>", Some("page")).await;
    check_title("<title>cut", Some("cut")).await;
}

#[tokio::test]
async fn the_server_says_what_a_page_is() {
    assert_eq!(title_of("image/svg+xml", "<title>drawing</title>").await, None);
    let latin = &b"<title>caf\xe9</title>"[..];
    let title = title_of("text/html; charset=ISO-8859-1", latin).await;
    assert_eq!(title.as_deref(), Some("café"));
    let title = title_of("text/html; charset=no-such-thing", "<title>é</title>").await;
    assert_eq!(title.as_deref(), Some("é"));
}

/// A page without end: `head`, and then the same words for ever.
fn endless(head: &'static str) -> Response {
    let more = futures::stream::repeat_with(|| Bytes::from(vec![b'x'; 8192]));
    let pieces = futures::stream::iter([Bytes::from(head)]).chain(more).map(Ok::<_, Infallible>);
    Html(Body::from_stream(pieces)).into_response()
}

#[tokio::test]
async fn of_a_page_without_end_only_the_beginning_is_read() {
    let (server, _) = server_of(|_| endless("<title>endless</title>")).await;
    let scraped = scrape_one(rules(), server.url("/")).await;
    assert_eq!(scraped.title, Ok(Some("endless".to_owned())));

    let (server, _) = server_of(|_| endless("<p>")).await;
    assert_eq!(scrape_one(rules(), server.url("/")).await.title, Ok(None));
}

#[tokio::test]
async fn dropping_the_stream_drops_the_requests_and_frees_their_places() {
    let barrier = Arc::new(Barrier::new(2));
    let meet = async move || {
        barrier.wait().await;
        Html("<title>met</title>")
    };
    let server = Server::with(routes().route("/meet/{n}", get(meet))).await;
    let scraper = Scraper::new(client(), Rules { n_per_host_max: 2, ..rules() });
    let urls = |paths: [&str; 2]| paths.map(|it| server.url(it).parse::<Url>().unwrap());
    {
        let mut scraped = std::pin::pin!(scraper.scrape(urls(["/page/1", "/silent"])));
        scraped.next().await.expect("the quick page");
    }
    // These two meet only when both places of the host are free again.
    let met = scraper.scrape(urls(["/meet/1", "/meet/2"])).collect::<Vec<_>>();
    let met = timeout(PATIENCE, met).await.expect("no place was lost");
    assert!(met.iter().all(|it| it.title.is_ok()));
}
