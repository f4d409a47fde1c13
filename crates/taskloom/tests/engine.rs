//! The engine as an application sees it: whole systems, in memory on a paused clock where time
//! matters, on files where several nodes meet.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

#[path = "engine/blocking.rs"]
mod blocking;
#[path = "engine/cancelling.rs"]
mod cancelling;
#[path = "engine/crashes.rs"]
mod crashes;
#[path = "engine/draining.rs"]
mod draining;
#[path = "engine/ends.rs"]
mod ends;
#[path = "engine/order.rs"]
mod order;
#[path = "engine/retries.rs"]
mod retries;
#[path = "engine/submitting.rs"]
mod submitting;
#[path = "engine/support.rs"]
mod support;
