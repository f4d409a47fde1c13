//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand};
use taskloom::{JobId, StateName};

/// The store of commands that are given none.
pub(crate) const STORE_DEFAULT: &str = "sqlite://taskloom.db";

/// Durable tasks in one program: jobs that survive crashes, retry themselves, and can be watched.
#[derive(Debug, Parser)]
#[command(name = "taskloom", version, after_help = crate::exit::HELP, max_term_width = 100)]
pub(crate) struct Args {
    /// Where the jobs are kept: sqlite://FILE (`?synchronous=normal` trades durability for speed),
    /// or postgres://USER@HOST/DATABASE [default: sqlite://taskloom.db]
    #[arg(long, global = true, env = "TASKLOOM_STORE")]
    pub(crate) store: Option<String>,

    /// Print JSON instead of tables
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// What to log on standard error: error, warn, info, debug, or a filter such as
    /// taskloom=debug
    #[arg(long, global = true, env = "TASKLOOM_LOG", default_value = "warn")]
    pub(crate) log: String,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run jobs with the built-in tasks http, data and email until a signal comes
    ///
    /// For the one process that people and programs will talk to: what it offers to the outside
    /// comes with it. For more hands beside it, `worker` runs jobs and nothing else.
    Serve(ServeArgs),
    /// Run jobs with the built-in tasks until a signal comes, and nothing else
    ///
    /// As many as you like may work on one store, on PostgreSQL from many machines, beside `serve`
    /// and programs of your own. A worker opens no port, now or later.
    Worker(ServeArgs),
    /// Bring the store's schema to the version of this program
    ///
    /// Every command that opens a store does this by itself when it may. Where only an administrator
    /// may change a schema, give them the output of --dump-sql; from then on the program needs no
    /// more than to read and write rows, and use sequences, in it.
    Migrate(MigrateArgs),
    /// Submit a job; it is durable when the command returns
    Submit(Box<SubmitArgs>),
    /// Look at jobs and act on them
    #[command(subcommand)]
    Jobs(JobsCommand),
    /// Fetch many URLs as durable jobs; run it again after Ctrl-C and it goes on
    Fetch(FetchArgs),
    /// Measure this machine: submit and drain no-op jobs
    ///
    /// On a new file, or with --store postgres://… in a database that has no schema `taskloom`:
    /// bench makes one, and drops it at the end.
    Bench(BenchArgs),
    /// A worker process of `bench`
    #[command(hide = true)]
    BenchWorker(BenchWorkerArgs),
    /// Watch a real workload on recorded data with faults, needing no network and no service
    Demo(DemoArgs),
    /// Check that nothing is wrong in the store; it may be in use
    Verify,
    /// Do to workers and store whatever may happen to them, at random, and count what is lost
    ///
    /// Starts worker processes that submit and run jobs, kills, stops and drains them, holds their
    /// store and fills their disk. At the end nothing accepted may be lost and no attempt may be
    /// without explanation; 1 when a promise was broken. Wants a store of its own: without --store
    /// a temporary file in the working directory, which is kept when a promise was broken.
    ///
    /// --store postgres://… tortures on a server of yours, whose connections are cut and whose rows
    /// are held. --store postgres, without an address, makes a private server in the working
    /// directory (PostgreSQL must be installed) that is also restarted, crashed, stopped and, by
    /// root, left without room on its disk.
    #[cfg(unix)]
    Torture(TortureArgs),
    /// A worker of `torture`
    #[cfg(unix)]
    #[command(hide = true)]
    TortureWorker(WorkerArgs),
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ServeArgs {
    /// How many async attempts run at once
    #[arg(long, default_value_t = 100)]
    pub(crate) workers: usize,

    /// How many blocking attempts run at once [default: the number of cores]
    #[arg(long)]
    pub(crate) blocking_workers: Option<usize>,

    /// Slots of its own for a queue, as NAME=SLOTS; may be given several times
    #[arg(long = "queue", value_name = "NAME=SLOTS", value_parser = queue_slots)]
    pub(crate) queues: Vec<(String, usize)>,

    /// How long running attempts may go on after a signal
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub(crate) drain: Duration,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct MigrateArgs {
    /// Only say what would be done
    #[arg(long, conflicts_with = "dump_sql")]
    pub(crate) dry_run: bool,

    /// Only print the SQL: psql, or for a file sqlite3, runs it as it is
    #[arg(long)]
    pub(crate) dump_sql: bool,

    /// With --dump-sql: from this version, 0 is nothing at all; the store is not looked at
    #[arg(long, value_name = "VERSION", requires = "dump_sql")]
    pub(crate) from: Option<u32>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SubmitArgs {
    /// The task: http, data, email, or one of your own program's
    pub(crate) task: String,

    /// Its arguments: a JSON object, @FILE, or - for standard input
    #[arg(long, default_value = "{}")]
    pub(crate) args: String,

    /// The queue to wait in
    #[arg(long, default_value = "default")]
    pub(crate) queue: String,

    /// How urgent it is: 0 to 9, 9 first
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=9))]
    pub(crate) priority: u8,

    /// Not before this long from now: 10s, 5m, 2h
    #[arg(long, value_parser = duration)]
    pub(crate) delay: Option<Duration>,

    /// How many attempts it has in all
    #[arg(long)]
    pub(crate) max_attempts: Option<u32>,

    /// How long one attempt may take: 500ms, 30s, 5m
    #[arg(long, value_parser = duration)]
    pub(crate) timeout: Option<Duration>,

    /// What limits and fairness count it by: a tenant, a host
    #[arg(long)]
    pub(crate) key: Option<String>,

    /// While an unfinished job has this text, return that one instead
    #[arg(long)]
    pub(crate) unique: Option<String>,

    /// Wait for these jobs to end first; may be given several times
    #[arg(long, value_name = "ID")]
    pub(crate) after: Vec<JobId>,

    /// Wait for the job to end and print its result
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobsCommand {
    /// List jobs, newest first
    List(ListArgs),
    /// Show one job: its state, attempts and log
    Show {
        /// The job
        id: JobId,
    },
    /// Follow what happens, to some jobs until they end, or to all until Ctrl-C
    Watch {
        /// Which jobs; none: all
        ids: Vec<JobId>,
    },
    /// Cancel jobs; one that runs is asked to end
    Cancel {
        /// Which jobs
        #[arg(required = true)]
        ids: Vec<JobId>,
    },
    /// Make ended jobs ready again, with all their attempts
    Retry {
        /// Which jobs
        #[arg(required = true)]
        ids: Vec<JobId>,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ListArgs {
    /// Only in this state; may be given several times: delayed, blocked, ready, running, retrying,
    /// succeeded, failed, cancelled
    #[arg(long = "state")]
    pub(crate) states: Vec<StateName>,

    /// Only of this queue
    #[arg(long)]
    pub(crate) queue: Option<String>,

    /// Only of this task
    #[arg(long)]
    pub(crate) task: Option<String>,

    /// Only with this key
    #[arg(long)]
    pub(crate) key: Option<String>,

    /// How many, up to 1000
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) limit: u16,

    /// Only jobs older than this one: the `next` of the page before
    #[arg(long, value_name = "ID")]
    pub(crate) before: Option<JobId>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct FetchArgs {
    /// A file with one URL a line; - for standard input; # begins a comment
    pub(crate) urls: PathBuf,

    /// How many requests at once
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) concurrency: u16,

    /// How many requests a time, over all hosts: 10/s, 100/min
    #[arg(long)]
    pub(crate) rate: Option<taskloom_flow::Rate>,

    /// How long one attempt may take
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,

    /// How many attempts each URL has
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) max_attempts: u32,

    /// What to take out of each page
    #[arg(long, value_enum)]
    pub(crate) extract: Option<Extract>,

    /// First fetch one by one, without jobs, and print the speed-up
    #[arg(long)]
    pub(crate) compare: bool,

    /// Fetch everything anew instead of going on with an unfinished fetch of the same list
    #[arg(long)]
    pub(crate) fresh: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Extract {
    /// The HTML title
    Title,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BenchArgs {
    /// How many jobs
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    pub(crate) jobs: u32,

    /// How many attempts run at once
    #[arg(long, default_value_t = 1_000)]
    pub(crate) workers: usize,

    /// Bytes of arguments a job
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(16..=1_000_000))]
    pub(crate) args_bytes: u32,

    /// Keep the store in this folder instead of a temporary one beside the working directory
    #[arg(long)]
    pub(crate) folder: Option<PathBuf>,

    /// Instead: throughput with this many worker processes, of --workers slots each
    #[arg(long, group = "instead", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) processes: Option<u32>,

    /// With --processes: how long each job sleeps, in milliseconds
    #[arg(long, default_value_t = 0, requires = "processes")]
    pub(crate) task_ms: u64,

    /// Instead: what a claim costs while this many jobs wait
    #[arg(long, group = "instead", value_parser = clap::value_parser!(u32).range(3_000..=100_000_000))]
    pub(crate) backlog: Option<u32>,

    /// Instead, on PostgreSQL: throughput and claims under load, for 10 s as it is and then for
    /// this many seconds while a transaction is held open
    #[arg(long, group = "instead", value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub(crate) hold: Option<u64>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BenchWorkerArgs {
    /// How many attempts run at once
    #[arg(long)]
    pub(crate) workers: usize,

    /// How long each job sleeps, in milliseconds
    #[arg(long)]
    pub(crate) task_ms: u64,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DemoArgs {
    /// Run the workload once and exit, asking nothing
    #[arg(long)]
    pub(crate) once: bool,

    /// Where the store and the results lie
    #[arg(long, default_value = "taskloom-demo")]
    pub(crate) folder: PathBuf,

    /// Switch the faults of the local server off
    #[arg(long)]
    pub(crate) no_faults: bool,

    /// Forget an earlier demo in the folder
    #[arg(long)]
    pub(crate) fresh: bool,
}

#[cfg(unix)]
#[derive(Debug, ClapArgs)]
pub(crate) struct TortureArgs {
    /// How many worker processes
    #[arg(long, default_value_t = 4, value_parser = workers)]
    pub(crate) workers: usize,

    /// How long faults are done; what follows until every job has ended comes on top
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=24 * 60))]
    pub(crate) minutes: u64,

    /// The same in seconds, for a short run
    #[arg(long, conflicts_with = "minutes", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) seconds: Option<u64>,

    /// Which faults happen when: the seed of another run repeats its plan [default: random]
    #[arg(long)]
    pub(crate) seed: Option<u64>,

    /// Let the workers lie, to see that it is found out
    #[arg(long, hide = true, value_enum)]
    pub(crate) sabotage: Option<Sabotage>,
}

#[cfg(unix)]
impl TortureArgs {
    /// How long faults are done.
    pub(crate) fn lasts(&self) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(60 * self.minutes))
    }
}

/// What a worker of a torture does wrong on purpose.
#[cfg(unix)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Sabotage {
    /// Some attempts succeed and have not done their work
    SkipEnd,
    /// Some attempts are begun twice under one lease
    StartTwice,
}

#[cfg(unix)]
impl Sabotage {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Sabotage::SkipEnd => "skip-end",
            Sabotage::StartTwice => "start-twice",
        }
    }
}

#[cfg(unix)]
#[derive(Debug, ClapArgs)]
pub(crate) struct WorkerArgs {
    /// What it does beside its attempts
    #[arg(long, value_enum)]
    pub(crate) role: Role,

    /// The file that it notes in what its attempts do
    #[arg(long)]
    pub(crate) notes: PathBuf,

    /// Its number among the processes of the run
    #[arg(long, default_value_t = 0)]
    pub(crate) number: u32,

    /// Which jobs it submits
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,

    /// What it does wrong
    #[arg(long, value_enum)]
    pub(crate) sabotage: Option<Sabotage>,
}

/// What a worker of a torture does beside its attempts.
#[cfg(unix)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Role {
    /// Submits for ever
    Storm,
    /// Nothing, and says each begin of an attempt
    Work,
    /// Submits as many jobs that never end as it has slots, and says each begin
    Hold,
}

#[cfg(unix)]
impl Role {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Role::Storm => "storm",
            Role::Work => "work",
            Role::Hold => "hold",
        }
    }
}

#[cfg(unix)]
fn workers(text: &str) -> Result<usize, String> {
    let n = text.parse().ok().filter(|it| (1..=64).contains(it));
    n.ok_or_else(|| "give a number of worker processes, from 1 to 64".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    taskloom::parse_duration(text).map_err(|error| error.to_string())
}

fn queue_slots(text: &str) -> Result<(String, usize), String> {
    let slots = text.split_once('=').and_then(|(name, n)| Some((name, n.parse().ok()?)));
    match slots {
        Some((name, slots)) if !name.is_empty() && 0 < slots => Ok((name.to_owned(), slots)),
        _ => Err("give a queue and its slots as NAME=SLOTS, such as web=20".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn queues_have_a_name_and_slots() {
        assert_eq!(queue_slots("web=20"), Ok(("web".into(), 20)));
        for bad in ["web", "=3", "web=0", "web=x"] {
            queue_slots(bad).unwrap_err();
        }
    }
}
