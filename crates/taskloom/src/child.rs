//! What a process does that a node has started to run one attempt.

use std::sync::Arc;

use taskloom_dispatch::{CHILD_VARIABLE, ChildWish};

use crate::SystemClock;
use crate::registration::Registration;

/// Threads of the runtime of an async body: a blocked one leaves another to go on.
const N_THREADS: usize = 2;

/// What this process was started for, when it is a child.
pub(crate) fn wish() -> Option<ChildWish> {
    ChildWish::read(std::env::var_os(CHILD_VARIABLE))
}

/// Runs an attempt and ends the process, when this is a child that a node has started for a
/// `#[task]` function; else returns at once.
///
/// Without it, a child runs `main` up to `TaskSystem::start`. Put it first in `main` when what
/// comes before `start` should not happen in children: output, submits, files, ports. A task that
/// is a type has its state from `main`, so for those a child goes on to `start` all the same.
///
/// ```
/// taskloom::run_child_if_asked();
/// println!("once, not in every child");
/// // … `TaskSystem::open(…)` …
/// ```
///
/// # Panics
/// When the system gives the child no runtime; its node then records an errored attempt.
pub fn run_child_if_asked() {
    let Some(wish) = wish() else { return };
    let mut registered = inventory::iter::<Registration>.into_iter().map(|it| (it.0)());
    let Some(entry) = registered.find(|it| *it.name == *wish.task()) else { return };
    // On a thread of its own: `main` may be inside a runtime already.
    let attempt = std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(N_THREADS).enable_all().build();
        let runtime = runtime.expect("the system gives a child its threads");
        runtime.block_on(wish.run(&entry, Arc::new(SystemClock)))
    });
    let Err(panic) = attempt.join();
    std::panic::resume_unwind(panic)
}
