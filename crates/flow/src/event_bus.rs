//! Events inside one program: published by type, handed to whoever subscribed to that type.
//!
//! # Invariants
//! - Every backlog is bounded, and [`EventBus::publish`] never waits.
//! - All subscribers of a type meet its events in one order, which is each publisher's own.
//! - A subscriber that misses events is told how many, at the place where they are missing.
//! - No user code runs under a lock: neither drops of events nor wakers.

mod handler;
mod subscription;
mod topic;

#[cfg(test)]
mod tests;

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use crate::{BoxError, Drained, TaskGroup};

pub use handler::{BusHandler, HandlerReport, HandlerTrouble};
pub use subscription::{EventsMissed, Overflow, Subscription, SubscriptionOptions};
pub use topic::{Published, SubscriberStats, TopicStats};

use topic::{AnyTopic, Topic};

/// Why a topic is of the type it is looked up by.
const KEPT_BY_TYPE: &str = "topics are kept by the type of their events";

/// Hands events to whoever subscribed to their type. Any type will do that threads can share; a
/// publisher and its subscribers share nothing but that type.
///
/// Subscribers of one event share it in an [`Arc`]. A handler's routine is owned by the bus, and
/// dropping the bus aborts it, and ends the subscriptions after what they hold already. To publish
/// from a handler, give it an [`EventBus::publisher`].
///
/// ```
/// use std::sync::Arc;
/// use taskloom_flow::{EventBus, HandlerReport};
///
/// struct OrderPaid { amount: u32 }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let bus = EventBus::new();
/// bus.on("send receipt", |paid: Arc<OrderPaid>| async move {
///     if paid.amount == 0 { Err("nothing was paid".into()) } else { Ok(()) }
/// });
/// let mut ledger = bus.subscribe::<OrderPaid>();
/// let mut reports = bus.subscribe::<HandlerReport>();
///
/// assert_eq!(bus.publish(OrderPaid { amount: 0 }).delivered, 2);
/// assert_eq!(ledger.recv().await.unwrap().unwrap().amount, 0);
/// let report = reports.recv().await.unwrap().unwrap();
/// assert_eq!(report.to_string(), "handler `send receipt` errored: nothing was paid");
/// # }
/// ```
pub struct EventBus {
    shared: Arc<Shared>,
    /// Of the handlers.
    routines: Mutex<TaskGroup>,
}

/// Publishes to a bus without owning it: what handlers keep, since a bus that is owned by its own
/// handlers would never be dropped. Clones are cheap.
#[derive(Debug, Clone)]
pub struct BusPublisher {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    topics: RwLock<Topics>,
}

#[derive(Default)]
struct Topics {
    /// As many at most as the program has types of events.
    by_type: HashMap<TypeId, Arc<dyn AnyTopic>, BuildHasherDefault<AsItIs>>,
    closed: bool,
}

impl Default for EventBus {
    fn default() -> Self {
        EventBus::new()
    }
}

impl EventBus {
    /// A bus without subscribers.
    #[must_use]
    pub fn new() -> Self {
        let routines = Mutex::new(TaskGroup::isolated());
        EventBus { shared: Arc::default(), routines }
    }

    /// Subscribes to the events of a type published from now on, with a backlog of 64 in which a
    /// new event drops the oldest.
    #[must_use = "dropping a subscription ends it"]
    pub fn subscribe<E: Send + Sync + 'static>(&self) -> Subscription<E> {
        self.subscribe_with(SubscriptionOptions::new())
    }

    /// The same, beginning with the last event that was published, if there was one: nothing
    /// comes between the two, and nothing comes twice.
    #[must_use = "dropping a subscription ends it"]
    pub fn subscribe_with_last<E: Send + Sync + 'static>(&self) -> Subscription<E> {
        self.subscribe_with(SubscriptionOptions::new().replay_last())
    }

    /// Subscribes with a backlog, an overflow policy and a name of its own.
    #[must_use = "dropping a subscription ends it"]
    pub fn subscribe_with<E: Send + Sync + 'static>(
        &self,
        options: SubscriptionOptions,
    ) -> Subscription<E> {
        self.shared.topic::<E>().subscribe(options)
    }

    /// Calls `handler` with each event of a type, one at a time, in a routine owned by the bus,
    /// with a backlog as [`EventBus::subscribe`] has it.
    ///
    /// An error or a panic ends that call alone. It is counted, warned of by `tracing`, and
    /// published as a [`HandlerReport`], and so are events that the handler missed.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn on<E, F, R>(&self, name: &'static str, handler: F) -> BusHandler
    where
        E: Send + Sync + 'static,
        F: Fn(Arc<E>) -> R + Send + 'static,
        R: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.on_with(SubscriptionOptions::new().named(name), handler)
    }

    /// The same with a backlog and an overflow policy of its own. The handler's name is that of
    /// the `options`.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn on_with<E, F, R>(&self, options: SubscriptionOptions, handler: F) -> BusHandler
    where
        E: Send + Sync + 'static,
        F: Fn(Arc<E>) -> R + Send + 'static,
        R: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let name = options.name;
        let subscription = self.subscribe_with::<E>(options);
        let handle = BusHandler::new(&subscription);
        let routine = handler::handle_all(name, subscription, handler, self.publisher());
        self.routines.lock().spawn(name, routine);
        handle
    }

    /// Offers `event` to every subscriber of its type. Never waits: a full backlog drops what its
    /// [`Overflow`] says. An event that nobody subscribed to is kept as the last one only. The type
    /// is all that counts: a bare `7` is an `i32`, and reaches no subscriber of `u64`.
    pub fn publish<E: Send + Sync + 'static>(&self, event: E) -> Published {
        self.shared.publish(event)
    }

    /// Waits until each subscriber with [`Overflow::Wait`] has room, and then publishes to all at
    /// once. Calls for one type pass in the order they came; a handler that waits so for its own
    /// type, with its own backlog full, waits for ever.
    ///
    /// # Cancel safety
    /// Safe: an event whose publisher stops waiting reaches nobody.
    pub async fn publish_wait<E: Send + Sync + 'static>(&self, event: E) -> Published {
        self.shared.topic::<E>().publish_wait(event).await
    }

    /// What publishes to this bus without owning it.
    #[must_use]
    pub fn publisher(&self) -> BusPublisher {
        BusPublisher { shared: Arc::clone(&self.shared) }
    }

    /// Ends every subscription, after what it holds already, and so every handler. What is
    /// published from now on reaches nobody.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Closes the bus, waits up to `deadline` until the handlers are through with their backlogs,
    /// then aborts and counts the rest. What they publish meanwhile, reports too, reaches nobody.
    ///
    /// # Cancel safety
    /// The bus is closed. Dropping this future aborts every handler still running.
    pub async fn drain(&self, deadline: Duration) -> Drained {
        self.close();
        let routines = std::mem::replace(&mut *self.routines.lock(), TaskGroup::isolated());
        routines.drain(deadline).await
    }

    /// What was published and who has it, by type, in the order of the types' names.
    #[must_use]
    pub fn stats(&self) -> Vec<TopicStats> {
        self.shared.stats()
    }
}

impl Drop for EventBus {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for EventBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventBus").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl BusPublisher {
    /// As [`EventBus::publish`]; once the bus is closed or dropped it reaches nobody.
    pub fn publish<E: Send + Sync + 'static>(&self, event: E) -> Published {
        self.shared.publish(event)
    }

    /// As [`EventBus::publish_wait`]; once the bus is closed or dropped it reaches nobody.
    ///
    /// # Cancel safety
    /// Safe: an event whose publisher stops waiting reaches nobody.
    pub async fn publish_wait<E: Send + Sync + 'static>(&self, event: E) -> Published {
        self.shared.topic::<E>().publish_wait(event).await
    }
}

impl Shared {
    fn publish<E: Send + Sync + 'static>(&self, event: E) -> Published {
        let event = Arc::new(event);
        // Under the lock, which is cheaper than a count of the topic that all publishers share.
        let offered = self.topics.read().by_type.get(&TypeId::of::<E>()).map(|topic| {
            let topic: &(dyn Any + Send + Sync) = &**topic;
            topic.downcast_ref::<Topic<E>>().expect(KEPT_BY_TYPE).offer(&event)
        });
        let (published, after) = offered.unwrap_or_else(|| self.topic::<E>().offer(&event));
        after.finish();
        published
    }

    fn topic<E: Send + Sync + 'static>(&self) -> Arc<Topic<E>> {
        let id = TypeId::of::<E>();
        let known = self.topics.read().by_type.get(&id).map(Arc::clone);
        let topic = known.unwrap_or_else(|| {
            let mut topics = self.topics.write();
            let closed = topics.closed;
            let topic = topics.by_type.entry(id);
            Arc::clone(topic.or_insert_with(|| Arc::new(Topic::<E>::new(closed))))
        });
        let topic: Arc<dyn Any + Send + Sync> = topic;
        topic.downcast().expect(KEPT_BY_TYPE)
    }

    fn close(&self) {
        let mut topics = self.topics.write();
        topics.closed = true;
        let all: Vec<_> = topics.by_type.values().map(Arc::clone).collect();
        drop(topics);
        for topic in all {
            topic.close();
        }
    }

    fn stats(&self) -> Vec<TopicStats> {
        let all: Vec<_> = self.topics.read().by_type.values().map(Arc::clone).collect();
        let mut stats: Vec<_> = all.iter().map(|it| it.stats()).collect();
        stats.sort_by_key(|it| it.event);
        stats
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("topics", &self.stats()).finish()
    }
}

/// The ids of types are hashes already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }

    fn write(&mut self, bytes: &[u8]) {
        // Should an id ever hash itself in another way: slower, and right.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// What a type of events is called in stats and warnings.
fn name_of<E>() -> &'static str {
    type_name::<E>()
}
