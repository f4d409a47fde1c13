//! What a backend tells the rest of the process, after the commit.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::sync::watch;

use crate::Notices;

/// What a committed transaction has to tell.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Told {
    /// Jobs became ready.
    pub(crate) ready: bool,
    /// A job waits for a time.
    pub(crate) due: bool,
    /// Jobs moved.
    pub(crate) changed: bool,
}

/// Where it is told.
#[derive(Debug)]
pub(crate) struct Tells {
    ready: watch::Sender<u64>,
    due: watch::Sender<u64>,
    changed: watch::Sender<u64>,
    pub(crate) n_commits: AtomicU64,
}

impl Tells {
    pub(crate) fn new() -> Arc<Tells> {
        Arc::new(Tells {
            ready: watch::Sender::new(0),
            due: watch::Sender::new(0),
            changed: watch::Sender::new(0),
            n_commits: AtomicU64::new(0),
        })
    }

    pub(crate) fn tell(&self, told: Told) {
        if told.ready {
            self.ready.send_modify(|version| *version += 1);
        }
        if told.due {
            self.due.send_modify(|version| *version += 1);
        }
        if told.ready || told.changed {
            self.changed.send_modify(|version| *version += 1);
        }
    }

    pub(crate) fn notices(&self) -> Notices {
        Notices {
            ready: self.ready.subscribe(),
            due: self.due.subscribe(),
            changed: self.changed.subscribe(),
        }
    }
}
