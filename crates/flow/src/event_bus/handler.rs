//! Handlers: routines of the bus that call a function with each event, and tell of its failures.

use std::any::TypeId;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use super::subscription::Subscription;
use super::topic::Inbox;
use super::{BusPublisher, name_of};
use crate::{BoxError, catch_panic};

/// A handler did not do with an event what it was there for. Published by the bus itself, as any
/// event; troubles of handlers of these reports are only counted and warned of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerReport {
    /// The handler's name.
    pub handler: &'static str,
    /// The name of the events' type.
    pub event: &'static str,
    /// What it met.
    pub trouble: HandlerTrouble,
}

/// What a handler met.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandlerTrouble {
    /// A call ended with this error.
    #[error("errored: {0}")]
    Errored(String),
    /// A call panicked with this message.
    #[error("panicked: {0}")]
    Panicked(String),
    /// So many events were dropped, since its backlog was full.
    #[error("missed {0} events")]
    Missed(u64),
}

impl fmt::Display for HandlerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "handler `{}` {}", self.handler, self.trouble)
    }
}

/// Takes a handler off its bus. Dropping it leaves the handler where it is.
///
/// ```
/// use std::sync::Arc;
/// use taskloom_flow::EventBus;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let bus = EventBus::new();
/// let handler = bus.on("print", |n: Arc<u8>| async move {
///     println!("{n}");
///     Ok(())
/// });
/// assert_eq!(bus.publish(7_u8).delivered, 1);
/// handler.off();
/// assert_eq!(bus.publish(8_u8).delivered, 0);
/// # }
/// ```
pub struct BusHandler {
    inbox: Arc<dyn Ends>,
}

impl BusHandler {
    pub(super) fn new<E: Send + Sync + 'static>(subscription: &Subscription<E>) -> Self {
        let inbox: Arc<Inbox<E>> = Arc::clone(subscription.inbox());
        BusHandler { inbox }
    }

    /// Takes the handler off: the call that is under way ends, what waits in the backlog is
    /// dropped, and no event reaches it any more.
    pub fn off(self) {
        self.inbox.end();
    }
}

impl fmt::Debug for BusHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusHandler").finish_non_exhaustive()
    }
}

/// An inbox of any type, which can be ended.
trait Ends: Send + Sync {
    fn end(&self);
}

impl<E: Send + Sync> Ends for Inbox<E> {
    fn end(&self) {
        self.close_and_clear();
    }
}

/// A handler's routine: one event at a time, until the subscription ends.
///
/// # Cancel safety
/// Dropping it drops the call that is under way, and what waits.
pub(super) async fn handle_all<E, F, R>(
    name: &'static str,
    mut events: Subscription<E>,
    handler: F,
    reports: BusPublisher,
) where
    E: Send + Sync + 'static,
    F: Fn(Arc<E>) -> R + Send + 'static,
    R: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    while let Some(event) = events.recv().await {
        let trouble = match event {
            Err(missed) => HandlerTrouble::Missed(missed.0),
            Ok(event) => {
                // A panic may come before the future does: in the call that makes it.
                let made = crate::catch_panic_blocking(|| handler(event));
                let ended = match made {
                    Ok(call) => catch_panic(call).await,
                    Err(panicked) => Err(panicked),
                };
                events.inbox().note_handled(!matches!(ended, Ok(Ok(()))));
                match ended {
                    Ok(Ok(())) => continue,
                    Ok(Err(error)) => HandlerTrouble::Errored(error.to_string()),
                    Err(panicked) => HandlerTrouble::Panicked(panicked.message),
                }
            }
        };
        let report = HandlerReport { handler: name, event: name_of::<E>(), trouble };
        tracing::warn!(event = report.event, "{report}");
        // A handler of reports that fails would otherwise report that for ever.
        if TypeId::of::<E>() != TypeId::of::<HandlerReport>() {
            reports.publish(report);
        }
    }
}
