//! Histories with faults: one seed is one history of the real dispatcher over the real store.
//!
//! Programs are started, paused, drained and killed; calls to the store err, before the commit or
//! after it; the wall clock jumps. Meanwhile everything that the store and the bodies of the
//! attempts tell is written into a book, which holds the promises of DESIGN.md against it.
//!
//! A history runs on one thread, on a paused clock, and draws every chance from its seed: played
//! again, it is the same, line by line. How to run, replay and extend it:
//! `docs/internals/simulation.md`.

mod book;
mod calm;
mod chance;
mod clock;
mod commits;
mod deed;
mod events;
mod faulty_store;
#[cfg(test)]
mod found;
mod gate;
mod history;
mod jobs;
mod ledger;
mod program;
mod relay;
mod rest;
mod script;
mod summary;
mod trace;
mod weather;
mod world;

pub use history::{Broken, N_STEPS, simulate, simulate_traced};
pub use summary::Summary;
