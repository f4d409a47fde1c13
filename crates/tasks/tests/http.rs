//! The task `http`, against servers of this process.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{any, get};
use serde_json::{Value, json};
use taskloom_dispatch::{CancelReason, Ctx, Task, TaskError, TaskErrorKind};
use taskloom_tasks::http::Keep;
use taskloom_tasks::{Http, HttpArgs, HttpOutput};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// A server, and the task that talks to it. The server ends with it.
struct World {
    address: SocketAddr,
    http: Http,
    // A `JoinSet` and not a task group: a test ends its servers by dropping them.
    _servers: JoinSet<()>,
}

impl World {
    async fn new() -> World {
        let mut servers = JoinSet::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        servers.spawn(async move { axum::serve(listener, routes()).await.unwrap() });
        World { address, http: Http::default(), _servers: servers }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn get(&self, path: &str) -> HttpArgs {
        HttpArgs::get(self.url(path))
    }

    async fn run(&self, args: HttpArgs) -> Result<HttpOutput, TaskError> {
        self.http.run(&Ctx::detached(), args).await
    }

    async fn check_error(&self, args: HttpArgs, kind: TaskErrorKind, code: &str) -> TaskError {
        let error = self.run(args).await.expect_err("the request should fail");
        assert_eq!(error.code_str(), Some(code), "{error}");
        assert_eq!(error.kind(), kind, "{error}");
        error
    }

    async fn check_title(&self, path: &str, expected: Option<&str>) {
        let output = self.run(self.get(path).keep([Keep::Title])).await.unwrap();
        assert_eq!(output.title.as_deref(), expected, "{path}");
    }
}

fn routes() -> Router {
    Router::new()
        .route("/", get(|| async { html("<title>A &amp; B</title>".into()) }))
        .route(
            "/latin",
            get(|| async {
                let page = b"<html><title>caf\xe9</title>".to_vec();
                ([(header::CONTENT_TYPE, "text/html; charset=iso-8859-1")], page)
            }),
        )
        .route(
            "/meta",
            get(|| async {
                html(b"<meta charset=\"koi8-r\"><title>\xd4\xc5\xd3\xd4</title>".to_vec())
            }),
        )
        .route(
            "/long",
            get(|| async { html(format!("<title>long</title>{}", "x".repeat(100_000)).into()) }),
        )
        .route("/json", get(|| async { axum::body::Body::from(r#"{"a":[1,2]}"#) }))
        .route("/large", get(|| async { "x".repeat(2 << 20) }))
        .route("/endless", get(endless))
        .route("/never", get(std::future::pending::<()>))
        .route("/echo", any(echo))
        .route("/status/{status}", any(status))
        .route("/loop", get(|| async { Redirect::temporary("/loop") }))
        .route(
            "/hop/{n}",
            get(|Path(n): Path<u32>| async move {
                match n {
                    0 => "done".into_response(),
                    n => Redirect::temporary(&format!("/hop/{}", n - 1)).into_response(),
                }
            }),
        )
}

fn html(page: Vec<u8>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/html")], page)
}

async fn endless() -> Response {
    let chunks = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b'x'; 65_536]));
    axum::body::Body::from_stream(chunks).into_response()
}

async fn echo(request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let headers: HashMap<_, _> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    let body = String::from_utf8_lossy(&body);
    let seen = json!({"method": parts.method.as_str(), "headers": headers, "body": body});
    seen.to_string().into_response()
}

async fn status(Path(status): Path<u16>, headers: HeaderMap) -> Response {
    let mut response = StatusCode::from_u16(status).unwrap().into_response();
    if let Some(value) = headers.get("x-retry-after") {
        response.headers_mut().insert(header::RETRY_AFTER, value.clone());
    }
    if let Some(value) = headers.get("x-date") {
        response.headers_mut().insert(header::DATE, value.clone());
    }
    response
}

#[tokio::test]
async fn a_page_yields_its_title() {
    let world = World::new().await;
    let output = world.run(world.get("/").keep([Keep::Title])).await.unwrap();
    assert_eq!(output.title.as_deref(), Some("A & B"));
    assert_eq!((output.status, output.length), (200, 24));
    assert_eq!(output.url, world.url("/"));
    assert_eq!((output.text, output.json), (None, None));
}

#[tokio::test]
async fn a_title_is_decoded_by_header_or_meta() {
    let world = World::new().await;
    world.check_title("/latin", Some("café")).await;
    world.check_title("/meta", Some("тест")).await;
    world.check_title("/long", Some("long")).await;
    world.check_title("/json", None).await;
}

#[tokio::test]
async fn text_and_json_are_kept_when_asked() {
    let world = World::new().await;
    let output = world.run(world.get("/json").keep([Keep::Json, Keep::Text])).await.unwrap();
    assert_eq!(output.json, Some(json!({"a": [1, 2]})));
    assert_eq!(output.text.as_deref(), Some(r#"{"a":[1,2]}"#));
    let no_json = world.get("/").keep([Keep::Json]);
    world.check_error(no_json, TaskErrorKind::Permanent, "http.json").await;
}

#[tokio::test]
async fn a_request_carries_what_it_was_given() {
    let world = World::new().await;
    let args = HttpArgs::post(world.url("/echo")).json(json!({"n": 1})).header("X-One", "1");
    let seen = world.run(args.keep([Keep::Json])).await.unwrap().json.unwrap();
    assert_eq!(seen["method"], "POST");
    assert_eq!(seen["body"], r#"{"n":1}"#);
    assert_eq!(seen["headers"]["content-type"], "application/json");
    assert_eq!(seen["headers"]["x-one"], "1");
    assert_eq!(seen["headers"]["idempotency-key"], Ctx::detached().idempotency_key());
    let args = HttpArgs::new("put", world.url("/echo"))
        .body("text")
        .header_env("x-path", "CARGO_MANIFEST_DIR");
    let seen = world.run(args.keep([Keep::Json])).await.unwrap().json.unwrap();
    assert_eq!((&seen["method"], &seen["body"]), (&json!("PUT"), &json!("text")));
    assert_eq!(seen["headers"]["x-path"], env!("CARGO_MANIFEST_DIR"));
    assert_eq!(seen["headers"]["idempotency-key"], Value::Null);
}

#[tokio::test]
async fn an_unexpected_status_is_permanent() {
    let world = World::new().await;
    for status in [301, 400, 404, 410] {
        let code = format!("http.status.{status}");
        let args = world.get(&format!("/status/{status}"));
        world.check_error(args, TaskErrorKind::Permanent, &code).await;
    }
    let created = world.get("/status/201").expect([200]);
    world.check_error(created, TaskErrorKind::Permanent, "http.status.201").await;
    let missing = world.run(world.get("/status/404").expect([200, 404])).await.unwrap();
    assert_eq!(missing.status, 404);
}

#[tokio::test]
async fn a_status_that_may_pass_is_transient() {
    let world = World::new().await;
    for status in [408, 425, 429, 500, 502, 503, 504] {
        let code = format!("http.status.{status}");
        let args = world.get(&format!("/status/{status}"));
        let error = world.check_error(args, TaskErrorKind::Transient, &code).await;
        assert_eq!(error.retry_after_hint(), None);
    }
}

#[tokio::test]
async fn retry_after_is_seconds_or_a_date() {
    let world = World::new().await;
    let in_seconds = world.get("/status/429").header("x-retry-after", "17");
    let error = world.check_error(in_seconds, TaskErrorKind::Transient, "http.status.429").await;
    assert_eq!(error.retry_after_hint(), Some(Duration::from_secs(17)));
    let as_date = world
        .get("/status/503")
        .header("x-date", "Sun, 06 Nov 1994 08:49:00 GMT")
        .header("x-retry-after", "Sun, 06 Nov 1994 08:49:37 GMT");
    let error = world.check_error(as_date, TaskErrorKind::Transient, "http.status.503").await;
    assert_eq!(error.retry_after_hint(), Some(Duration::from_secs(37)));
}

#[tokio::test]
async fn redirects_are_followed_up_to_a_bound() {
    let world = World::new().await;
    let output = world.run(world.get("/hop/10").keep([Keep::Text])).await.unwrap();
    assert_eq!((output.text.as_deref(), output.url), (Some("done"), world.url("/hop/0")));
    let permanent = TaskErrorKind::Permanent;
    world.check_error(world.get("/hop/11"), permanent, "http.redirects").await;
    world.check_error(world.get("/loop"), permanent, "http.redirects").await;
    world.check_error(world.get("/hop/3").redirects(2), permanent, "http.redirects").await;
    assert_eq!(world.run(world.get("/hop/20").redirects(20)).await.unwrap().status, 200);
    let taken = world.run(world.get("/hop/1").redirects(0).expect([307])).await.unwrap();
    assert_eq!(taken.status, 307);
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_an_error() {
    let world = World::new().await;
    let permanent = TaskErrorKind::Permanent;
    world.check_error(world.get("/large").limit(1 << 20), permanent, "http.too_large").await;
    world.check_error(world.get("/endless"), permanent, "http.too_large").await;
    let kept = world.get("/large").keep([Keep::Text]);
    world.check_error(kept, permanent, "http.too_large").await;
    assert_eq!(world.run(world.get("/large")).await.unwrap().length, 2 << 20);
}

#[tokio::test]
async fn a_server_that_never_answers_times_out() {
    let world = World::new().await;
    let args = world.get("/never").timeout(Duration::from_millis(50));
    world.check_error(args, TaskErrorKind::Transient, "http.timeout").await;
}

#[tokio::test]
async fn a_cancelled_attempt_ends() {
    let world = World::new().await;
    let ctx = Ctx::detached();
    let cancel = async {
        tokio::task::yield_now().await;
        ctx.cancel(CancelReason::Requested);
    };
    let (ended, ()) = tokio::join!(world.http.run(&ctx, world.get("/never")), cancel);
    assert_eq!(ended.unwrap_err().kind(), TaskErrorKind::Cancelled);
}

/// Answers one connection with `bytes`, and ends it.
async fn raw_server(servers: &mut JoinSet<()>, bytes: &'static [u8], resets: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    servers.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        let _n = stream.read(&mut request).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        if resets {
            stream.set_zero_linger().unwrap();
        }
    });
    format!("http://{address}/")
}

#[tokio::test]
async fn a_connection_that_breaks_is_transient() {
    let world = World::new().await;
    let mut servers = JoinSet::new();
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";
    for (bytes, resets) in [(&b""[..], false), (&b""[..], true), (half, false), (half, true)] {
        let url = raw_server(&mut servers, bytes, resets).await;
        let args = HttpArgs::get(url);
        world.check_error(args, TaskErrorKind::Transient, "http.reset").await;
    }
    let url = raw_server(&mut servers, b"SSH-2.0-OpenSSH\r\n", false).await;
    let args = HttpArgs::get(url);
    world.check_error(args, TaskErrorKind::Transient, "http.transport").await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_transient() {
    let world = World::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let refused = HttpArgs::get(format!("http://user:secret@{address}/x?token=secret"));
    let error = world.check_error(refused, TaskErrorKind::Transient, "http.connect").await;
    assert!(error.message().starts_with(&format!("GET http://{address}/x: ")), "{error}");
    assert!(!error.message().contains("secret"), "{error}");
    let unknown = HttpArgs::get("http://no-such-host.invalid/");
    world.check_error(unknown, TaskErrorKind::Transient, "http.dns").await;
    let no_tls = HttpArgs::get(format!("https://{}/", world.address));
    world.check_error(no_tls, TaskErrorKind::Transient, "http.tls").await;
}

#[tokio::test]
async fn what_can_not_be_sent_is_permanent() {
    let world = World::new().await;
    let permanent = TaskErrorKind::Permanent;
    for url in ["", "x", "/x", "ftp://example.com/", "http://", "file:///etc/hosts"] {
        world.check_error(HttpArgs::get(url), permanent, "http.url").await;
    }
    let get = || world.get("/");
    let both = get().body("x").json(1);
    let unset = get().header_env("a", "TASKLOOM_NO_SUCH_VARIABLE");
    for args in [
        HttpArgs::new("NO SUCH", world.url("/")),
        both,
        unset,
        get().header("a b", "c"),
        get().header("a", "b\nc"),
        get().limit(2 << 30),
        get().redirects(51),
        get().expect([20]),
    ] {
        world.check_error(args, permanent, "http.args").await;
    }
}

#[tokio::test]
async fn the_arguments_are_one_json_object() {
    let world = World::new().await;
    let args: HttpArgs = serde_json::from_value(json!({
        "url": world.url("/"),
        "method": "GET",
        "headers": {"accept": "text/html"},
        "expect": [200],
        "keep": ["status", "length", "title"],
        "timeout": "10s",
        "limit": 1000,
        "redirects": 0,
    }))
    .unwrap();
    assert_eq!(world.run(args).await.unwrap().title.as_deref(), Some("A & B"));
    let unknown = serde_json::from_value::<HttpArgs>(json!({"url": "x", "retries": 3}));
    assert!(unknown.unwrap_err().to_string().contains("unknown field `retries`"));
}
