//! A task group with a bounded number of routines.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::Id;

use super::{BoxError, GroupError, Name, Routine, RoutineOutput, Spawner, TaskGroup};
use crate::Reason;

/// A [`TaskGroup`] of which at most so many routines run at a time: [`spawn`] waits for a slot,
/// so whoever feeds it is slowed down to the pace of the routines, and nothing piles up.
///
/// [`spawn`]: BoundedTaskGroup::spawn
///
/// ```
/// use taskloom_flow::BoundedTaskGroup;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let began = tokio::time::Instant::now();
/// let group = BoundedTaskGroup::new(3);
/// for _ in 0..9 {
///     group.spawn("nap", tokio::time::sleep(std::time::Duration::from_secs(1))).await;
/// }
/// group.join().await.unwrap();
/// assert_eq!(began.elapsed().as_secs(), 3);
/// # }
/// ```
#[derive(Debug)]
pub struct BoundedTaskGroup {
    group: TaskGroup,
    slots: Slots,
}

/// Spawns into a [`BoundedTaskGroup`] that somebody else owns.
#[derive(Debug, Clone)]
pub struct BoundedSpawner {
    spawner: Spawner,
    slots: Slots,
}

impl BoundedTaskGroup {
    /// A group of at most `n_slots` routines at a time, at least one. The first failure cancels
    /// the siblings.
    #[must_use]
    pub fn new(n_slots: usize) -> Self {
        BoundedTaskGroup::of(TaskGroup::new(), n_slots)
    }

    /// The same over a group of any kind.
    #[must_use]
    pub fn of(group: TaskGroup, n_slots: usize) -> Self {
        BoundedTaskGroup { group, slots: Slots::new(n_slots) }
    }

    /// Waits for a slot and starts a routine in it, as [`TaskGroup::spawn`]. Slots are given in
    /// the order of asking. When the group is cancelled, the wait ends and `future` is dropped
    /// without running.
    ///
    /// # Panics
    /// Outside a Tokio runtime. In debug builds also when it would wait for ever: every slot is
    /// held by a routine that itself waits for a slot of this group, if only for a limited time.
    ///
    /// # Cancel safety
    /// Safe: a spawn that stops waiting has started nothing and holds no slot.
    pub async fn spawn<F>(
        &self,
        name: impl Into<Name>,
        future: F,
    ) -> Routine<<F::Output as RoutineOutput>::Value>
    where
        F: Future<Output: RoutineOutput<Value: Send, Error: Into<BoxError>>> + Send + 'static,
    {
        self.slots.spawn(&self.group.spawner(), name.into(), future).await
    }

    /// What spawns into this group from elsewhere, such as from its own routines: these then hold
    /// a slot while they wait for another, so children that go deep belong in a group of their own.
    #[must_use]
    pub fn spawner(&self) -> BoundedSpawner {
        BoundedSpawner { spawner: self.group.spawner(), slots: self.slots.clone() }
    }

    /// How many slots are free.
    #[must_use]
    pub fn n_free(&self) -> usize {
        self.slots.free.available_permits()
    }

    /// As [`TaskGroup::cancel`].
    pub fn cancel(&self, reason: impl Into<Reason>) {
        self.group.cancel(reason);
    }

    /// As [`TaskGroup::join`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// Dropping this future aborts every routine still running.
    pub async fn join(self) -> Result<(), GroupError> {
        self.group.join().await
    }

    /// The group beneath: to drain it, or to hear of single ends.
    pub fn group(&mut self) -> &mut TaskGroup {
        &mut self.group
    }
}

impl BoundedSpawner {
    /// As [`BoundedTaskGroup::spawn`].
    ///
    /// # Panics
    /// As there.
    ///
    /// # Cancel safety
    /// Safe: a spawn that stops waiting has started nothing and holds no slot.
    pub async fn spawn<F>(
        &self,
        name: impl Into<Name>,
        future: F,
    ) -> Routine<<F::Output as RoutineOutput>::Value>
    where
        F: Future<Output: RoutineOutput<Value: Send, Error: Into<BoxError>>> + Send + 'static,
    {
        self.slots.spawn(&self.spawner, name.into(), future).await
    }
}

#[derive(Debug, Clone)]
struct Slots {
    free: Arc<Semaphore>,
    n: usize,
    /// In debug builds, who holds a slot and who of them waits for another.
    watch: Arc<Mutex<Watch>>,
}

#[derive(Debug, Default)]
struct Watch {
    holders: HashSet<Id>,
    /// Of the holders, those that wait, and how often: one may ask for several at once.
    waiting: HashMap<Id, usize>,
}

impl Slots {
    fn new(n: usize) -> Self {
        let n = n.clamp(1, Semaphore::MAX_PERMITS);
        Slots { free: Arc::new(Semaphore::new(n)), n, watch: Arc::default() }
    }

    async fn spawn<F>(
        &self,
        spawner: &Spawner,
        name: Name,
        future: F,
    ) -> Routine<<F::Output as RoutineOutput>::Value>
    where
        F: Future<Output: RoutineOutput<Value: Send, Error: Into<BoxError>>> + Send + 'static,
    {
        let Some(slot) = self.slot(spawner).await else { return Routine::refused() };
        spawner.spawn(name, async move {
            let _slot = slot.held();
            future.await
        })
    }

    /// A slot, or nothing when the group is cancelled.
    async fn slot(&self, spawner: &Spawner) -> Option<Slot> {
        let permit = match Arc::clone(&self.free).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let _waiting = self.begin_waiting();
                let acquired = Arc::clone(&self.free).acquire_owned();
                spawner.cancellation().run(acquired).await.ok()?.ok()?
            }
        };
        Some(Slot { _permit: permit, watch: Arc::clone(&self.watch) })
    }

    /// Counts the caller among the holders that wait, if it holds a slot.
    fn begin_waiting(&self) -> Option<Waiting<'_>> {
        if !cfg!(debug_assertions) {
            return None;
        }
        let me = tokio::task::try_id()?;
        let mut watch = self.watch.lock();
        if !watch.holders.contains(&me) {
            return None;
        }
        let n_waiting = watch.waiting.len() + usize::from(!watch.waiting.contains_key(&me));
        assert!(
            n_waiting < self.n,
            "deadlock: each of the {} slots of this group is held by a routine that waits for \
             another slot of it; give children a group of their own, or take more slots",
            self.n
        );
        *watch.waiting.entry(me).or_default() += 1;
        Some(Waiting { watch: &self.watch, holder: me })
    }
}

struct Waiting<'a> {
    watch: &'a Mutex<Watch>,
    holder: Id,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Entry::Occupied(mut n_waits) = self.watch.lock().waiting.entry(self.holder) {
            *n_waits.get_mut() -= 1;
            if *n_waits.get() == 0 {
                n_waits.remove();
            }
        }
    }
}

struct Slot {
    _permit: OwnedSemaphorePermit,
    watch: Arc<Mutex<Watch>>,
}

impl Slot {
    /// Called by the routine that runs in the slot.
    fn held(self) -> HeldSlot {
        let holder = tokio::task::try_id().filter(|_| cfg!(debug_assertions));
        if let Some(holder) = holder {
            self.watch.lock().holders.insert(holder);
        }
        HeldSlot { slot: self, holder }
    }
}

struct HeldSlot {
    slot: Slot,
    holder: Option<Id>,
}

impl Drop for HeldSlot {
    fn drop(&mut self) {
        if let Some(holder) = &self.holder {
            self.slot.watch.lock().holders.remove(holder);
        }
    }
}
