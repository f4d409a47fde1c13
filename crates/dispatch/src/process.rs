//! Attempts in a child process: for bodies that may leak, crash, or must be killable.
//!
//! The node starts its own program again; the child does what `main` does until it comes to
//! `TaskSystem::start`, and there runs one attempt and ends. The two speak over a socket that is
//! the child's standard input (`wire`). `launch` starts a child and sees it end, `supervise` is the
//! node's side of one attempt, `child` the other side, `death` says what became of a child that
//! gave no result, `output` keeps the last of what it printed.
//!
//! # Invariants
//! - A child is the leader of its own process group, and no end of it, nor of the node, leaves a
//!   process of that group behind.
//! - A child runs one attempt of one job.

#[cfg(not(unix))]
compile_error!("taskloom runs attempts in child processes, for which it needs a unix system");

mod child;
mod death;
mod launch;
mod output;
mod supervise;
mod wire;

pub use child::{CHILD_VARIABLE, ChildWish};
pub(crate) use launch::Launcher;
pub(crate) use supervise::{Order, supervise};

/// The most memory that a process has held at a time, in bytes, from its birth until now; `None`
/// where the system doesn't say, or the process is gone.
fn peak_memory(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|it| it.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
