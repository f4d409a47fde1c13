//! A gate: while it is shut, whoever comes to it waits. A paused node stands behind one.
//!
//! A node touches the world in two places only, its calls to the store and the bodies of its
//! attempts; both pass its gate, so a node whose gate is shut makes no progress.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// No `watch`: it wakes those who wait in an order that no seed decides.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    is_shut: AtomicBool,
    opened: Notify,
}

impl Gate {
    pub(crate) fn shut(&self) {
        self.is_shut.store(true, Ordering::SeqCst);
    }

    pub(crate) fn open(&self) {
        self.is_shut.store(false, Ordering::SeqCst);
        self.opened.notify_waiters();
    }

    pub(crate) async fn pass(&self) {
        loop {
            let opened = self.opened.notified();
            if !self.is_shut.load(Ordering::SeqCst) {
                return;
            }
            opened.await;
        }
    }
}
