//! CPU-bound work on a bounded number of threads, with a bounded backlog in front of them.
//!
//! # Invariants
//! - At most `n_threads` closures run at a time, and at most `n_waiting_max` wait.
//! - A closure that was accepted runs once, or is dropped without running: with the pool, or with
//!   the future that awaits it.

mod run;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, Semaphore};

pub use run::{CancelFlag, OffloadError};

type Work = Box<dyn FnOnce() + Send>;

/// Every thread is busy and the backlog is full; the closure was dropped without running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("every thread is busy and the backlog is full; offer the work again later")]
pub struct Full;

/// A bounded pool of threads for work that would hold up the async runtime.
///
/// Threads start when first needed and stay until the pool is dropped. A panic of a closure ends
/// that closure alone.
///
/// Dropping the pool drops the closures that wait, joins the idle threads, and lets a thread that
/// is busy go its way: a stuck closure holds up nobody.
///
/// ```
/// use taskloom_flow::Offload;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let pool = Offload::new("sums", 2);
/// let (tx, rx) = tokio::sync::oneshot::channel();
/// pool.try_submit(move || {
///     tx.send((1..=10).sum::<u32>()).ok();
/// })
/// .unwrap();
/// assert_eq!(rx.await, Ok(55));
/// # }
/// ```
#[derive(Debug)]
pub struct Offload {
    name: String,
    n_threads_max: usize,
    n_waiting_max: usize,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Tells idle threads of new work, or of the end.
    changed: Condvar,
    /// One permit, handed on in the order of asking: its holder is the one who waits for room.
    turn: Semaphore,
    /// Tells the holder of the turn that a place may be free, or that the pool was closed.
    room: Notify,
}

#[derive(Default)]
struct State {
    backlog: VecDeque<Waiting>,
    /// How many closures were accepted: the ticket of the next one.
    n_accepted: u64,
    threads: Vec<Thread>,
    /// How many threads are inside a closure; the others take what waits, or wait for it.
    n_running: usize,
    /// Nothing new is taken, and threads end when they are idle.
    stop: bool,
}

struct Waiting {
    /// Names it to the future that awaits it, and may drop it.
    ticket: u64,
    work: Work,
}

struct Thread {
    handle: JoinHandle<()>,
    /// Inside a closure. Written by the thread itself, read when the pool is dropped.
    running: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("n_waiting", &self.backlog.len())
            .field("n_threads", &self.threads.len())
            .field("n_running", &self.n_running)
            .finish_non_exhaustive()
    }
}

impl Offload {
    /// A pool of at most `n_threads` threads, named `name-0` and on, in front of which as many
    /// closures may wait. Zero threads count as one.
    #[must_use]
    pub fn new(name: impl Into<String>, n_threads: usize) -> Self {
        Offload::with_backlog(name, n_threads, n_threads)
    }

    /// The same with room for `n_waiting_max` closures that wait.
    #[must_use]
    pub fn with_backlog(name: impl Into<String>, n_threads: usize, n_waiting_max: usize) -> Self {
        let n_threads_max = n_threads.max(1);
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            turn: Semaphore::new(1),
            room: Notify::new(),
        });
        Offload { name: name.into(), n_threads_max, n_waiting_max, shared }
    }

    /// Hands `f` to a thread. Never waits.
    ///
    /// # Errors
    /// [`Full`] when every thread is busy and the backlog is full, when the system gives us no
    /// thread at all, or after [`Offload::close`]. `f` is dropped without running.
    pub fn try_submit(&self, f: impl FnOnce() + Send + 'static) -> Result<(), Full> {
        self.offer(Box::new(f)).map(drop).map_err(|_refused| Full)
    }

    /// Takes nothing new from now on, and drops the closures that wait. What runs goes on.
    pub fn close(&self) {
        let mut state = self.shared.state.lock();
        state.stop = true;
        let waiting = std::mem::take(&mut state.backlog);
        drop(state);
        self.shared.changed.notify_all();
        self.shared.turn.close();
        self.shared.room.notify_one();
        // Outside the lock: a closure may own anything, even a handle to another pool.
        drop(waiting);
    }

    /// Takes `work` and returns its ticket, or gives it back.
    fn offer(&self, work: Work) -> Result<u64, Work> {
        let mut state = self.shared.state.lock();
        let n_free = self.n_threads_max - state.n_running;
        if state.stop || n_free + self.n_waiting_max <= state.backlog.len() {
            return Err(work);
        }
        let ticket = state.n_accepted;
        state.n_accepted += 1;
        state.backlog.push_back(Waiting { ticket, work });
        let n_ready = state.threads.len() - state.n_running;
        if state.backlog.len() <= n_ready {
            self.shared.changed.notify_one();
            return Ok(ticket);
        }
        let started = state.threads.len() < self.n_threads_max && self.start_thread(&mut state);
        // Without any thread the work would wait for ever.
        if !started && state.threads.is_empty() {
            let refused = state.backlog.pop_back().expect("it was pushed under this lock");
            return Err(refused.work);
        }
        Ok(ticket)
    }

    fn start_thread(&self, state: &mut State) -> bool {
        let index = state.threads.len();
        let shared = Arc::clone(&self.shared);
        let thread = Builder::new().name(format!("{}-{index}", self.name));
        let Ok(handle) = thread.spawn(move || work(&shared, index)) else { return false };
        state.threads.push(Thread { handle, running: false });
        true
    }
}

impl Drop for Offload {
    fn drop(&mut self) {
        self.close();
        let threads = std::mem::take(&mut self.shared.state.lock().threads);
        for thread in threads.into_iter().filter(|it| !it.running) {
            thread.handle.join().ok();
        }
    }
}

/// One thread's life: takes closures and runs them until told to stop.
fn work(shared: &Shared, index: usize) {
    let mut state = shared.state.lock();
    loop {
        if state.stop {
            return;
        }
        let Some(waiting) = state.backlog.pop_front() else {
            shared.changed.wait(&mut state);
            continue;
        };
        state.n_running += 1;
        set_running(&mut state, index, true);
        drop(state);
        // The panic hook has told of it; this thread lives on.
        catch_unwind(AssertUnwindSafe(waiting.work)).ok();
        state = shared.state.lock();
        state.n_running -= 1;
        set_running(&mut state, index, false);
        shared.room.notify_one();
    }
}

fn set_running(state: &mut State, index: usize, running: bool) {
    // The pool takes the threads away when it is dropped.
    if let Some(thread) = state.threads.get_mut(index) {
        thread.running = running;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Keeps one thread busy until the sender is dropped.
    fn occupy(pool: &Offload) -> Sender<()> {
        let (release, released) = channel::<()>();
        let (began, begun) = channel();
        pool.try_submit(move || {
            began.send(()).unwrap();
            released.recv().ok();
        })
        .unwrap();
        begun.recv().unwrap();
        release
    }

    fn submit_answer(pool: &Offload, answer: u32) -> Receiver<u32> {
        let (tx, rx) = channel();
        pool.try_submit(move || tx.send(answer).unwrap()).unwrap();
        rx
    }

    fn wait_until_idle(pool: &Offload) {
        let is_idle = |it: &State| it.n_running == 0 && it.backlog.is_empty();
        while !is_idle(&pool.shared.state.lock()) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_full_pool_refuses_and_recovers() {
        let pool = Offload::with_backlog("test", 2, 1);
        let stuck = [occupy(&pool), occupy(&pool)];
        let waiting = submit_answer(&pool, 7);
        assert_eq!(pool.try_submit(|| {}), Err(Full));
        drop(stuck);
        assert_eq!(waiting.recv(), Ok(7));
        assert_eq!(submit_answer(&pool, 8).recv(), Ok(8));
    }

    #[test]
    fn threads_start_only_when_needed() {
        let pool = Offload::new("test", 8);
        let n_threads = || pool.shared.state.lock().threads.len();
        assert_eq!(n_threads(), 0);
        let _busy = occupy(&pool);
        assert_eq!(n_threads(), 1);
    }

    #[test]
    fn a_pool_without_backlog_still_takes_work_for_free_threads() {
        let pool = Offload::with_backlog("test", 2, 0);
        let (release, released) = channel::<()>();
        let released = Arc::new(Mutex::new(released));
        let submit = || {
            let released = Arc::clone(&released);
            pool.try_submit(move || released.lock().recv().unwrap_or_default())
        };
        assert_eq!([submit(), submit(), submit()], [Ok(()), Ok(()), Err(Full)]);
        drop(release);
    }

    #[test]
    fn a_panic_leaves_the_thread_alive() {
        let pool = Offload::new("test", 1);
        for _ in 0..3 {
            pool.try_submit(|| std::panic::resume_unwind(Box::new(()))).unwrap();
            wait_until_idle(&pool);
        }
        assert_eq!(submit_answer(&pool, 1).recv(), Ok(1));
        assert_eq!(pool.shared.state.lock().threads.len(), 1);
    }

    #[test]
    fn dropping_the_pool_drops_what_waits_and_leaves_a_stuck_thread() {
        let pool = Offload::new("test", 1);
        let release = occupy(&pool);
        let waiting = submit_answer(&pool, 7);
        drop(pool);
        assert!(waiting.recv().is_err(), "it was dropped without running");
        drop(release);
    }

    #[test]
    fn dropping_the_pool_joins_idle_threads() {
        let pool = Offload::new("test", 1);
        submit_answer(&pool, 1).recv().unwrap();
        wait_until_idle(&pool);
        let shared = Arc::clone(&pool.shared);
        drop(pool);
        assert_eq!(Arc::strong_count(&shared), 1, "its thread is gone");
    }
}
