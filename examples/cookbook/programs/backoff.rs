//! Tries again what may be repeated: with delays that grow, as the server asks, within a budget.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::RETRY_AFTER;
use taskloom_cookbook::{Server, client};
use taskloom_flow::{Backoff, Jitter, Retry, RetryBudget, gather_settled, timeout};

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("the server is busy")]
    Busy { retry_after: Option<Duration> },
    #[error("the server said {0}")]
    Said(StatusCode),
    #[error("no answer in time")]
    Late(#[from] taskloom_flow::TimedOut),
    #[error(transparent)]
    Connection(#[from] reqwest::Error),
}

/// One attempt, with a time limit of its own. A GET may be repeated.
async fn fetch(client: &reqwest::Client, url: String) -> Result<String, FetchError> {
    let response = timeout(Duration::from_secs(30), client.get(url).send()).await??;
    match response.status() {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            let header = response.headers().get(RETRY_AFTER).and_then(|it| it.to_str().ok());
            let retry_after = header.and_then(|it| it.parse().ok()).map(Duration::from_secs);
            Err(FetchError::Busy { retry_after })
        }
        status if status.is_success() => Ok(response.text().await?),
        status => Err(FetchError::Said(status)),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (server, client) = (Server::start().await, client());
    let get = |path: &str| fetch(&client, server.url(path));

    let [first, longest] = [5, 50].map(Duration::from_millis);
    let retry = Retry::new(Backoff::new(first, 2.0, longest, Jitter::Full)?)
        .n_attempts_max(5)
        .time_max(Duration::from_secs(60))
        .when(|error| !matches!(error, FetchError::Said(_)))
        .hint(|error| match error {
            FetchError::Busy { retry_after } => *retry_after,
            _ => None,
        })
        .notify(|notice| println!("  attempt {}: {}", notice.attempt, notice.error));

    println!("flaky: {}", retry.run(async |_| get("/flaky/stock/2").await).await?);
    println!(
        "busy, with `Retry-After: 0`: {}",
        retry.run(async |_| get("/busy/door").await).await?
    );
    let missing = retry.run(async |_| get("/missing").await).await;
    let missing = missing.expect_err("there is no such page");
    println!("missing: {}, {}, {} attempt", missing.error, missing.stop, missing.n_attempts);

    // A service that is down meets 20 callers. They share what retries there are: 10 saved up,
    // one more for every ten successes, and here none by time.
    let budget = RetryBudget::new(0.1, 0, 10);
    let retry = retry.notify(|_| {}).budget(&budget);
    let n_before = server.n_requests();
    let calls: Vec<_> =
        (0..20).map(|_| retry.run(async |_| get("/flaky/down/1000").await)).collect();
    let n_failed = gather_settled(calls).await.iter().filter(|it| it.is_err()).count();
    println!("down: {n_failed} calls, {} requests", server.n_requests() - n_before);
    Ok(())
}
