//! A task that is a type: its fields are what it depends on, handed in by value.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use taskloom::prelude::*;

/// Counts words, in all and for each job.
struct CountWords {
    total: Arc<AtomicU64>,
}

#[derive(Serialize, Deserialize)]
struct Text {
    text: String,
}

impl Task for CountWords {
    const NAME: &'static str = "count_words";
    type Args = Text;
    type Output = u64;

    fn options(&self) -> TaskOptions {
        TaskOptions { queue: Some("words"), ..TaskOptions::default() }
    }

    async fn run(&self, ctx: &Ctx, args: Text) -> Result<u64, TaskError> {
        let n = args.text.split_whitespace().count() as u64;
        ctx.progress(1.0, format!("{n} words"));
        self.total.fetch_add(n, Ordering::Relaxed);
        Ok(n)
    }
}

#[tokio::main]
async fn main() -> Result<(), taskloom::Error> {
    let total = Arc::new(AtomicU64::new(0));
    let count = CountWords { total: Arc::clone(&total) };
    let texts = ["to be or not to be", "that is the question"];
    let jobs: Vec<_> = texts.map(|it| count.invoke(Text { text: it.into() })).into();
    let system =
        TaskSystem::open("sqlite://words.db").queue("words", 4).task(count).start().await?;
    let handles = system.submit(jobs).await?;
    println!("{:?}, {} in all", system.gather(handles).await?, total.load(Ordering::Relaxed));
    system.drain().await
}
