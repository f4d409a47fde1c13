//! Who holds a resource and who waits for one, to tell a deadlock from a heavy load.

use std::thread::ThreadId;

/// Whoever runs a call: a task, or code outside of tasks, which `block_on` keeps on its thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Task(tokio::task::Id),
    Thread(ThreadId),
}

impl Owner {
    pub(super) fn current() -> Self {
        tokio::task::try_id()
            .map_or_else(|| Owner::Thread(std::thread::current().id()), Owner::Task)
    }
}
