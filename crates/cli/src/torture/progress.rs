//! The line that a person sees while a run goes on; on standard error, and on a terminal only.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use taskloom::Store;

use crate::print;

/// How often the counts are read anew.
const READ_EVERY: Duration = Duration::from_millis(500);

/// The line.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    store: Arc<dyn Store>,
    lasts: Duration,
    read_at: Duration,
}

impl Progress {
    pub(super) fn new(store: Arc<dyn Store>, lasts: Duration, is_quiet: bool) -> Progress {
        let bar = if is_quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        bar.set_style(ProgressStyle::with_template("{spinner} {msg}").expect("it is well-formed"));
        Progress { bar, store, lasts, read_at: Duration::ZERO }
    }

    /// Shows how far the run is.
    pub(super) async fn show(&mut self, elapsed: Duration, n_faults: u64) {
        if self.bar.is_hidden() || elapsed < self.read_at + READ_EVERY {
            return;
        }
        self.read_at = elapsed;
        // A line that is a little old troubles nobody.
        let Ok(counts) = self.store.counts().await else { return };
        let sum = |is_ended: bool| {
            let counted = counts.iter().filter(|it| it.state.is_ended() == is_ended);
            print::grouped(counted.map(|it| it.n).sum())
        };
        let (at, of) = (elapsed.as_secs(), self.lasts.as_secs());
        let (ended, open) = (sum(true), sum(false));
        self.bar.tick();
        self.bar
            .set_message(format!("{at} s of {of}: {n_faults} faults, {ended} ended, {open} open"));
    }

    /// Says what happens after the faults.
    pub(super) fn say(&self, what: &'static str) {
        self.bar.set_message(what);
        self.bar.tick();
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
