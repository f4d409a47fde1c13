//! How the parts of a node fare.

use std::sync::Arc;

use taskloom_store::{Clock, Part, PartHealth, StoreError};

/// The parts of a node that work by themselves. Each writes what became of its work.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) heartbeat: Watched,
    pub(crate) dispatcher: Watched,
    pub(crate) promote: Watched,
    pub(crate) rescue: Watched,
    pub(crate) prune: Watched,
}

/// A part, with the clock it tells the time by.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    part: Part,
    clock: Arc<dyn Clock>,
}

impl Watched {
    pub(crate) fn new(name: &'static str, clock: &Arc<dyn Clock>) -> Watched {
        Watched { part: Part::new(name), clock: Arc::clone(clock) }
    }

    pub(crate) fn begins(&self) {
        self.part.begins();
    }

    pub(crate) fn went<T>(&self, went: &Result<T, StoreError>) {
        self.part.went(self.clock.now(), went);
    }
}

impl Parts {
    pub(crate) fn new(clock: &Arc<dyn Clock>) -> Parts {
        let part = |name| Watched::new(name, clock);
        Parts {
            heartbeat: part("heartbeat"),
            dispatcher: part("dispatcher"),
            promote: part("promote"),
            rescue: part("rescue"),
            prune: part("prune"),
        }
    }

    pub(crate) fn health(&self) -> Vec<PartHealth> {
        let Parts { heartbeat, dispatcher, promote, rescue, prune } = self;
        [heartbeat, dispatcher, promote, rescue, prune].map(|it| it.part.health()).to_vec()
    }
}
