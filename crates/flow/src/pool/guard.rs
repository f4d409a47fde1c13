//! A resource in use, which goes back to its pool when it is dropped.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::PoolManager;
use super::owner::Owner;
use super::shared::Shared;
use super::state::Opened;

const TAKEN: &str = "only a call that ends the guard takes the resource out";

/// A resource in use. Dropping it, also in a cancelled future or a panic, gives the resource to the
/// one who waits longest, or back to the pool.
///
/// A call on the resource that was cancelled halfway may leave it in the middle of something, which
/// the pool can't see: take [`discard`](PoolGuard::discard) there, or a resource that heals itself.
#[must_use = "a guard that is dropped gives its resource back at once"]
pub struct PoolGuard<M: PoolManager> {
    /// Empty in the guard's last moments.
    opened: Option<Opened<M::Resource>>,
    shared: Arc<Shared<M>>,
    /// Dropping it now must close the resource: it is in the middle of a check.
    broken: bool,
}

impl<M: PoolManager> PoolGuard<M> {
    pub(super) fn new(opened: Opened<M::Resource>, shared: Arc<Shared<M>>) -> Self {
        PoolGuard { opened: Some(opened), shared, broken: false }
    }

    /// Throws the resource away: it is closed in the background, and makes room for another. For
    /// one that is broken, or that a cancelled call has left in the middle of something.
    pub fn discard(mut self) {
        self.broken = true;
    }

    /// Takes the resource out for good. The pool forgets it and may open another in its place.
    #[must_use]
    pub fn take(mut self) -> M::Resource {
        let opened = self.opened.take().expect(TAKEN);
        self.shared.detach(opened.serial);
        opened.resource
    }

    /// Says that the guard moves to another task, so that the look for deadlocks (in debug builds)
    /// does not count it to this one. The first use there makes that task its owner.
    ///
    /// ```
    /// # use taskloom_flow::{PoolGuard, PoolManager, TaskGroup};
    /// # fn move_on<M: PoolManager>(group: &TaskGroup, guard: PoolGuard<M>) {
    /// let guard = guard.hand_over();
    /// group.spawn("sender", async move { drop(guard) });
    /// # }
    /// ```
    pub fn hand_over(self) -> Self {
        if cfg!(debug_assertions) {
            self.shared.note_owner(self.opened().serial, None);
        }
        self
    }

    /// Whether it should be checked before it is used.
    pub(super) fn is_suspect(&self) -> bool {
        self.opened().suspect
    }

    /// Checks the resource; `None` when it was unfit, and was discarded. A check that is cut short
    /// leaves it in the middle of something, so then it is discarded too.
    pub(super) async fn check(mut self) -> Option<Self> {
        self.broken = true;
        let opened = self.opened.as_mut().expect(TAKEN);
        let checked = self.shared.manager.check(&mut opened.resource).await;
        opened.suspect = false;
        if checked.is_err() {
            self.shared.state.lock().totals.failed_checks += 1;
            return None;
        }
        self.broken = false;
        Some(self)
    }

    pub(super) fn into_opened(mut self) -> Opened<M::Resource> {
        self.opened.take().expect(TAKEN)
    }

    fn opened(&self) -> &Opened<M::Resource> {
        self.opened.as_ref().expect(TAKEN)
    }

    fn note_use(&self) {
        if cfg!(debug_assertions) {
            self.shared.note_owner(self.opened().serial, Some(Owner::current()));
        }
    }
}

impl<M: PoolManager> Deref for PoolGuard<M> {
    type Target = M::Resource;

    fn deref(&self) -> &M::Resource {
        self.note_use();
        &self.opened().resource
    }
}

impl<M: PoolManager> DerefMut for PoolGuard<M> {
    fn deref_mut(&mut self) -> &mut M::Resource {
        self.note_use();
        &mut self.opened.as_mut().expect(TAKEN).resource
    }
}

impl<M: PoolManager<Resource: std::fmt::Debug>> std::fmt::Debug for PoolGuard<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PoolGuard").field(&self.opened().resource).finish()
    }
}

impl<M: PoolManager> Drop for PoolGuard<M> {
    fn drop(&mut self) {
        let Some(mut opened) = self.opened.take() else { return };
        if self.broken {
            return self.shared.discard(opened);
        }
        // Whoever panicked may have left it in the middle of something.
        opened.suspect |= std::thread::panicking();
        self.shared.give(opened);
    }
}
