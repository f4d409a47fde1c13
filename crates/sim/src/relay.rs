//! Passes the notices of the store on, to one program after the other.
//!
//! A `watch` with several readers wakes them in an order that no seed decides; here each program
//! has its own, and whoever is told first follows from the history.

use parking_lot::Mutex;
use taskloom_store::{Notices, Store};
use tokio::sync::watch;

#[derive(Debug)]
pub(crate) struct Relay {
    from: Notices,
    to: Mutex<Vec<Ear>>,
}

/// What one program hears by.
#[derive(Debug)]
struct Ear {
    ready: watch::Sender<u64>,
    due: watch::Sender<u64>,
    changed: watch::Sender<u64>,
}

impl Relay {
    pub(crate) fn new(store: &dyn Store) -> Self {
        Relay { from: store.notices(), to: Mutex::default() }
    }

    pub(crate) fn notices(&self) -> Notices {
        let channel = |from: &watch::Receiver<u64>| watch::channel(*from.borrow());
        let (ready, ready_out) = channel(&self.from.ready);
        let (due, due_out) = channel(&self.from.due);
        let (changed, changed_out) = channel(&self.from.changed);
        self.to.lock().push(Ear { ready, due, changed });
        Notices { ready: ready_out, due: due_out, changed: changed_out }
    }

    /// Tells everybody what the store has told since the last call.
    pub(crate) fn pass_on(&self) {
        let mut ears = self.to.lock();
        ears.retain(|it| !(it.ready.is_closed() && it.due.is_closed() && it.changed.is_closed()));
        for ear in ears.iter() {
            tell(&self.from.ready, &ear.ready);
            tell(&self.from.due, &ear.due);
            tell(&self.from.changed, &ear.changed);
        }
    }
}

fn tell(from: &watch::Receiver<u64>, to: &watch::Sender<u64>) {
    let version = *from.borrow();
    to.send_if_modified(|told| std::mem::replace(told, version) != version);
}
