//! `taskloom worker`: several share one store with a program of somebody's own.

use taskloom::{Ctx, Invoke, Task, TaskError, TaskSystem};

use crate::cli::{Cli, code_of};
use crate::database::server;
use crate::process::Running;
use crate::server::Server;

/// A task that no worker of the command has.
struct Greet;

#[derive(serde::Serialize, serde::Deserialize)]
struct Name {
    name: String,
}

impl Task for Greet {
    const NAME: &'static str = "greet";
    type Args = Name;
    type Output = String;

    async fn run(&self, _ctx: &Ctx, args: Name) -> Result<String, TaskError> {
        Ok(format!("hello {}", args.name))
    }
}

fn worker(cli: &Cli) -> Running {
    let running = cli.start(&["worker", "--workers", "1"]);
    running.out.with("working on");
    running
}

fn check_share(cli: &Cli, store: &str) {
    let (web, mut workers) = (Server::start(), [worker(cli), worker(cli)]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let system = runtime.block_on(TaskSystem::open(store).task(Greet).start()).unwrap();
    let held = [1, 2].map(|n| cli.submit(&web.url(&format!("/hold/{n}")), &[]));
    // Each worker has one slot: both are at work.
    web.wait_for("/hold/", 2);
    let greeted = runtime.block_on(async {
        let handle = system.submit(Greet.invoke(Name { name: "you".into() })).await.unwrap();
        handle.await.unwrap()
    });
    assert_eq!(greeted, "hello you", "the program runs what the workers don't know");
    web.open();
    for id in &held {
        cli.ok(&["jobs", "watch", id]);
        assert_eq!(cli.json(&["jobs", "show", id])["job"]["state"], "succeeded");
    }
    runtime.block_on(system.drain()).unwrap();
    for worker in &mut workers {
        worker.signal("TERM");
        let (status, _, errors) = worker.end();
        assert_eq!(code_of(status), 0, "{errors:?}");
    }
}

#[test]
fn two_workers_and_a_program_share_a_file() {
    let cli = Cli::new();
    let file = cli.folder().join("jobs.db");
    check_share(&cli, &format!("sqlite://{}", file.display()));
}

#[test]
fn two_workers_and_a_program_share_a_server() {
    let (_server, url) = server();
    check_share(&Cli::with_store(&url), &url);
}
