//! One type of events: its subscribers' backlogs, its last event, and its counts.
//!
//! Two kinds of locks, always taken in this order: that of the topic, held while an event is put
//! into all backlogs, so that all meet the events in one order; and that of each backlog, which
//! its subscriber takes alone.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Poll, Waker};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

use super::name_of;
use super::subscription::{EventsMissed, Overflow, Subscription, SubscriptionOptions};

/// Where an event went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Published {
    /// Subscribers that have it in their backlog.
    pub delivered: usize,
    /// Subscribers whose backlog was full, so that this event or an older one was dropped.
    pub dropped: usize,
}

/// What a bus has done for one type of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicStats {
    /// The name of the type.
    pub event: &'static str,
    /// Events published.
    pub published: u64,
    /// Those who are subscribed now, in the order they came.
    pub subscribers: Vec<SubscriberStats>,
}

/// What a bus has done for one subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriberStats {
    /// The name it gave itself; empty unless it did.
    pub name: &'static str,
    /// Events it has not taken yet.
    pub backlog: usize,
    /// How many those may be.
    pub backlog_max: usize,
    /// Events put into its backlog.
    pub delivered: u64,
    /// Events dropped since its backlog was full.
    pub missed: u64,
    /// Of a handler: calls that ended, well or not.
    pub handled: u64,
    /// Of a handler: calls that ended with an error or a panic.
    pub failed: u64,
}

/// What a bus asks of its topics, whatever their type.
pub(super) trait AnyTopic: Any + Send + Sync {
    fn close(&self);
    fn stats(&self) -> TopicStats;
}

pub(super) struct Topic<E> {
    state: Mutex<State<E>>,
    /// One permit, handed on in the order of asking: its holder is the one who waits for room.
    turn: Semaphore,
    /// Tells the holder of `turn` that a backlog may have room now.
    room: Notify,
}

struct State<E> {
    inboxes: Vec<Arc<Inbox<E>>>,
    last: Option<Arc<E>>,
    n_published: u64,
    closed: bool,
}

/// What is left to do once no lock is held: both run code of others.
#[must_use = "`finish` wakes the subscribers"]
pub(super) struct Aftermath<E> {
    wakers: Vec<Waker>,
    /// The event that was the last one before.
    last: Option<Arc<E>>,
    dropped: Vec<Arc<E>>,
}

impl<E: Send + Sync + 'static> Topic<E> {
    pub(super) fn new(closed: bool) -> Self {
        let state = State { inboxes: Vec::new(), last: None, n_published: 0, closed };
        Topic { state: Mutex::new(state), turn: Semaphore::new(1), room: Notify::new() }
    }

    pub(super) fn subscribe(self: Arc<Self>, options: SubscriptionOptions) -> Subscription<E> {
        let mut state = self.state.lock();
        let last = state.last.clone().filter(|_| options.last);
        let inbox = Arc::new(Inbox::new(options, last, state.closed));
        if !state.closed {
            state.inboxes.push(Arc::clone(&inbox));
        }
        drop(state);
        Subscription::new(self, inbox)
    }

    pub(super) fn unsubscribe(&self, inbox: &Arc<Inbox<E>>) {
        self.state.lock().inboxes.retain(|it| !Arc::ptr_eq(it, inbox));
        inbox.close_and_clear();
        self.room.notify_one();
    }

    pub(super) fn offer(&self, event: &Arc<E>) -> (Published, Aftermath<E>) {
        let mut after = Aftermath::new();
        let published = self.state.lock().publish(event, &mut after);
        (published, after)
    }

    /// # Cancel safety
    /// Safe: an event whose publisher stops waiting reaches nobody.
    pub(super) async fn publish_wait(&self, event: E) -> Published {
        let event = Arc::new(event);
        let _turn = self.turn.acquire().await.expect("the semaphore is never closed");
        loop {
            // A backlog that gets room from here on leaves a permit in `room`.
            let mut after = Aftermath::new();
            let published = self.state.lock().publish_if_room(&event, &mut after);
            after.finish();
            match published {
                Some(published) => return published,
                None => self.room.notified().await,
            }
        }
    }

    /// Says that a backlog of [`Overflow::Wait`] which was full has room.
    pub(super) fn tell_of_room(&self) {
        self.room.notify_one();
    }
}

impl<E: Send + Sync + 'static> AnyTopic for Topic<E> {
    fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let (inboxes, last) = (std::mem::take(&mut state.inboxes), state.last.take());
        drop(state);
        for inbox in inboxes {
            inbox.close();
        }
        drop(last);
        self.room.notify_one();
    }

    fn stats(&self) -> TopicStats {
        let state = self.state.lock();
        let subscribers = state.inboxes.iter().map(|it| it.stats()).collect();
        TopicStats { event: name_of::<E>(), published: state.n_published, subscribers }
    }
}

impl<E> State<E> {
    fn publish(&mut self, event: &Arc<E>, after: &mut Aftermath<E>) -> Published {
        let mut published = Published::default();
        if self.closed {
            return published;
        }
        self.n_published += 1;
        after.last = self.last.replace(Arc::clone(event));
        for inbox in &self.inboxes {
            inbox.push(event, &mut published, after);
        }
        published
    }

    /// Publishes unless a subscriber that publishers wait for has no room: only the holder of
    /// this lock adds to backlogs, so room that is seen here stays.
    fn publish_if_room(&mut self, event: &Arc<E>, after: &mut Aftermath<E>) -> Option<Published> {
        if self.inboxes.iter().any(|it| it.makes_wait()) {
            return None;
        }
        Some(self.publish(event, after))
    }
}

impl<E> Aftermath<E> {
    fn new() -> Self {
        Aftermath { wakers: Vec::new(), last: None, dropped: Vec::new() }
    }

    pub(super) fn finish(self) {
        for waker in self.wakers {
            waker.wake();
        }
    }
}

/// One subscriber's backlog.
pub(super) struct Inbox<E> {
    options: SubscriptionOptions,
    backlog: Mutex<Backlog<E>>,
}

struct Backlog<E> {
    /// At most `backlog_max`; each with how many events are missing just before it.
    events: VecDeque<(u64, Arc<E>)>,
    /// How many events are missing after the last one in `events`.
    n_missing: u64,
    waker: Option<Waker>,
    closed: bool,
    n_delivered: u64,
    n_missed: u64,
    n_handled: u64,
    n_failed: u64,
}

/// What a subscriber took.
pub(super) enum Taken<E> {
    Event(Arc<E>, /** Whether the backlog was full before. */ bool),
    Missed(EventsMissed),
    Closed,
}

impl<E> Inbox<E> {
    fn new(options: SubscriptionOptions, last: Option<Arc<E>>, closed: bool) -> Self {
        let n_delivered = u64::from(last.is_some());
        let backlog = Backlog {
            events: last.into_iter().map(|it| (0, it)).collect(),
            n_missing: 0,
            waker: None,
            closed,
            n_delivered,
            n_missed: 0,
            n_handled: 0,
            n_failed: 0,
        };
        Inbox { options, backlog: Mutex::new(backlog) }
    }

    fn push(&self, event: &Arc<E>, published: &mut Published, after: &mut Aftermath<E>) {
        let mut backlog = self.backlog.lock();
        if backlog.closed {
            return; // A handler that was told to end, and has not yet.
        }
        if self.options.backlog_max <= backlog.events.len() {
            published.dropped += 1;
            backlog.n_missed += 1;
            match self.options.overflow {
                Overflow::DropOldest => after.dropped.extend(backlog.drop_oldest()),
                Overflow::DropNewest | Overflow::Wait => {
                    backlog.n_missing += 1;
                    return;
                }
            }
        }
        let n_missing = std::mem::take(&mut backlog.n_missing);
        backlog.events.push_back((n_missing, Arc::clone(event)));
        backlog.n_delivered += 1;
        published.delivered += 1;
        after.wakers.extend(backlog.waker.take());
    }

    /// Whether publishers that wait have to wait for this one.
    fn makes_wait(&self) -> bool {
        self.options.overflow == Overflow::Wait && {
            let backlog = self.backlog.lock();
            !backlog.closed && self.options.backlog_max <= backlog.events.len()
        }
    }

    /// Takes what comes next, or remembers whom to wake for it.
    pub(super) fn poll_take(&self, waker: &Waker) -> Poll<Taken<E>> {
        let mut backlog = self.backlog.lock();
        let n_before = backlog.events.len();
        let n_missing = match backlog.events.front_mut() {
            Some((n_missing, _)) => n_missing,
            None => &mut backlog.n_missing,
        };
        let n_missed = std::mem::take(n_missing);
        if n_missed != 0 {
            return Poll::Ready(Taken::Missed(EventsMissed(n_missed)));
        }
        if let Some((_, event)) = backlog.events.pop_front() {
            return Poll::Ready(Taken::Event(event, n_before == self.options.backlog_max));
        }
        if backlog.closed {
            return Poll::Ready(Taken::Closed);
        }
        if !backlog.waker.as_ref().is_some_and(|it| it.will_wake(waker)) {
            let before = backlog.waker.replace(waker.clone());
            drop(backlog);
            drop(before);
        }
        Poll::Pending
    }

    pub(super) fn options(&self) -> SubscriptionOptions {
        self.options
    }

    pub(super) fn note_handled(&self, failed: bool) {
        let mut backlog = self.backlog.lock();
        backlog.n_handled += 1;
        backlog.n_failed += u64::from(failed);
    }

    /// Ends it after what it holds.
    fn close(&self) {
        let mut backlog = self.backlog.lock();
        backlog.closed = true;
        let waker = backlog.waker.take();
        drop(backlog);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ends it now.
    pub(super) fn close_and_clear(&self) {
        let mut backlog = self.backlog.lock();
        backlog.closed = true;
        backlog.n_missing = 0;
        let events = std::mem::take(&mut backlog.events);
        drop(backlog);
        drop(events);
        self.close();
    }

    fn stats(&self) -> SubscriberStats {
        let backlog = self.backlog.lock();
        SubscriberStats {
            name: self.options.name,
            backlog: backlog.events.len(),
            backlog_max: self.options.backlog_max,
            delivered: backlog.n_delivered,
            missed: backlog.n_missed,
            handled: backlog.n_handled,
            failed: backlog.n_failed,
        }
    }
}

impl<E> Backlog<E> {
    /// Its place is told before the event that is then the oldest.
    fn drop_oldest(&mut self) -> Option<Arc<E>> {
        let (n_missing, oldest) = self.events.pop_front()?;
        let next = self.events.front_mut().map_or(&mut self.n_missing, |it| &mut it.0);
        *next += n_missing + 1;
        Some(oldest)
    }
}
