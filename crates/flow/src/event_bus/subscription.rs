//! The receiving end: a bounded backlog of events, as a stream.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::Stream;

use super::topic::{Inbox, Taken, Topic};

/// How many events a subscriber may fall behind, unless told: at ten a second, for six seconds.
const BACKLOG_MAX: usize = 64;

/// What a full backlog does with a new event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// The oldest event makes room: for those who want to know how things are now.
    #[default]
    DropOldest,
    /// The new event is dropped: for those who finish what they began.
    DropNewest,
    /// [`publish_wait`](super::EventBus::publish_wait) waits for room: for those who must have
    /// every event. To [`publish`](super::EventBus::publish), which never waits, it is as
    /// [`Overflow::DropNewest`].
    Wait,
}

/// Events were dropped at this place, since the backlog was full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("missed {0} events; take them sooner, or subscribe with a larger backlog")]
pub struct EventsMissed(pub u64);

/// How a subscription is kept.
///
/// ```
/// use taskloom_flow::{EventBus, Overflow, SubscriptionOptions};
///
/// let options = SubscriptionOptions::new().named("audit").backlog_max(2);
/// let bus = EventBus::new();
/// let audit = bus.subscribe_with::<u8>(options.overflow(Overflow::DropNewest));
/// for n in 0..3_u8 {
///     bus.publish(n);
/// }
/// let stats = &bus.stats()[0].subscribers[0];
/// assert_eq!((stats.name, stats.backlog, stats.missed), ("audit", 2, 1));
/// ```
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct SubscriptionOptions {
    pub(super) name: &'static str,
    pub(super) backlog_max: usize,
    pub(super) overflow: Overflow,
    pub(super) last: bool,
}

impl SubscriptionOptions {
    /// No name, a backlog of 64 in which a new event drops the oldest, nothing replayed.
    pub fn new() -> Self {
        let overflow = Overflow::default();
        SubscriptionOptions { name: "", backlog_max: BACKLOG_MAX, overflow, last: false }
    }

    /// What it is called in stats and reports.
    pub fn named(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    /// How many events it may fall behind; 0 counts as 1.
    pub fn backlog_max(mut self, n: usize) -> Self {
        self.backlog_max = n.max(1);
        self
    }

    /// What a full backlog does with a new event.
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// Begin with the last event that was published before.
    pub fn replay_last(mut self) -> Self {
        self.last = true;
        self
    }
}

impl Default for SubscriptionOptions {
    fn default() -> Self {
        SubscriptionOptions::new()
    }
}

/// One subscriber's events, in the order they were published; dropping it unsubscribes. It ends
/// when the bus is closed or dropped, after what it holds. Also a [`Stream`].
///
/// ```
/// use taskloom_flow::{EventBus, EventsMissed, SubscriptionOptions};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let bus = EventBus::new();
/// let mut numbers = bus.subscribe_with::<u8>(SubscriptionOptions::new().backlog_max(2));
/// for n in 1..=3_u8 {
///     bus.publish(n);
/// }
/// drop(bus);
/// assert_eq!(numbers.recv().await, Some(Err(EventsMissed(1))));
/// assert_eq!(*numbers.recv().await.unwrap().unwrap(), 2);
/// assert_eq!(*numbers.recv().await.unwrap().unwrap(), 3);
/// assert_eq!(numbers.recv().await, None);
/// # }
/// ```
#[must_use = "dropping a subscription ends it"]
pub struct Subscription<E: Send + Sync + 'static> {
    topic: Arc<Topic<E>>,
    inbox: Arc<Inbox<E>>,
}

impl<E: Send + Sync + 'static> Subscription<E> {
    pub(super) fn new(topic: Arc<Topic<E>>, inbox: Arc<Inbox<E>>) -> Self {
        Subscription { topic, inbox }
    }

    pub(super) fn inbox(&self) -> &Arc<Inbox<E>> {
        &self.inbox
    }

    /// Waits for the next event; `None` when the bus is closed and nothing is left.
    ///
    /// # Errors
    /// [`EventsMissed`] in the place of events that were dropped. The next call goes on after it.
    ///
    /// # Cancel safety
    /// Safe: an event is taken only as it is returned.
    pub async fn recv(&mut self) -> Option<Result<Arc<E>, EventsMissed>> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Arc<E>, EventsMissed>>> {
        // A subscriber that never runs out of events lets others of its thread run too.
        let budget = ready!(tokio::task::coop::poll_proceed(cx));
        let taken = ready!(self.inbox.poll_take(cx.waker()));
        budget.made_progress();
        Poll::Ready(match taken {
            Taken::Event(event, was_full) => {
                if was_full && self.inbox.options().overflow == Overflow::Wait {
                    self.topic.tell_of_room();
                }
                Some(Ok(event))
            }
            Taken::Missed(missed) => Some(Err(missed)),
            Taken::Closed => None,
        })
    }
}

impl<E: Send + Sync + 'static> Stream for Subscription<E> {
    type Item = Result<Arc<E>, EventsMissed>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_recv(cx)
    }
}

impl<E: Send + Sync + 'static> Drop for Subscription<E> {
    fn drop(&mut self) {
        self.topic.unsubscribe(&self.inbox);
    }
}

impl<E: Send + Sync + 'static> fmt::Debug for Subscription<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("options", &self.inbox.options()).finish()
    }
}
