//! A local HTTP server that counts what is asked of it and answers as the path says.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{Html, IntoResponse, Response};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// How long a wait may last before the test is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the handlers and the test share.
struct Shared {
    hits: watch::Sender<HashMap<String, usize>>,
    gate: watch::Sender<bool>,
}

/// `/page/…` answers at once, `/slow/…` after 50 ms, `/hold/…` once [`Server::open`] is called,
/// `/flaky/…` at the second time, `/missing/…` never, `/broken/…` with an error.
pub(crate) struct Server {
    url: String,
    shared: Arc<Shared>,
    runtime: Runtime,
}

impl Server {
    pub(crate) fn start() -> Server {
        let shared = Shared { hits: watch::Sender::default(), gate: watch::Sender::new(false) };
        let shared = Arc::new(shared);
        let runtime = Runtime::new().expect("a runtime starts");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("there is a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Server { url, shared, runtime }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// Lets `/hold/…` answer from now on.
    pub(crate) fn open(&self) {
        self.shared.gate.send_replace(true);
    }

    /// How often each path was asked for.
    pub(crate) fn hits(&self) -> HashMap<String, usize> {
        self.shared.hits.borrow().clone()
    }

    /// Waits until paths with this beginning were asked for `n` times in all.
    pub(crate) fn wait_for(&self, prefix: &str, n: usize) {
        let mut hits = self.shared.hits.subscribe();
        let all = |hits: &HashMap<String, usize>| -> usize {
            hits.iter().filter(|(path, _)| path.starts_with(prefix)).map(|(_, n)| *n).sum()
        };
        self.runtime.block_on(async {
            let waited = tokio::time::timeout(PATIENCE, hits.wait_for(|it| n <= all(it))).await;
            assert!(waited.is_ok(), "{prefix} was not asked for {n} times");
        });
    }
}

async fn answer(State(shared): State<Arc<Shared>>, uri: Uri) -> Response {
    let path = uri.path().to_owned();
    let mut n = 0;
    shared.hits.send_modify(|hits| {
        n = hits.get(&path).copied().unwrap_or(0) + 1;
        hits.insert(path.clone(), n);
    });
    match path.split('/').nth(1) {
        Some("missing") => return StatusCode::NOT_FOUND.into_response(),
        Some("broken") => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Some("flaky") if n == 1 => {
            return (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "0")]).into_response();
        }
        Some("slow") => tokio::time::sleep(Duration::from_millis(50)).await,
        Some("hold") => {
            let mut gate = shared.gate.subscribe();
            gate.wait_for(|it| *it).await.ok();
        }
        _ => {}
    }
    Html(format!("<title>Page {path}</title>")).into_response()
}
