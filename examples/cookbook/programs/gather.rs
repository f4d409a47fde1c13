//! Several calls at once: all or nothing, and all that can be had.

use taskloom_cookbook::{Server, client};
use taskloom_flow::{gather, gather_settled};

async fn length(client: &reqwest::Client, url: String) -> Result<usize, reqwest::Error> {
    let response = client.get(url).send().await?.error_for_status()?;
    Ok(response.bytes().await?.len())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (server, client) = (Server::start().await, client());

    // All at once, in the order of the inputs.
    let pages: Vec<_> =
        [1, 10, 100].map(|n| length(&client, server.url(&format!("/page/{n}")))).into();
    println!("lengths: {:?}", gather(pages).await?);

    // Of different types: a tuple.
    let word = async { client.get(server.url("/slow/1")).send().await?.text().await };
    let (page, word) = gather((length(&client, server.url("/page/7")), word)).await?;
    println!("a page of {page} bytes, and the word {word:?}");

    // The first error ends it: the slow call is dropped, not waited for.
    let doomed = [server.url("/missing"), server.url("/slow/60000")];
    let error = gather(doomed.map(|url| length(&client, url))).await;
    println!("all or nothing: {:?}", error.expect_err("one is missing").status());

    // Or keep what there is.
    let mixed = [server.url("/page/5"), server.url("/missing")];
    let settled = gather_settled(mixed.map(|url| length(&client, url))).await;
    let n_good = settled.iter().filter(|it| it.is_ok()).count();
    println!("what there is: {n_good} of {}", settled.len());
    Ok(())
}
