//! Attempts in child processes. The children are this test binary again, sent to a test that is
//! theirs: `child`, or one of those that play a wrong child.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

#[path = "process/bodies.rs"]
mod bodies;
#[path = "process/crashing.rs"]
mod crashing;
#[path = "process/ending.rs"]
mod ending;
#[path = "process/killing.rs"]
mod killing;
#[path = "process/support.rs"]
mod support;
#[path = "process/wrong_children.rs"]
mod wrong_children;

/// Where children of this binary go. In a run of the tests it does nothing.
#[test]
fn child() {
    taskloom::run_child_if_asked();
}
