//! A feed over HTTP: each event is seen as it comes, and a cut connection loses none.

use std::convert::Infallible;
use std::{io, time::Duration};

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::{Router, routing::get};
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use taskloom_cookbook::{Server, client_builder};
use taskloom_flow::{Backoff, BoxError};
use tokio::sync::watch;
use tokio_util::codec::{FramedRead, LinesCodec};
use tokio_util::io::StreamReader;

/// Everything that was said, in order; the place in it is the cursor a client resumes from.
type Log = watch::Sender<Vec<&'static str>>;

/// Each connection ends after three events, as if a proxy had cut it.
async fn feed(
    State(log): State<Log>,
    headers: HeaderMap,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let last = headers.get("last-event-id").and_then(|it| it.to_str().ok()?.parse().ok());
    let events = stream::unfold((last.unwrap_or(0), log.subscribe()), async |(n, mut log)| {
        let words = log.wait_for(|it| n < it.len()).await.ok()?[n];
        Some((Ok(Event::default().id((n + 1).to_string()).data(words)), (n + 1, log)))
    });
    Sse::new(events.take(3)).keep_alive(KeepAlive::default())
}

/// How long a line may get, and the data of one event.
const EVENT_MAX: usize = 64 * 1024;

/// The events of an answer, each with the id to resume from.
fn events(response: reqwest::Response) -> impl Stream<Item = Result<(String, String), BoxError>> {
    let bytes = StreamReader::new(response.bytes_stream().map_err(io::Error::other));
    let lines = FramedRead::new(bytes, LinesCodec::new_with_max_length(EVENT_MAX));
    let start = (Box::pin(lines), String::new());
    stream::try_unfold(start, async |(mut lines, mut id)| {
        let mut data = String::new();
        while let Some(line) = lines.try_next().await? {
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "data" => data.extend([value, "\n"]),
                "id" => value.clone_into(&mut id),
                // An empty line ends an event; without data there was none.
                "" if line.is_empty() && data.pop().is_some() => {
                    return Ok(Some(((id.clone(), data), (lines, id))));
                }
                _ => {} // A comment, which keeps the connection alive, or a field of no use here.
            }
            if EVENT_MAX < data.len() {
                return Err("an event without an end".into());
            }
        }
        Ok(None) // What came of an unfinished event is dropped; it comes again.
    })
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let log = Log::new(vec!["one"]);
    let server =
        Server::with(Router::new().route("/feed", get(feed)).with_state(log.clone())).await;
    let client = client_builder().read_timeout(Duration::from_secs(60)).build()?;
    let mut rest = ["two", "three\nin two lines", "four", "five", "six"].into_iter();
    let delays = || Backoff::default().delays().take(10);
    let (mut last, mut seen, mut next_delays) = (String::new(), Vec::new(), delays());
    while seen.len() < 6 {
        let request = client.get(server.url("/feed")).header("Last-Event-ID", &last);
        if let Ok(response) = request.send().await.and_then(reqwest::Response::error_for_status) {
            let mut events = std::pin::pin!(events(response));
            while let Some(Ok((id, data))) = events.next().await {
                (last, next_delays) = (id, delays());
                seen.push(data);
                // Only now is the next one said: were this one held back, we would hang.
                log.send_modify(|it| it.extend(rest.next()));
            }
        }
        println!("the connection ended after event {last}");
        tokio::time::sleep(next_delays.next().ok_or("no connection in ten tries")?).await;
    }
    println!("{seen:?}");
    Ok(())
}
