//! The site that the programs visit when they are given no addresses: two hosts on this machine,
//! with pages of every kind.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::response::{Html, Response};
use axum::routing::get;
use taskloom_cookbook::Server;
use tokio::net::TcpListener;

/// Two servers, each a host of its own; they end when this is dropped.
///
/// Besides the paths of [`Server`] they know these:
///
/// | path | answer |
/// |---|---|
/// | `/article/{ms}/{n}` | an HTML page with the title `Article {n}`, after so many milliseconds |
/// | `/untitled` | an HTML page without a title |
/// | `/silent` | nothing, ever |
/// | `/cut` | the beginning of a page, and then the end of the connection |
#[derive(Debug)]
pub struct Site {
    hosts: [Server; 2],
    closed: SocketAddr,
}

impl Site {
    /// Starts it.
    ///
    /// # Panics
    /// When the system has no free port.
    ///
    /// # Cancel safety
    /// Safe: dropped, it has started nothing.
    pub async fn start() -> Site {
        let hosts = [Server::with(routes()).await, Server::with(routes()).await];
        Site { hosts, closed: closed_address().await }
    }

    /// The addresses of `n` articles, each answered after `delay`, on both hosts in turn.
    #[must_use]
    pub fn articles(&self, n: usize, delay: Duration) -> Vec<String> {
        let path = |n: usize| format!("/article/{}/{n}", delay.as_millis());
        (0..n).map(|n| self.hosts[n % self.hosts.len()].url(&path(n))).collect()
    }

    /// Addresses that come to every kind of end, articles first.
    #[must_use]
    pub fn of_every_kind(&self) -> Vec<String> {
        let [first, second] = &self.hosts;
        let mut urls = self.articles(8, Duration::from_millis(40));
        urls.extend(["/untitled", "/flaky/twice/2", "/busy/once"].map(|it| first.url(it)));
        urls.extend(["/missing", "/silent", "/cut"].map(|it| second.url(it)));
        urls.push(format!("http://{}/", self.closed));
        urls
    }

    /// The addresses of `n` articles, and of one missing page and one without a title.
    #[must_use]
    pub fn mostly_good(&self, n: usize) -> Vec<String> {
        let mut urls = self.articles(n, Duration::from_millis(40));
        urls.extend(["/missing", "/untitled"].map(|it| self.hosts[0].url(it)));
        urls
    }

    /// How many requests each host answered at the same time, at most.
    #[must_use]
    pub fn n_at_once_most(&self) -> [usize; 2] {
        self.hosts.each_ref().map(Server::n_at_once_most)
    }
}

/// An address of this machine at which nobody listens.
///
/// # Panics
/// When the system has no free port.
///
/// # Cancel safety
/// Safe.
pub async fn closed_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    listener.local_addr().expect("it has an address")
}

/// The paths of [`Site`] that [`Server`] does not know.
pub fn routes() -> Router {
    Router::new()
        .route("/article/{ms}/{n}", get(article))
        .route("/untitled", get(async || Html("<p>no title here</p>")))
        .route("/silent", get(std::future::pending::<()>))
        .route("/cut", get(cut))
}

async fn article(Path((ms, n)): Path<(u64, usize)>) -> Html<String> {
    tokio::time::sleep(Duration::from_millis(ms)).await;
    let words = "so many words ".repeat(n + 1);
    Html(format!("<html><title>Article {n}</title><body><p>{words}</p></body></html>"))
}

async fn cut() -> Response {
    let pieces = [Ok(Bytes::from("<html>")), Err(io::Error::other("out of ink"))];
    Response::new(Body::from_stream(futures::stream::iter(pieces)))
}
