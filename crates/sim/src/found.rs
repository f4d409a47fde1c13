//! What the simulation has found, each as a history of its own.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use futures::FutureExt;
use parking_lot::Mutex;
use taskloom_dispatch::{Ctx, Entry, Node, NodeConfig, PoolConfig, Registry, Runner, TaskOptions};
use taskloom_flow::TaskGroup;
use taskloom_model::{JobId, StateName};
use taskloom_store::sqlite::{SqliteOptions, SqliteStore};
use taskloom_store::{NewJob, Queues, Store};

use crate::book::Book;
use crate::clock::SimClock;
use crate::program::{Ground, Program};
use crate::relay::Relay;
use crate::weather::{Rates, Weather};

const NEVER: Rates = Rates { error: 0, lost_answer: 0, slow: 0, slow_max: Duration::ZERO };

fn ground() -> Ground {
    let clock = SimClock::start();
    let store = SqliteStore::in_memory(SqliteOptions::default(), Arc::new(clock.clone()));
    let store: Arc<dyn Store> = Arc::new(store.unwrap());
    let relay = Arc::new(Relay::new(&*store));
    let book = Arc::new(Mutex::new(Book::new(1, clock.clone())));
    let weather = Arc::new(Weather::new(Rng::with_seed(1)));
    Ground { store, relay, clock, weather, book }
}

async fn state(store: &dyn Store, id: JobId) -> StateName {
    store.get(vec![id]).await.unwrap()[0].as_ref().unwrap().state
}

/// The job stayed with a node that knew nothing of it, for as long as the node lived.
#[tokio::test(start_paused = true)]
async fn a_claim_whose_answer_was_lost_is_given_back() {
    let ground = ground();
    let group = TaskGroup::isolated();
    let _program = Program::start(&ground, 1, &mut Rng::with_seed(1), &group);
    tokio::time::sleep(Duration::from_millis(10)).await;
    let operator = ground.store_of(0, &Arc::default());
    let accepted = operator.submit(vec![NewJob::new("bake", "{}")]).await.unwrap();
    ground.weather.set(Rates { lost_answer: 100, ..NEVER });
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(state(&*ground.store, accepted[0].id).await, StateName::Running);
    assert_eq!(ground.book.lock().summary.n_begun, 0, "its program has never heard of it");
    ground.weather.set(NEVER);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(0 < ground.book.lock().summary.n_begun, "another claim follows");
    assert_eq!(ground.book.lock().broken(), None);
}

/// Looks, when its body is dropped, where its job is by then.
struct Look(Arc<dyn Store>, JobId, Arc<Mutex<Vec<StateName>>>);

impl Drop for Look {
    fn drop(&mut self) {
        let state = state(&*self.0, self.1).now_or_never().unwrap();
        self.2.lock().push(state);
    }
}

/// The job was ready for others while its body still ran here: two owners.
#[tokio::test(start_paused = true)]
async fn a_hurried_drain_drops_the_bodies_before_it_gives_their_jobs_back() {
    let ground = ground();
    let seen: Arc<Mutex<Vec<StateName>>> = Arc::default();
    let (store, states) = (Arc::clone(&ground.store), Arc::clone(&seen));
    let runner = Arc::new(move |ctx: Ctx, _: Arc<str>| {
        let look = Look(Arc::clone(&store), ctx.job_id(), Arc::clone(&states));
        async move {
            let _look = look;
            std::future::pending().await
        }
        .boxed()
    });
    let mut registry = Registry::default();
    let (name, options) = (Arc::from("bake"), TaskOptions::default());
    registry.add(Entry { name, options, runner: Runner::Async(runner) }).unwrap();
    let config = NodeConfig {
        name: "hurried".into(),
        pools: vec![PoolConfig { queues: Queues::Except(Arc::from([])), slots: 2 }],
        blocking: Vec::new(),
        processes: Vec::new(),
        child_args: Vec::new(),
        grace: Duration::from_secs(60),
        retention: taskloom_dispatch::Retention::default(),
        heartbeat_thread: false,
    };
    let clock = Arc::new(ground.clock.clone());
    let node = Node::start(Arc::clone(&ground.store), clock, registry, config).await.unwrap();
    let jobs = vec![NewJob::new("bake", "{}"), NewJob::new("bake", "{}")];
    ground.store.submit(jobs).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(node.n_running(), 2);
    node.hurry().now();
    node.drain(Duration::from_secs(60)).await.unwrap();
    assert_eq!(*seen.lock(), [StateName::Running, StateName::Running]);
}
