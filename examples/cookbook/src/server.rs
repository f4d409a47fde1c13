//! A local HTTP server for the programs: pages that are quick, slow, missing, or broken.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt as _;
use taskloom_flow::TaskGroup;
use tokio::net::TcpListener;

/// A server on a port of its own; it ends when this is dropped.
///
/// | path | answer |
/// |---|---|
/// | `/page/{n}` | a small HTML page with the title `Page {n}` |
/// | `/slow/{ms}` | the text `slow`, after so many milliseconds |
/// | `/flaky/{name}/{n}` | 503 for the first `n` calls of this `name`, then the text `at last` |
/// | `/busy/{name}` | 429 with `Retry-After: 0` once for each `name`, then the text `welcome` |
/// | anything else | 404 |
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    world: Arc<World>,
    _group: TaskGroup,
}

#[derive(Debug, Default)]
struct World {
    calls: parking_lot::Mutex<std::collections::HashMap<String, usize>>,
    n_requests: AtomicUsize,
    n_at_once: AtomicUsize,
    n_at_once_most: AtomicUsize,
    n_connections: AtomicUsize,
}

impl Server {
    /// Starts it.
    ///
    /// # Panics
    /// When the system has no free port.
    ///
    /// # Cancel safety
    /// Safe: dropped, it has started nothing.
    pub async fn start() -> Server {
        Server::with(Router::new()).await
    }

    /// Starts it with further routes.
    ///
    /// # Panics
    /// When the system has no free port.
    ///
    /// # Cancel safety
    /// Safe: dropped, it has started nothing.
    pub async fn with(routes: Router) -> Server {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it has an address");
        let world = Arc::new(World::default());
        let router = Router::new()
            .route("/page/{n}", get(page))
            .route("/slow/{ms}", get(slow))
            .route("/flaky/{name}/{n}", get(flaky))
            .route("/busy/{name}", get(busy))
            .with_state(Arc::clone(&world))
            .merge(routes)
            .layer(axum::middleware::from_fn_with_state(Arc::clone(&world), count));
        let group = TaskGroup::isolated();
        let counted = Arc::clone(&world);
        let listener = listener.tap_io(move |_| {
            counted.n_connections.fetch_add(1, Ordering::Relaxed);
        });
        group.spawn("server", async move { axum::serve(listener, router).await });
        Server { address, world, _group: group }
    }

    /// The address of `path`, which begins with `/`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests it has seen.
    #[must_use]
    pub fn n_requests(&self) -> usize {
        self.world.n_requests.load(Ordering::Relaxed)
    }

    /// How many requests it has answered at the same time, at most.
    #[must_use]
    pub fn n_at_once_most(&self) -> usize {
        self.world.n_at_once_most.load(Ordering::Relaxed)
    }

    /// How many connections clients have made to it.
    #[must_use]
    pub fn n_connections(&self) -> usize {
        self.world.n_connections.load(Ordering::Relaxed)
    }
}

/// Counts a request while it is answered; dropped with it, should the client go away.
struct AtOnce(Arc<World>);

impl Drop for AtOnce {
    fn drop(&mut self) {
        self.0.n_at_once.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn count(
    State(world): State<Arc<World>>,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> Response {
    world.n_requests.fetch_add(1, Ordering::Relaxed);
    let n_now = world.n_at_once.fetch_add(1, Ordering::Relaxed) + 1;
    world.n_at_once_most.fetch_max(n_now, Ordering::Relaxed);
    let _at_once = AtOnce(Arc::clone(&world));
    next.run(request).await
}

async fn page(Path(n): Path<usize>) -> Html<String> {
    Html(format!("<html><title>Page {n}</title><body>{}</body></html>", "x".repeat(n)))
}

async fn slow(Path(ms): Path<u64>) -> &'static str {
    tokio::time::sleep(Duration::from_millis(ms)).await;
    "slow"
}

async fn flaky(
    State(world): State<Arc<World>>,
    Path((name, n)): Path<(String, usize)>,
) -> Response {
    if n < world.call(format!("flaky {name}")) {
        "at last".into_response()
    } else {
        StatusCode::SERVICE_UNAVAILABLE.into_response()
    }
}

async fn busy(State(world): State<Arc<World>>, Path(name): Path<String>) -> Response {
    if 1 < world.call(format!("busy {name}")) {
        "welcome".into_response()
    } else {
        (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, "0")]).into_response()
    }
}

impl World {
    /// Counts a call of something, from 1.
    fn call(&self, what: String) -> usize {
        let mut calls = self.calls.lock();
        let n = calls.entry(what).or_default();
        *n += 1;
        *n
    }
}
