//! A node: one running copy of the program, with everything in it.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use taskloom_flow::{Cancellation, Every, Offload, TaskGroup};
use taskloom_store::{Clock, NewNode, PartHealth, Store, StoreError};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::board::Board;
use crate::dispatcher::{Dispatcher, Mode, Parts};
use crate::heartbeat::{BEAT_EVERY, Heart, HeartThread};
use crate::pool::Pool;
use crate::process::Launcher;
use crate::upkeep::{promote_loop, prune_loop, rescue, rescue_loop};
use crate::watch::Watch;
use crate::{PoolConfig, Registry, SlotKind, health};

/// How long ended jobs and events are kept at least. PostgreSQL may keep a job for half as long
/// again, to drop many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Succeeded and cancelled jobs.
    pub succeeded: Duration,
    /// Failed jobs.
    pub failed: Duration,
    /// The log of events.
    pub events: Duration,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Default for Retention {
    /// Succeeded jobs for 7 days, failed ones for 30, events for one.
    fn default() -> Self {
        Retention { succeeded: 7 * DAY, failed: 30 * DAY, events: DAY }
    }
}

/// How a node works.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Its name, for people.
    pub name: String,
    /// Async slots: each queue should be in at most one of them.
    pub pools: Vec<PoolConfig>,
    /// Slots for blocking tasks, each a thread of its own.
    pub blocking: Vec<PoolConfig>,
    /// Slots for attempts in child processes.
    pub processes: Vec<PoolConfig>,
    /// The arguments of child processes, without the name of the program.
    pub child_args: Vec<OsString>,
    /// How long a body has between the wish to cancel it and its drop.
    pub grace: Duration,
    /// How long ended jobs are kept.
    pub retention: Retention,
    /// Beat from a thread of its own; off only where the clock is paused.
    pub heartbeat_thread: bool,
}

/// One running copy of the program. Dropping it without [`Node::drain`] aborts its attempts; their
/// jobs are rescued by the next node.
#[derive(Debug)]
pub struct Node {
    store: Arc<dyn Store>,
    board: Arc<Board>,
    mode: watch::Sender<Mode>,
    dispatcher: TaskGroup,
    upkeep: TaskGroup,
    heart: Option<HeartThread>,
    parts: health::Parts,
}

impl Node {
    /// Registers a node, rescues what dead ones have left, and begins to work.
    ///
    /// # Errors
    /// What the store says.
    ///
    /// # Cancel safety
    /// A dropped start may leave a registered node behind, which is rescued as a dead one.
    pub async fn start(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        registry: Registry,
        config: NodeConfig,
    ) -> Result<Node, StoreError> {
        let tasks = registry.iter().map(|it| Arc::clone(&it.name)).collect();
        let new_node = NewNode { name: config.name.clone(), pid: std::process::id(), tasks };
        let id = store.register(new_node.clone()).await?;
        let board = Arc::new(Board::new(id));
        let mut watch = Watch::default();
        let parts = health::Parts::new(&clock);
        // What can't be done now is done again by the loop.
        rescue(&*store, &board, &mut watch).await.ok();
        let (mode, mode_out) = watch::channel(Mode::Work);
        let dispatcher = Dispatcher::new(Parts {
            store: Arc::clone(&store),
            clock: Arc::clone(&clock),
            pools: pools(&config, &registry),
            registry: Arc::new(registry),
            board: Arc::clone(&board),
            offload: Arc::new(Offload::new("taskloom-blocking", n_slots(&config.blocking))),
            launcher: Arc::new(Launcher::new(
                config.child_args.clone(),
                n_slots(&config.processes),
            )),
            mode: mode_out,
            grace: config.grace,
            health: parts.dispatcher.clone(),
        });
        let group = TaskGroup::isolated();
        group.spawn("dispatcher", dispatcher.run());
        let heart = Heart {
            store: Arc::clone(&store),
            board: Arc::clone(&board),
            node: new_node,
            part: parts.heartbeat.clone(),
        };
        let upkeep = TaskGroup::isolated();
        let to_promote = (Arc::clone(&store), Arc::clone(&clock));
        let part = parts.promote.clone();
        upkeep.spawn_with("promote", |stop| promote_loop(to_promote.0, to_promote.1, part, stop));
        let to_rescue = (Arc::clone(&store), Arc::clone(&board));
        let part = parts.rescue.clone();
        upkeep
            .spawn_with("rescue", |stop| rescue_loop(to_rescue.0, to_rescue.1, watch, part, stop));
        let (to_prune, retention) = (Arc::clone(&store), config.retention);
        let part = parts.prune.clone();
        upkeep.spawn_with("prune", |stop| prune_loop(to_prune, clock, retention, part, stop));
        let heart = if config.heartbeat_thread {
            let started = HeartThread::start(heart);
            Some(started.map_err(|error| StoreError::Database(error.to_string()))?)
        } else {
            upkeep.spawn_with("heartbeat", |stop| beat_routine(heart, stop));
            None
        };
        Ok(Node { store, board, mode, dispatcher: group, upkeep, heart, parts })
    }

    /// The id of this node.
    #[must_use]
    pub fn id(&self) -> taskloom_model::NodeId {
        self.board.node()
    }

    /// How many attempts are under way.
    #[must_use]
    pub fn n_running(&self) -> usize {
        self.board.ids().len()
    }

    /// How the parts of this node fare: cheap, no I/O.
    #[must_use]
    pub fn health(&self) -> Vec<PartHealth> {
        self.parts.health()
    }

    /// Asks an attempt of this node to end, faster than its next heartbeat would.
    pub fn cancel(&self, id: taskloom_model::JobId) {
        self.board.cancel_job(id);
    }

    /// Claims nothing more, lets what runs go on for `deadline`, then asks it to end and gives it
    /// back. Returns once the store knows, and the node is gone from it.
    ///
    /// # Errors
    /// What the store says when the node leaves.
    ///
    /// # Cancel safety
    /// A dropped drain aborts what runs; the jobs are rescued as those of a dead node.
    pub async fn drain(mut self, deadline: Duration) -> Result<(), StoreError> {
        self.mode.send_if_modified(|mode| {
            // A hurry may have come before this was first polled; it is not taken back.
            let is_new = *mode != Mode::Stop;
            if is_new {
                *mode = Mode::Drain(Instant::now() + deadline);
            }
            is_new
        });
        while self.dispatcher.join_next().await.is_some() {}
        drop(self.heart.take());
        self.upkeep.drain(Duration::from_secs(5)).await;
        self.store.retire(self.board.node()).await
    }

    /// What shortens a drain that is under way.
    #[must_use]
    pub fn hurry(&self) -> Hurry {
        Hurry(self.mode.clone())
    }
}

/// Ends a drain before its deadline.
#[derive(Debug, Clone)]
pub struct Hurry(watch::Sender<Mode>);

impl Hurry {
    /// Ends everything that runs now, without its grace, and gives it back.
    pub fn now(&self) {
        self.0.send(Mode::Stop).ok();
    }
}

fn pools(config: &NodeConfig, registry: &Registry) -> Vec<Pool> {
    let kinds = [
        (SlotKind::Async, &config.pools),
        (SlotKind::Blocking, &config.blocking),
        (SlotKind::Process, &config.processes),
    ];
    let of_kind = |(kind, configs): (SlotKind, &Vec<PoolConfig>)| {
        let tasks = registry.iter().filter(|it| it.slot_kind() == kind);
        let tasks: Arc<[Arc<str>]> = tasks.map(|it| Arc::clone(&it.name)).collect();
        configs.iter().map(|it| Pool::new(it, Arc::clone(&tasks))).collect::<Vec<_>>()
    };
    kinds.into_iter().flat_map(of_kind).collect()
}

fn n_slots(pools: &[PoolConfig]) -> usize {
    pools.iter().map(|it| it.slots).sum()
}

async fn beat_routine(heart: Heart, stop: Cancellation) {
    let mut every = Every::new(BEAT_EVERY).first_after(BEAT_EVERY);
    while stop.run(every.tick()).await.is_ok() {
        heart.beat().await;
    }
}
