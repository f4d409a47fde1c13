//! Run these at once, and stop all of them when one fails.

use taskloom_cookbook::{Server, client};
use taskloom_flow::{BoxError, Spawner, TaskGroup};
use tokio::sync::mpsc;

#[derive(Clone)]
struct Api {
    client: reqwest::Client,
    root: String,
}

impl Api {
    async fn length(self, path: String) -> Result<usize, reqwest::Error> {
        let response = self.client.get(format!("{}{path}", self.root)).send().await?;
        Ok(response.error_for_status()?.bytes().await?.len())
    }
}

/// Fetches a page and, in routines of the same group, those that it leads to.
fn crawl(n: usize, api: &Api, group: &Spawner, lengths: &mpsc::Sender<usize>) {
    let (api, inner, lengths) = (api.clone(), group.clone(), lengths.clone());
    group.spawn(format!("page {n}"), async move {
        lengths.send(api.clone().length(format!("/page/{n}")).await?).await?;
        for child in [2 * n, 2 * n + 1].into_iter().filter(|it| *it < 16) {
            crawl(child, &api, &inner, &lengths);
        }
        Ok::<_, BoxError>(())
    });
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = Server::start().await;
    let api = Api { client: client(), root: server.url("") };

    // `async with TaskGroup()`: past the scope, nothing that it began is running.
    let total = TaskGroup::scope(async |group| {
        let one = group.spawn("one", api.clone().length("/page/1".into()));
        let two = group.spawn("two", api.clone().length("/page/100".into()));
        Ok::<_, BoxError>(one.await? + two.await?)
    });
    println!("both pages: {} bytes", total.await?);

    // One that fails: the slow ones are cancelled, and waited for.
    let group = TaskGroup::new();
    let slow = ["slow a", "slow b"]
        .map(|name| group.spawn(name, api.clone().length("/slow/600000".into())));
    group.spawn("missing", api.clone().length("/missing".into()));
    let error = group.join().await.expect_err("a page is missing");
    for (name, _) in &error.failures {
        println!("failed: {name}");
    }
    if let Some(reason) = &error.reason {
        println!("cancelled, because {reason}");
    }
    // As `except*`: ask for one type among the failures.
    let status = error.find::<reqwest::Error>().and_then(reqwest::Error::status);
    println!("it said: {}", status.map_or(0, |it| it.as_u16()));
    for routine in slow {
        println!("{}", routine.await.expect_err("it was cancelled"));
    }

    // Children of children belong to the same group: one join waits for the whole tree.
    let group = TaskGroup::new();
    // Room for all of them, as they are read after the join.
    let (lengths, mut received) = mpsc::channel(15);
    crawl(1, &api, &group.spawner(), &lengths);
    drop(lengths);
    group.join().await?;
    let mut n_pages = 0;
    while received.recv().await.is_some() {
        n_pages += 1;
    }
    println!("crawled {n_pages} pages");
    Ok(())
}
