//! Waiting for some of several routines, while the others go on.

use std::time::Duration;

use futures::StreamExt as _;
use taskloom_flow::{Routine, TaskGroup, Until, Waited, as_completed, wait, wait_at_most};
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

type Download = Routine<u64>;

/// Ends after so many seconds; those of three seconds fail.
async fn download(secs: u64) -> Result<u64, String> {
    sleep(SECOND * u32::try_from(secs).map_err(|it| it.to_string())?).await;
    if secs == 3 { Err("the line broke".to_owned()) } else { Ok(secs * 100) }
}

fn start(group: &TaskGroup) -> [Download; 5] {
    [5, 1, 3, 2, 4].map(|secs| group.spawn(format!("{secs} seconds"), download(secs)))
}

/// Those that have not ended, to be waited for again.
fn pending(waited: Waited<Download>) -> impl Iterator<Item = Download> {
    waited.pending.into_iter().map(|(_, routine)| routine)
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() {
    // Isolated: one that fails does not cancel the others.
    let mut group = TaskGroup::isolated();
    let began = Instant::now();
    let say = |what: &str, waited: &Waited<Download>| {
        let (n_done, n_pending) = (waited.done.len(), waited.pending.len());
        println!("{what} at {} s: {n_done} done, {n_pending} on", began.elapsed().as_secs());
    };

    let first = wait(start(&group), Until::FirstCompleted).await;
    say("the first", &first);
    println!("it was input {}, and said {:?}", first.done[0].0, first.done[0].1);

    // The four others went on meanwhile; now the first of them to fail.
    let failed = wait(pending(first), Until::FirstError).await;
    say("an error", &failed);

    // At most so long: what has ended by then.
    let some = wait_at_most(SECOND * 3 / 2, pending(failed), Until::All).await;
    say("the limit", &some);

    let all = wait(pending(some), Until::All).await;
    say("all", &all);

    // A routine says that it failed; its group says why.
    while let Some(ended) = group.join_next().await {
        if let Some(failure) = ended.failure() {
            println!("{}: {failure}", ended.name);
        }
    }

    // Each as it comes, with the index of its input.
    let mut completed = as_completed(start(&group));
    let mut order = Vec::new();
    while let Some((index, said)) = completed.next().await {
        order.push(said.map_or_else(|_| format!("{index} failed"), |_| index.to_string()));
    }
    println!("as they came: {}", order.join(", "));
}
