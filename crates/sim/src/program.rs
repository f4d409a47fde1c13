//! One running copy of the program: a real `Node` behind a faulty store and a gate. It is started,
//! paused, drained, or killed without good-bye.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use taskloom_dispatch::{Node, NodeConfig, PoolConfig, Retention};
use taskloom_flow::{Cancellation, TaskGroup};
use taskloom_model::JobId;
use taskloom_store::{Clock, Queues, Store};
use tokio::sync::mpsc;

use crate::book::{GRACE, SharedBook};
use crate::clock::SimClock;
use crate::faulty_store::FaultyStore;
use crate::gate::Gate;
use crate::relay::Relay;
use crate::script::registry;
use crate::weather::Weather;

/// The queue with slots of its own.
pub(crate) const APART: &str = "apart";

/// How many orders may wait: a program that starts takes none.
const ORDERS_MAX: usize = 64;

/// What the world is made of.
#[derive(Debug, Clone)]
pub(crate) struct Ground {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) relay: Arc<Relay>,
    pub(crate) clock: SimClock,
    pub(crate) weather: Arc<Weather>,
    pub(crate) book: SharedBook,
}

impl Ground {
    pub(crate) fn store_of(&self, view: usize, gate: &Arc<Gate>) -> Arc<dyn Store> {
        Arc::new(FaultyStore {
            inner: Arc::clone(&self.store),
            relay: Arc::clone(&self.relay),
            weather: Arc::clone(&self.weather),
            gate: Arc::clone(gate),
            book: Arc::clone(&self.book),
            view,
        })
    }
}

#[derive(Debug)]
pub(crate) enum Order {
    Drain { deadline: Duration, hurry_after: Option<Duration> },
    Cancel(JobId),
}

#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) view: usize,
    pub(crate) gate: Arc<Gate>,
    /// When it wakes, while it is paused.
    pub(crate) wakes: Option<Duration>,
    pub(crate) is_draining: bool,
    kill: Cancellation,
    orders: mpsc::Sender<Order>,
    /// Closed once nothing of the program is left.
    over: mpsc::Receiver<()>,
}

impl Program {
    /// Starts a program in a routine of `group`.
    pub(crate) fn start(ground: &Ground, view: usize, rng: &mut Rng, group: &TaskGroup) -> Self {
        let gate = Arc::<Gate>::default();
        let store = ground.store_of(view, &gate);
        let clock: Arc<dyn Clock> = Arc::new(ground.clock.clone());
        let registry = registry(view, &ground.book, &gate);
        let config = config(view, rng);
        let (orders, orders_out) = mpsc::channel(ORDERS_MAX);
        let (over_in, over) = mpsc::channel(1);
        let kill = Cancellation::new();
        let killed = kill.clone();
        {
            let mut book = ground.book.lock();
            let n_slots = config.pools.iter().map(|it| it.slots).sum();
            book.views.entry(view).or_default().n_slots = n_slots;
            book.summary.n_started += 1;
            book.tell(&format!("program {view} starts"));
        }
        let book = Arc::clone(&ground.book);
        group.spawn("program", async move {
            let life = async {
                match Node::start(store, clock, registry, config).await {
                    Ok(node) => live(node, orders_out, (view, &book)).await,
                    Err(error) => book.lock().tell(&format!("program {view}: {error}")),
                }
            };
            killed.run(life).await.ok();
            drop(over_in);
        });
        Program { view, gate, wakes: None, is_draining: false, kill, orders, over }
    }

    pub(crate) fn order(&self, order: Order) {
        self.orders.try_send(order).ok();
    }

    /// Drops it without good-bye.
    pub(crate) fn kill(&self) {
        self.kill.cancel("killed");
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.is_closed()
    }

    /// Waits until nothing of it is left.
    pub(crate) async fn over(&mut self) {
        self.over.recv().await;
    }
}

async fn live(node: Node, mut orders: mpsc::Receiver<Order>, (view, book): (usize, &SharedBook)) {
    loop {
        match orders.recv().await {
            Some(Order::Cancel(id)) => node.cancel(id),
            Some(Order::Drain { deadline, hurry_after }) => {
                let hurry = node.hurry();
                let hurried = async {
                    match hurry_after {
                        Some(after) => tokio::time::sleep(after).await,
                        None => std::future::pending().await,
                    }
                    hurry.now();
                };
                book.lock().views.entry(view).or_default().is_draining = true;
                let drained = node.drain(deadline);
                let mut drained = std::pin::pin!(drained);
                tokio::select! {
                    biased;
                    drained = &mut drained => drop(drained),
                    () = hurried => drop(drained.await),
                }
                return;
            }
            None => return,
        }
    }
}

fn config(view: usize, rng: &mut Rng) -> NodeConfig {
    let apart: Arc<[Arc<str>]> = Arc::from([Arc::from(APART)]);
    let pools = vec![
        PoolConfig { queues: Queues::Except(Arc::clone(&apart)), slots: rng.usize(1..=4) },
        PoolConfig { queues: Queues::Only(apart), slots: rng.usize(1..=2) },
    ];
    NodeConfig {
        name: format!("program {view}"),
        pools,
        blocking: Vec::new(),
        processes: Vec::new(),
        child_args: Vec::new(),
        grace: GRACE,
        retention: Retention::default(),
        heartbeat_thread: false,
    }
}
