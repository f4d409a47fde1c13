//! The dispatcher: moves claimed jobs into slots, and ended attempts back to the store.
//!
//! One routine owns the pools. At most one call to the store is under way; what ends meanwhile
//! rides the next one, together with the claim of the next jobs.

mod giving_back;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use taskloom_flow::{Backoff, BackoffDelays, Jitter, Offload, TaskGroup};
use taskloom_model::{NodeId, Refusal};
use taskloom_store::{Claimed, Clock, Demand, Finish, Finished, Store, StoreError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::attempt::{Attempt, interrupted};
use crate::board::Board;
use crate::health::Watched;
use crate::pool::Pool;
use crate::process::Launcher;
use crate::{CancelReason, Registry, Runner};

/// What the dispatcher should do. Only ever moves on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Mode {
    /// Claim and run.
    Work,
    /// Claim nothing more; let what runs go on until then.
    Drain(Instant),
    /// End what runs now, and give it back.
    Stop,
}

/// How many ended attempts one call records at most: bounds the memory of a commit.
const FINISH_MAX: usize = 4_096;
/// How long to wait after an error of the store: at first, and at most.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// An attempt that ended, and the pool whose slot it frees.
pub(crate) type Ended = (usize, Finish);

struct Call {
    node: NodeId,
    /// What is being recorded: given again if the store could not.
    ended: Vec<Finish>,
    demanded: Vec<usize>,
    version: u64,
    answer: BoxFuture<'static, Result<Finished, StoreError>>,
}

pub(crate) struct Dispatcher {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    registry: Arc<Registry>,
    board: Arc<Board>,
    pools: Vec<Pool>,
    offload: Arc<Offload>,
    launcher: Arc<Launcher>,
    mode: watch::Receiver<Mode>,
    ready: watch::Receiver<u64>,
    node: watch::Receiver<NodeId>,
    grace: Duration,
    attempts: TaskGroup,
    ended_in: mpsc::Sender<Ended>,
    ended_out: mpsc::Receiver<Ended>,
    to_finish: Vec<Finish>,
    call: Option<Call>,
    /// A call went wrong that may have claimed jobs all the same: they are given back first.
    is_unsure: bool,
    backoff: BackoffDelays,
    not_before: Option<Instant>,
    health: Watched,
}

/// Why the dispatcher woke.
enum Wake {
    Mode,
    Reborn,
    Answer(Result<Finished, StoreError>),
    Ended,
    Ready,
    Later,
    OutOfTime,
}

/// What the composition of a node hands to its dispatcher.
pub(crate) struct Parts {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) board: Arc<Board>,
    pub(crate) pools: Vec<Pool>,
    pub(crate) offload: Arc<Offload>,
    pub(crate) launcher: Arc<Launcher>,
    pub(crate) mode: watch::Receiver<Mode>,
    pub(crate) grace: Duration,
    pub(crate) health: Watched,
}

impl Dispatcher {
    pub(crate) fn new(parts: Parts) -> Dispatcher {
        let Parts { store, clock, registry, board, pools, offload, launcher, mode, grace, health } =
            parts;
        // Every running attempt can end without waiting for the dispatcher.
        let capacity = pools.iter().map(Pool::capacity).sum::<usize>().max(1);
        let (ended_in, ended_out) = mpsc::channel(capacity);
        let ready = store.notices().ready;
        let node = board.watch_node();
        Dispatcher {
            store,
            clock,
            health,
            registry,
            board,
            pools,
            offload,
            launcher,
            mode,
            ready,
            node,
            grace,
            attempts: TaskGroup::isolated(),
            ended_in,
            ended_out,
            to_finish: Vec::new(),
            call: None,
            is_unsure: false,
            backoff: backoff(),
            not_before: None,
        }
    }

    /// Works until told to drain, then until everything is given back.
    pub(crate) async fn run(mut self) {
        let mut batch = Vec::new();
        let mut is_cancelled = false;
        loop {
            let mode = *self.mode.borrow_and_update();
            match mode {
                Mode::Work => self.begin_waiting(),
                Mode::Drain(_) => self.give_back_waiting().await,
                Mode::Stop => {
                    self.board.cancel_all(CancelReason::Drain);
                    return self.abandon().await;
                }
            }
            self.call_store(mode);
            if mode != Mode::Work && self.is_idle() {
                return;
            }
            let wake = self.wait(mode, is_cancelled, &mut batch).await;
            match wake {
                Wake::Mode | Wake::Ready => {}
                Wake::Reborn => self.reborn(),
                Wake::Answer(answer) => self.answered(answer),
                Wake::Ended => self.ended(&mut batch),
                Wake::Later => self.not_before = None,
                Wake::OutOfTime if is_cancelled => {
                    self.abandon().await;
                    return;
                }
                Wake::OutOfTime => {
                    is_cancelled = true;
                    self.board.cancel_all(CancelReason::Drain);
                }
            }
        }
    }

    fn is_idle(&self) -> bool {
        let is_running = self.pools.iter().any(|it| 0 < it.n_running());
        self.call.is_none() && self.to_finish.is_empty() && !self.is_unsure && !is_running
    }

    /// Waits for something to do; does nothing of it here.
    async fn wait(&mut self, mode: Mode, is_cancelled: bool, batch: &mut Vec<Ended>) -> Wake {
        let is_calling = self.call.is_some();
        let answer = async {
            match &mut self.call {
                Some(call) => (&mut call.answer).await,
                None => std::future::pending().await,
            }
        };
        let later = self.not_before;
        let out_of_time = match mode {
            Mode::Work | Mode::Stop => None,
            // After the wish to end, the grace of the attempts and a little for the store.
            Mode::Drain(at) if is_cancelled => Some(at + self.grace + BACKOFF_MAX),
            Mode::Drain(at) => Some(at),
        };
        tokio::select! {
            biased;
            changed = self.mode.changed() => {
                // The node is gone without a drain: nobody waits for an orderly end.
                if changed.is_err() { Wake::OutOfTime } else { Wake::Mode }
            }
            // Before the answer, which may hold the first claims of the new node.
            _ = self.node.changed() => Wake::Reborn,
            answer = answer => Wake::Answer(answer),
            n = self.ended_out.recv_many(batch, FINISH_MAX), if self.to_finish.len() < FINISH_MAX => {
                debug_assert!(0 < n, "the dispatcher holds a sender itself");
                Wake::Ended
            }
            _ = self.ready.changed(), if !is_calling => Wake::Ready,
            () = sleep_until(later) => Wake::Later,
            () = sleep_until(out_of_time) => Wake::OutOfTime,
        }
    }

    /// This process is another node now: what it has claimed belongs to others, and what the store
    /// refused to the old node it may give to the new one.
    fn reborn(&mut self) {
        for pool in &mut self.pools {
            pool.take_waiting();
            pool.look_again();
        }
    }

    fn ended(&mut self, batch: &mut Vec<Ended>) {
        for (pool, finish) in batch.drain(..) {
            self.board.remove(finish.id, finish.fence);
            self.pools[pool].end();
            self.to_finish.push(finish);
        }
    }

    /// Begins a call if there is something to say or to ask and none is under way.
    fn call_store(&mut self, mode: Mode) {
        if self.call.is_some() || self.not_before.is_some() {
            return;
        }
        let version = *self.ready.borrow_and_update();
        // A call that first gives back takes its time, and a drain may begin meanwhile.
        let may_claim = mode == Mode::Work && !self.is_unsure;
        let demands: Vec<Demand> = self
            .pools
            .iter_mut()
            .map(|pool| {
                let demand = pool.demand(version);
                if may_claim { demand } else { Demand { n: 0, ..demand } }
            })
            .collect();
        let demanded: Vec<usize> = demands.iter().map(|it| it.n).collect();
        let n_demanded: usize = demanded.iter().sum();
        if self.to_finish.is_empty() && n_demanded == 0 && !self.is_unsure {
            return;
        }
        self.pools.iter_mut().for_each(Pool::adapt);
        let known = self.is_unsure.then(|| self.known());
        let ended = std::mem::take(&mut self.to_finish);
        let node = self.board.node();
        let store = Arc::clone(&self.store);
        let to_record = ended.clone();
        let answer = Box::pin(async move {
            if let Some(known) = known {
                giving_back::release_unknown(&*store, node, &known).await?;
            }
            store.finish(node, to_record, demands).await
        });
        self.health.begins();
        self.call = Some(Call { node, ended, demanded, version, answer });
    }

    fn answered(&mut self, answer: Result<Finished, StoreError>) {
        let Some(call) = self.call.take() else { return };
        self.health.went(&answer);
        let finished = match answer {
            Ok(finished) => finished,
            Err(error) => {
                tracing::error!(%error, code = error.code(), "the store can't record; trying again");
                self.to_finish.splice(0..0, call.ended);
                self.is_unsure |= call.demanded.iter().any(|it| 0 < *it);
                let delay = self.backoff.next().expect("delays have no end");
                self.not_before = Some(Instant::now() + delay);
                return;
            }
        };
        self.backoff = backoff();
        self.is_unsure = false;
        for (ended, outcome) in call.ended.iter().zip(&finished.outcomes) {
            // Said twice after a lost answer; the first time counted.
            if let Err(refusal) = outcome
                && *refusal != Refusal::AlreadyFinished
            {
                let word = ended.outcome.as_str();
                tracing::warn!(job = %ended.id, outcome = word, %refusal, "a late outcome is refused");
            }
        }
        // A node that was taken for dead gets nothing, but that says nothing of the queues; and what
        // it got before belongs to others now.
        if call.node != self.board.node() {
            return;
        }
        let mut n_claimed = vec![0; self.pools.len()];
        for claimed in finished.claimed {
            n_claimed[claimed.demand] += 1;
            self.pools[claimed.demand].wait(claimed);
        }
        for (place, pool) in self.pools.iter_mut().enumerate() {
            if n_claimed[place] < call.demanded[place] {
                pool.dry(call.version);
            }
        }
    }

    fn begin_waiting(&mut self) {
        for pool in 0..self.pools.len() {
            while let Some(claimed) = self.pools[pool].begin() {
                self.begin(pool, &claimed);
            }
        }
    }

    fn begin(&mut self, pool: usize, claimed: &Claimed) {
        let Some(entry) = self.registry.get(&claimed.task) else {
            // The store was asked for known tasks only.
            tracing::error!(task = %claimed.task, "claimed a job of an unknown task");
            self.pools[pool].end();
            self.to_finish.push(interrupted(claimed.id, claimed.fence, self.clock.now()));
            return;
        };
        let attempt = Attempt::new(claimed, entry.options.clone(), &self.clock, self.grace);
        let ctx = attempt.ctx.clone();
        self.board.add(claimed.id, claimed.fence, ctx.clone());
        let ended = self.ended_in.clone();
        match &entry.runner {
            _ if entry.options.process.is_some() => {
                let launcher = Arc::clone(&self.launcher);
                self.attempts.spawn("attempt", async move {
                    let finish = attempt.run_in_child(&launcher).await;
                    ended.send((pool, finish)).await.ok();
                });
            }
            Runner::Async(runner) => {
                let runner = Arc::clone(runner);
                self.attempts.spawn("attempt", async move {
                    let finish = attempt.run(&*runner).await;
                    ended.send((pool, finish)).await.ok();
                });
            }
            Runner::Blocking(runner) => {
                let (over, is_over) = oneshot::channel::<()>();
                if let Some(deadline) = ctx.deadline() {
                    self.attempts.spawn("timeout", async move {
                        tokio::select! {
                            biased;
                            _ = is_over => {}
                            () = tokio::time::sleep_until(deadline) => {
                                ctx.cancel(CancelReason::TimedOut);
                            }
                        }
                    });
                }
                let runner = Arc::clone(runner);
                let work = move || {
                    let finish = attempt.run_blocking(&*runner);
                    drop(over);
                    // There is room: the channel holds every slot.
                    ended.try_send((pool, finish)).ok();
                };
                if self.offload.try_submit(work).is_err() {
                    // A thread that ignored its end still sits in the slot that was given away.
                    self.board.remove(claimed.id, claimed.fence);
                    self.pools[pool].end();
                    let now = self.clock.now();
                    self.to_finish.push(interrupted(claimed.id, claimed.fence, now));
                }
            }
        }
    }
}

/// How long to leave a store alone that errored.
fn backoff() -> BackoffDelays {
    let backoff = Backoff::new(BACKOFF_FIRST, 2.0, BACKOFF_MAX, Jitter::None);
    backoff.expect("the first delay is shorter than the longest").delays()
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
