//! The demo: a real workload through a durable store, on a local world that needs no network.
//!
//! The world is an HTTP server with recorded data and real faults, and a catcher of mail. Both
//! listen on 127.0.0.1 only, on a free port, and carry what they serve in the binary. The workload
//! downloads, analyses and reports; killed at any moment, the same command goes on.

pub(crate) mod faults;
mod folder;
pub(crate) mod records;
mod results;
pub(crate) mod server;
mod show;
pub(crate) mod smtp;
mod summary;
mod tasks;
mod workload;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use taskloom::tasks::{Data, Email, Http};
use taskloom::{Retention, TaskSystem, Time};
use taskloom_flow::{Rate, RateLimiter, TaskGroup};

use self::faults::Faults;
use self::folder::Folder;
use self::server::Server;
use self::show::Show;
use self::smtp::MailCatcher;
use self::summary::{Seen, Summary};
use self::tasks::{Download, FetchPage, Report};
use self::workload::Run;
use crate::args::DemoArgs;
use crate::exit::{FAILED, INTERRUPTED};

/// How many attempts run at once.
const SLOTS: usize = 8;

/// How many pages are fetched a second: a run is to be long enough to be watched.
const PAGES_PER_SECOND: u32 = 12;

/// How long the local world may take to end.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// Jobs of a run must not be forgotten before it is taken up again.
const KEPT_FOR: Duration = Duration::from_secs(10 * 366 * 86_400);

/// What the tasks of the demo talk to.
#[derive(Debug)]
struct World {
    server: Server,
    catcher: MailCatcher,
}

/// Runs the workload once, or what is left of a run that was cut short.
///
/// # Cancel safety
/// Dropped, it leaves a run that the next call takes up.
pub(crate) async fn run(args: DemoArgs, json: bool) -> Result<ExitCode> {
    let folder = Folder::open(&args.folder, args.fresh)?;
    let group = TaskGroup::isolated();
    let world = World::start(&group, &folder, args.no_faults).await?;
    let began = Time::from_millis(jiff::Timestamp::now().as_millisecond());
    let system = open(&world, &folder).await?;
    let worked = work(&system, &world, &folder, (began, json)).await;
    system.drain().await?;
    group.drain(DRAIN_MAX).await;
    let Some(summary) = worked? else { return Ok(ExitCode::from(INTERRUPTED)) };
    if json {
        crate::print::json(&summary)?
    } else {
        summary.print(&folder)?
    }
    let is_good = summary.is_as_expected();
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

impl World {
    async fn start(group: &TaskGroup, folder: &Folder, no_faults: bool) -> Result<World> {
        // The first connection for mail is turned away, as by a busy server.
        let (faults, n_busy) =
            if no_faults { (Faults::none(), 0) } else { (Faults::bad_day(1), 1) };
        let server = Server::start(group, faults).await.context("can't start the web server")?;
        let catcher = MailCatcher::start(group, folder.mail(), n_busy).await;
        Ok(World { server, catcher: catcher.context("can't start the mail catcher")? })
    }
}

/// Opens the store and starts a node that knows the demo's tasks.
async fn open(world: &World, folder: &Folder) -> Result<TaskSystem> {
    let server = &world.server;
    let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).build()?;
    let rate = Rate::new(PAGES_PER_SECOND, Duration::from_secs(1))?;
    let limiter = RateLimiter::new(rate, 1);
    let catcher = world.catcher.clone();
    let system = TaskSystem::open(folder.store_url())
        .without_registered_tasks()
        .task(Download { client, server: server.clone(), folder: folder.data() })
        .task(FetchPage { http: Http::default(), limiter, server: server.clone() })
        .blocking_task(Data::default())
        .task(Report { email: Email::default(), catcher, folder: folder.results() })
        .max_workers(SLOTS)
        .drain_deadline(Duration::ZERO)
        .retention(Retention { succeeded: KEPT_FOR, failed: KEPT_FOR, events: KEPT_FOR })
        .name("demo")
        .start();
    Ok(system.await?)
}

/// Works until every job has ended; `None` when Ctrl-C came first.
async fn work(
    system: &TaskSystem,
    world: &World,
    folder: &Folder,
    (began, is_quiet): (Time, bool),
) -> Result<Option<Summary>> {
    let clock = Instant::now();
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    let run = Run::take_up(system, folder).await?;
    let names = run.names();
    let n_jobs = names.len();
    if !is_quiet {
        let (number, pid) = (run.number, std::process::id());
        let verb = if run.resumed { "going on with" } else { "beginning" };
        eprintln!("{verb} run {number}: {n_jobs} jobs, in {}", folder.shown("demo.db"));
        eprintln!("try `kill -9 {pid}` and the same command again: nothing is lost\n");
    }
    let mut show = Show::new(Arc::clone(system.store()), names, began, is_quiet);
    let is_interrupted = tokio::select! {
        biased;
        _ = &mut stop => true,
        followed = show.follow() => {
            followed?;
            false
        }
    };
    show.end();
    if is_interrupted {
        let n_ended = n_jobs - show.n_left();
        eprintln!(
            "stopped with {n_ended} of {n_jobs} jobs ended; the same command goes on from here"
        );
        return Ok(None);
    }
    let seen = Seen {
        n_retries: show.n_retries(),
        served: world.server.served(),
        n_caught: world.catcher.n_messages(),
        took: clock.elapsed(),
    };
    Ok(Some(Summary::of(&run, system, folder, seen).await?))
}
