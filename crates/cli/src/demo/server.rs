//! An HTTP server on 127.0.0.1 that serves recorded data as the Internet would: with faults.
//!
//! - `/data/{file}`: each file of recorded data
//! - `/airports/{iata}`: a page for each airport, with a title
//! - `/quakes/{id}`: one earthquake as JSON
//! - [`MISSING_PATHS`] always answer 404, and [`BROKEN_PATH`] always answers 500
//!
//! # Invariants
//! - Memory is bounded: requests are counted by path only for paths that exist.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use taskloom_flow::TaskGroup;
use tokio::net::TcpListener;

use self::wire::{Peer, Wires};
use super::faults::{Fault, Faults};
use super::records;

mod wire;

/// Paths that look like any other and were never there.
pub(crate) const MISSING_PATHS: [&str; 3] = ["/data/lost.csv", "/airports/NOWHERE", "/quakes/none"];

/// A path that never works.
pub(crate) const BROKEN_PATH: &str = "/broken";

const HTML: &str = "text/html; charset=utf-8";

/// The running server. It stops with the task group it was started in.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    address: SocketAddr,
    world: Arc<World>,
}

/// How many answers of each kind were given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Served {
    /// All requests.
    pub(crate) n_requests: u64,
    /// Right, and late.
    pub(crate) n_slow: u64,
    /// Status 500 that a retry cures.
    pub(crate) n_server_errors: u64,
    /// Status 429 with `Retry-After`.
    pub(crate) n_throttled: u64,
    /// Connections reset instead of an answer.
    pub(crate) n_resets: u64,
    /// Status 404.
    pub(crate) n_missing: u64,
    /// Status 500 of [`BROKEN_PATH`], which nothing cures.
    pub(crate) n_broken: u64,
}

#[derive(Debug)]
struct World {
    faults: Faults,
    /// How often each existing path was asked for; written by every request.
    asked: Mutex<HashMap<String, u64>>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    slow: AtomicU64,
    server_errors: AtomicU64,
    throttled: AtomicU64,
    resets: AtomicU64,
    missing: AtomicU64,
    broken: AtomicU64,
}

impl Server {
    /// Starts the server in `group`, on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port can be bound.
    ///
    /// # Cancel safety
    /// Safe: dropped, it has started nothing.
    pub(crate) async fn start(group: &TaskGroup, faults: Faults) -> io::Result<Server> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let counters = Counters::default();
        let world = Arc::new(World { faults, asked: Mutex::default(), counters });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&world));
        let service = router.into_make_service_with_connect_info::<Peer>();
        group.spawn_with("demo http server", |stop| async move {
            let serving = axum::serve(Wires(listener), service);
            let stopped = stop.token().clone().cancelled_owned();
            if let Err(error) = serving.with_graceful_shutdown(stopped).await {
                tracing::error!(%error, "the demo's HTTP server ended");
            }
        });
        Ok(Server { address, world })
    }

    /// The address of `path`, which starts with `/`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What was served so far.
    pub(crate) fn served(&self) -> Served {
        let read = |it: &AtomicU64| it.load(Ordering::Relaxed);
        let counters = &self.world.counters;
        Served {
            n_requests: read(&counters.requests),
            n_slow: read(&counters.slow),
            n_server_errors: read(&counters.server_errors),
            n_throttled: read(&counters.throttled),
            n_resets: read(&counters.resets),
            n_missing: read(&counters.missing),
            n_broken: read(&counters.broken),
        }
    }
}

impl World {
    /// Which request for `path` this is, from 0.
    fn count(&self, path: &str) -> u64 {
        // A panic while it was held left a number that is at worst one too low.
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let n = asked.entry(path.to_owned()).or_insert(0);
        *n += 1;
        *n - 1
    }
}

async fn answer(
    State(world): State<Arc<World>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    method: Method,
    uri: Uri,
) -> Response {
    let path = uri.path();
    count(&world.counters.requests);
    if path == BROKEN_PATH {
        count(&world.counters.broken);
        return (StatusCode::INTERNAL_SERVER_ERROR, "this page never works\n").into_response();
    }
    if method != Method::GET && method != Method::HEAD {
        return (StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n").into_response();
    }
    let Some((media_type, body)) = page(path) else {
        count(&world.counters.missing);
        return (StatusCode::NOT_FOUND, "there is no such page\n").into_response();
    };
    match world.faults.decide(path, world.count(path)) {
        Some(Fault::Slow(delay)) => {
            count(&world.counters.slow);
            tokio::time::sleep(delay).await;
        }
        Some(Fault::ServerError) => {
            count(&world.counters.server_errors);
            return (StatusCode::INTERNAL_SERVER_ERROR, "try again\n").into_response();
        }
        Some(Fault::Throttled) => {
            count(&world.counters.throttled);
            let later = [(RETRY_AFTER, "1")];
            return (StatusCode::TOO_MANY_REQUESTS, later, "not so fast\n").into_response();
        }
        Some(Fault::Reset) => {
            count(&world.counters.resets);
            peer.reset();
        }
        None => {}
    }
    ([(CONTENT_TYPE, HeaderValue::from_static(media_type))], body).into_response()
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn page(path: &str) -> Option<(&'static str, Body)> {
    let (folder, name) = path.strip_prefix('/')?.split_once('/')?;
    match folder {
        "data" => records::file(name).map(|it| (it.media_type, Body::from(it.content))),
        "airports" => {
            let title = records::airport_titles().get(name)?;
            Some((HTML, Body::from(airport_page(name, title))))
        }
        "quakes" => records::quakes().get(name).map(|it| ("application/json", Body::from(*it))),
        _ => None,
    }
}

fn airport_page(iata: &str, title: &str) -> String {
    let title = title
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;");
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <title>{title}</title>\n</head>\n<body>\n<h1>{title}</h1>\n<p>IATA code {iata}</p>\n\
         <p><a href=\"/data/airports.csv\">All airports</a></p>\n</body>\n</html>\n"
    )
}

#[cfg(test)]
mod tests;
