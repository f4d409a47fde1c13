//! What goes into a store and what comes out of it.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;
use taskloom_model::{
    EventKind, FailReason, Fence, JobId, NodeId, Outcome, Priority, Refusal, Roll, Rules,
    StateName, Time,
};

/// The largest arguments and results, in bytes, unless the store is opened with another bound.
pub const PAYLOAD_MAX: usize = 1024 * 1024;

/// A job to be accepted.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// The task to run.
    pub task: Arc<str>,
    /// The queue to wait in.
    pub queue: Arc<str>,
    /// How urgent it is.
    pub priority: Priority,
    /// One JSON value; for a `#[task]` function an object keyed by parameter name.
    pub args: String,
    /// Retries, times, dependencies.
    pub rules: Rules,
    /// Not before this long after it is accepted; overrides `rules.run_at`.
    pub delay: Option<Duration>,
    /// How long one attempt may take.
    pub timeout: Option<Duration>,
    /// What limits and fairness count it by.
    pub key: Option<String>,
    /// While a job with this text is unfinished, submitting another returns that one.
    pub unique: Option<String>,
    /// The jobs that must end first.
    pub after: Vec<JobId>,
}

impl NewJob {
    /// A job with defaults: queue `default`, priority 0, the default rules.
    pub fn new(task: impl Into<Arc<str>>, args: impl Into<String>) -> Self {
        NewJob {
            task: task.into(),
            queue: Arc::from("default"),
            priority: Priority::default(),
            args: args.into(),
            rules: Rules::default(),
            delay: None,
            timeout: None,
            key: None,
            unique: None,
            after: Vec::new(),
        }
    }
}

/// The answer to a submitted job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Accepted {
    /// The job: a new one, or the one that has the unique text already.
    pub id: JobId,
    /// Whether it is the one that was there already.
    pub duplicate: bool,
}

/// Which queues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Queues {
    /// These.
    Only(Arc<[Arc<str>]>),
    /// All but these.
    Except(Arc<[Arc<str>]>),
}

impl Queues {
    /// Whether `queue` is among them.
    #[must_use]
    pub fn has(&self, queue: &str) -> bool {
        match self {
            Queues::Only(names) => names.iter().any(|it| &**it == queue),
            Queues::Except(names) => !names.iter().any(|it| &**it == queue),
        }
    }
}

/// What one pool of slots has room for.
#[derive(Debug, Clone)]
pub struct Demand {
    /// From which queues.
    pub queues: Queues,
    /// Which tasks it can run.
    pub tasks: Arc<[Arc<str>]>,
    /// How many jobs at most.
    pub n: usize,
}

/// A job that was claimed: everything an attempt needs.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The job.
    pub id: JobId,
    /// Which demand it answers, by place.
    pub demand: usize,
    /// The task to run.
    pub task: Arc<str>,
    /// The queue it waited in.
    pub queue: Arc<str>,
    /// How urgent it is.
    pub priority: Priority,
    /// Its arguments.
    pub args: Arc<str>,
    /// The right to finish it.
    pub fence: Fence,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// How many it has in all.
    pub max_attempts: u32,
    /// How long the attempt may take.
    pub timeout: Option<Duration>,
    /// The deadline of the whole job.
    pub deadline: Option<Time>,
}

/// What an attempt says about its error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct AttemptError {
    /// What went wrong, for a person.
    pub message: String,
    /// The cause, for a program: `http.status.404`, `panic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Where it happened, for a panic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backtrace: Option<String>,
}

/// An attempt that ended.
#[derive(Debug, Clone)]
pub struct Finish {
    /// The job.
    pub id: JobId,
    /// The lease.
    pub fence: Fence,
    /// How the attempt ended.
    pub outcome: Outcome,
    /// Chance for the jitter of a retry.
    pub roll: Roll,
    /// When the attempt began.
    pub started: Time,
    /// The result of a succeeded attempt: one JSON value.
    pub result: Option<String>,
    /// What went wrong otherwise.
    pub error: Option<AttemptError>,
    /// What it wrote to the log since the last heartbeat.
    pub logs: Vec<NewLog>,
}

/// A line for the log of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLog {
    /// When it was written.
    pub at: Time,
    /// `debug`, `info`, `warn` or `error`.
    pub level: &'static str,
    /// The text.
    pub text: String,
}

/// The answer to [`crate::Store::finish`].
#[derive(Debug, Clone, Default)]
pub struct Finished {
    /// For each ended attempt, in order: where its job is now, or why its outcome was refused.
    pub outcomes: Vec<Result<StateName, Refusal>>,
    /// The next jobs.
    pub claimed: Vec<Claimed>,
}

/// A node that wants to take part.
#[derive(Debug, Clone)]
pub struct NewNode {
    /// A name for people: the host, mostly.
    pub name: String,
    /// The process id.
    pub pid: u32,
    /// The tasks it can run.
    pub tasks: Vec<Arc<str>>,
}

/// A node that takes part.
#[derive(Debug, Clone, Serialize)]
pub struct NodeView {
    /// The node.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Its process id.
    pub pid: u32,
    /// The tasks it can run.
    pub tasks: Vec<Arc<str>>,
    /// When it registered.
    pub started: Time,
    /// Its last sign of life.
    pub heartbeat: Time,
}

/// A sign of life, with what the attempts of the node have said.
#[derive(Debug, Clone)]
pub struct Beat {
    /// The node.
    pub node: NodeId,
    /// What its attempts said since the last beat.
    pub signs: Vec<Sign>,
}

/// What one attempt said.
#[derive(Debug, Clone)]
pub struct Sign {
    /// The job.
    pub id: JobId,
    /// The lease.
    pub fence: Fence,
    /// How far it is: fraction and message.
    pub progress: Option<(f64, String)>,
    /// Lines for its log.
    pub logs: Vec<NewLog>,
}

/// What a node learns from its heartbeat.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// The jobs it runs that somebody wants to end.
    pub cancel: Vec<(JobId, Fence)>,
    /// It was taken for dead: its jobs belong to others now, and it must register again.
    pub evicted: bool,
}

/// The answer to [`crate::Store::promote`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Promoted {
    /// How many jobs moved.
    pub n_moved: usize,
    /// When the next one is due, if any waits.
    pub next_due: Option<Time>,
}

/// Who looks for dead nodes, and whose silence it has seen itself.
///
/// A store that was out of reach holds old signs of life of nodes that live; therefore a node
/// judges by its own clock how long another has given none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judge {
    /// The node that asks. It is spared.
    pub asking: Option<NodeId>,
    /// The nodes that gave no sign of life while the one that asks could have seen it. `None`: all
    /// are suspected, and the signs that the store holds decide alone.
    pub silent: Option<Vec<NodeId>>,
}

impl Judge {
    /// Suspects all but `asking`.
    #[must_use]
    pub fn of_all(asking: Option<NodeId>) -> Judge {
        Judge { asking, silent: None }
    }

    /// Whether `node` may be dead.
    #[must_use]
    pub fn suspects(&self, node: NodeId) -> bool {
        Some(node) != self.asking && self.silent.as_ref().is_none_or(|it| it.contains(&node))
    }
}

/// A dead node whose jobs were taken from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rescued {
    /// The dead node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// How many jobs are ready again.
    pub n_ready: usize,
    /// How many crashed too often, or were being cancelled, and have ended.
    pub n_ended: usize,
}

/// The answer to a command on one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// It is in this state now.
    Now(StateName),
    /// The command means nothing in its state.
    Refused(Refusal),
    /// There is no such job.
    Unknown,
}

/// A job as a reader sees it.
#[derive(Debug, Clone, Serialize)]
pub struct JobView {
    /// The job.
    pub id: JobId,
    /// Its task.
    pub task: Arc<str>,
    /// Its queue.
    pub queue: Arc<str>,
    /// How urgent it is.
    pub priority: Priority,
    /// Where it is.
    pub state: StateName,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<FailReason>,
    /// When it was accepted.
    pub created: Time,
    /// When it becomes ready, while it waits for a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due: Option<Time>,
    /// When its last attempt was claimed or began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<Time>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Time>,
    /// The node that runs it, or ran it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// How many of its dependencies have not ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_unfinished: Option<u32>,
    /// How many attempts are used.
    pub attempts: u32,
    /// How many it has.
    pub max_attempts: u32,
    /// How many died with their node.
    pub crashes: u32,
    /// How many asked to be tried later.
    pub snoozes: u32,
    /// The last lease.
    pub fence: Fence,
    /// Somebody wants it to end.
    pub cancel_requested: bool,
    /// What limits count it by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Its unique text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique: Option<String>,
    /// How long one attempt may take, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// When the whole job must have ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Time>,
    /// How far its attempt is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressView>,
    /// Its arguments.
    pub args: Box<RawValue>,
    /// Its result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<RawValue>>,
    /// The error of its last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<AttemptError>,
}

/// How far an attempt is.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
pub struct ProgressView {
    /// From 0 to 1.
    pub fraction: f64,
    /// What it does.
    pub message: String,
}

/// An attempt that ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AttemptView {
    /// The lease it had; also its order.
    pub fence: Fence,
    /// Which attempt it was when it ran.
    pub attempt: u32,
    /// The node that ran it.
    pub node: NodeId,
    /// When it was claimed or began.
    pub started: Time,
    /// When it ended, or was found lost.
    pub ended: Time,
    /// How: one of the words of an outcome, or `lost`.
    pub outcome: &'static str,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<AttemptError>,
}

/// A line of a job's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogView {
    /// The lease of the attempt that wrote it.
    pub fence: Fence,
    /// When.
    pub at: Time,
    /// `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// The text.
    pub text: String,
}

/// Which jobs to list. Everything given must hold.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// In one of these states; empty: any.
    pub states: Vec<StateName>,
    /// Of this queue.
    pub queue: Option<String>,
    /// Of this task.
    pub task: Option<String>,
    /// With this key.
    pub key: Option<String>,
}

/// Which part of a list: newest first, from after `before`.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Only jobs older than this one: the `next` of the page before.
    pub before: Option<JobId>,
    /// How many, at most [`Page::LIMIT_MAX`].
    pub limit: usize,
}

impl Page {
    /// The longest page.
    pub const LIMIT_MAX: usize = 1_000;
    /// How many jobs are looked at for one page; a filter that matches few of them gives a short
    /// page with a `next`.
    pub const SCAN_MAX: usize = 20_000;
}

impl Default for Page {
    fn default() -> Self {
        Page { before: None, limit: 50 }
    }
}

/// A page of jobs.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Listed {
    /// The jobs, newest first.
    pub jobs: Vec<JobView>,
    /// Where the next page starts; `None` at the end.
    pub next: Option<JobId>,
}

/// A position in the log of events: the next one has at least this offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct EventCursor(pub u64);

impl EventCursor {
    /// Before everything that is kept.
    pub const START: EventCursor = EventCursor(0);
    /// After everything there is now.
    pub const END: EventCursor = EventCursor(u64::MAX);
}

/// A committed fact about a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Its place in the log.
    pub offset: u64,
    /// When it was committed.
    pub at: Time,
    /// What happened.
    pub kind: EventKind,
    /// To which job.
    pub id: JobId,
    /// Of which task.
    pub task: Arc<str>,
    /// In which queue.
    pub queue: Arc<str>,
    /// At which attempt.
    pub attempt: u32,
}

/// A part of the log of events.
#[derive(Debug, Clone)]
pub struct Events {
    /// The events, oldest first.
    pub events: Vec<Event>,
    /// Where to go on.
    pub next: EventCursor,
    /// Events after the asked cursor are pruned already: read the state anew.
    pub gap: bool,
}

/// A number of jobs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Count {
    /// In this queue.
    pub queue: Arc<str>,
    /// Of this task.
    pub task: Arc<str>,
    /// In this state.
    pub state: StateName,
    /// So many.
    pub n: u64,
}

/// What may be forgotten.
#[derive(Debug, Clone, Copy)]
pub struct Prune {
    /// Succeeded and cancelled jobs that ended before this moment.
    pub succeeded_before: Time,
    /// Failed jobs that ended before this moment.
    pub failed_before: Time,
    /// Events committed before this moment.
    pub events_before: Time,
    /// How many jobs at most are forgotten one by one. Those that go with a part of the history which
    /// PostgreSQL drops whole come on top.
    pub limit: usize,
}

/// What was forgotten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Jobs, with attempts and logs.
    pub n_jobs: usize,
    /// Parts of the log of events.
    pub n_event_batches: usize,
}

/// Something that must never be found in a store, and was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Breach {
    /// What is wrong.
    pub what: String,
    /// How often.
    pub n: usize,
    /// Some of the jobs it is about.
    pub jobs: Vec<JobId>,
}

/// What a store is, and what it has done since it was opened.
#[derive(Debug, Clone, Serialize)]
pub struct StoreInfo {
    /// Where it lies, for people.
    pub store: String,
    /// How durable a commit is: `full`, `normal`, or `memory`.
    pub synchronous: &'static str,
    /// Commits so far.
    pub n_commits: u64,
}
