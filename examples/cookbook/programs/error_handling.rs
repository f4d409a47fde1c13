//! Five calls go wrong, and each is met in its own way.

use std::time::Duration;

use taskloom_cookbook::{Server, client};
use taskloom_flow::{
    Backoff, BreakerError, BreakerRules, BreakerTrip, CircuitBreaker, Retry, gather,
    gather_settled, timeout_or,
};

async fn fetch(client: &reqwest::Client, url: String) -> Result<String, reqwest::Error> {
    client.get(url).send().await?.error_for_status()?.text().await
}

/// The server's own trouble may pass. "Not found" stays as it is.
fn may_pass(error: &reqwest::Error) -> bool {
    error.status().is_none_or(|it| it.is_server_error())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (server, client) = (Server::start().await, client());
    let get = |path: &str| fetch(&client, server.url(path));

    // Fail fast: without its price there is no order, so nobody waits for the slow part.
    let order = gather([get("/slow/60000"), get("/missing")]).await;
    let error = order.expect_err("the price is missing");
    println!("fail fast: {:?}", error.status().map(|it| it.as_u16()));

    // Keep what succeeded: a page with two adverts of three is a page.
    let adverts = gather_settled(["/page/1", "/missing", "/page/2"].map(get)).await;
    println!("keep what succeeded: {} of {}", adverts.iter().flatten().count(), adverts.len());

    // Fall back: yesterday's rate is better than none, when it is late and when it fails.
    let stale = || "1.08, of yesterday".to_owned();
    let rate = timeout_or(Duration::from_millis(50), get("/slow/60000"), || Ok(stale()));
    println!("fall back: {}", rate.await.unwrap_or_else(|_| stale()));

    // Retry: a read may be repeated, and this error may pass.
    let retry = Retry::new(Backoff::constant(Duration::from_millis(1))).when(may_pass);
    let stock = retry.run(async |attempt| Ok((attempt, get("/flaky/stock/2").await?))).await?;
    println!("retry: {:?} at attempt {}", stock.1, stock.0);

    // Breaker: whoever fails three times in a row is left alone for a while.
    let trip = BreakerTrip::Consecutive { n_failures: 3 };
    let breaker = CircuitBreaker::new(BreakerRules { trip, ..BreakerRules::default() })?;
    let mut n_refused = 0;
    for _ in 0..100 {
        let called = breaker.call(get("/flaky/mail/3")).await;
        n_refused += usize::from(matches!(called, Err(BreakerError::Open { .. })));
    }
    // It fails three times: had more calls come through, this would not be its first success.
    println!(
        "breaker: {n_refused} of 100 refused, and now it says {:?}",
        get("/flaky/mail/3").await?
    );
    Ok(())
}
