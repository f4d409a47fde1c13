//! How `#[task]` functions are known without being named.

use taskloom_dispatch::Entry;

/// A `#[task]` function of the program, or of a crate that the program uses.
#[doc(hidden)]
#[derive(Debug)]
pub struct Registration(pub fn() -> Entry);

inventory::collect!(Registration);
