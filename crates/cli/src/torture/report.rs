//! What a run tells at its end.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;
use taskloom::Breach;

use super::history::Broken;
use super::plan::Kind;
use crate::print;

/// How many broken promises are told one by one.
const TOLD_MAX: usize = 100;

/// Everything that was counted.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) seed: u64,
    pub(super) store: String,
    pub(super) workers: usize,
    /// Worker processes that were started in all.
    pub(super) processes: usize,
    /// From the first worker to the end of the last job.
    pub(super) seconds: f64,
    /// Ctrl-C came before the end.
    pub(super) is_cut: bool,
    pub(super) accepted: u64,
    pub(super) unacknowledged: u64,
    pub(super) finished: u64,
    pub(super) cancelled: u64,
    pub(super) quarantined: u64,
    pub(super) quarantined_unbegun: u64,
    /// Must be 0.
    pub(super) lost: usize,
    /// Must be 0.
    pub(super) unexplained: usize,
    /// Jobs that began more than once, and why attempts were followed by another.
    pub(super) rerun: u64,
    pub(super) causes: BTreeMap<&'static str, u64>,
    pub(super) refused_outcomes: u64,
    /// Processes that were taken for dead while they lived.
    pub(super) evicted: u64,
    pub(super) store_errors: BTreeMap<String, u64>,
    /// From a kill to the next begin of an attempt that it cut.
    pub(super) crash_to_rerun: Rerun,
    pub(super) jobs_per_s: f64,
    pub(super) faults: BTreeMap<Kind, u64>,
    /// Faults that could not be done here, and why.
    pub(super) left_out: Vec<&'static str>,
    /// What `taskloom verify` finds: must be empty.
    pub(super) breaches: Vec<Breach>,
    /// Every broken promise, the first of them at most.
    pub(super) broken: Vec<Broken>,
    /// Where the files are; `None`: all promises held, and they are gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kept: Option<String>,
}

/// How long jobs waited after a crash, in milliseconds.
#[derive(Debug, Serialize)]
pub(super) struct Rerun {
    pub(super) n: usize,
    pub(super) p50_ms: i64,
    pub(super) longest_ms: i64,
}

impl Rerun {
    pub(super) fn of(mut millis: Vec<i64>) -> Rerun {
        millis.sort_unstable();
        Rerun {
            n: millis.len(),
            p50_ms: millis.get(millis.len().saturating_sub(1) / 2).copied().unwrap_or(0),
            longest_ms: millis.last().copied().unwrap_or(0),
        }
    }
}

impl Report {
    /// Whether every promise held.
    pub(super) fn is_good(&self) -> bool {
        self.broken.is_empty() && self.breaches.is_empty()
    }

    pub(super) fn cut_short(mut self) -> Report {
        self.broken.truncate(TOLD_MAX);
        self
    }

    pub(super) fn print(&self, json: bool) -> Result<()> {
        if json {
            return print::json(self);
        }
        let n = print::grouped;
        let list = |of: &mut dyn Iterator<Item = (String, u64)>| {
            let of: Vec<String> = of.map(|(what, times)| format!("{} {what}", n(times))).collect();
            if of.is_empty() { "none".to_owned() } else { of.join(", ") }
        };
        let faults = self.faults.iter().map(|(kind, times)| {
            let word = serde_json::to_value(kind).unwrap_or_default();
            (word.as_str().unwrap_or_default().replace('_', " "), *times)
        });
        let own = |it: (&&'static str, &u64)| ((*it.0).to_owned(), *it.1);
        let Rerun { n: n_cut, p50_ms, longest_ms } = &self.crash_to_rerun;
        let never = n(self.quarantined_unbegun);
        let mut table = print::table(["counted", "value"]);
        for (name, value) in [
            ("accepted", n(self.accepted)),
            ("finished", n(self.finished)),
            ("cancelled", n(self.cancelled)),
            ("quarantined", format!("{}, of which {never} never began", n(self.quarantined))),
            ("lost", n(self.lost as u64)),
            ("attempts unexplained", n(self.unexplained as u64)),
            ("begun more than once", format!("{} jobs", n(self.rerun))),
            ("  because of", list(&mut self.causes.iter().map(own))),
            ("late outcomes refused", n(self.refused_outcomes)),
            ("taken for dead alive", n(self.evicted)),
            ("not acknowledged", n(self.unacknowledged)),
            ("crash to next begin", format!("p50 {p50_ms} ms, longest {longest_ms} ms, n {n_cut}")),
            ("jobs/s", format!("{:.0} over {:.0} s", self.jobs_per_s, self.seconds)),
            ("processes", n(self.processes as u64)),
            ("faults", list(&mut faults.into_iter())),
            ("faults left out", list_of(&self.left_out)),
            ("errors of the store", list(&mut self.store_errors.clone().into_iter())),
        ] {
            table.add_row(vec![name.to_owned(), value]);
        }
        print::line(table.to_string())?;
        self.print_end()
    }

    fn print_end(&self) -> Result<()> {
        for it in &self.breaches {
            let jobs: Vec<String> = it.jobs.iter().map(ToString::to_string).collect();
            print::line(format!("verify: {}: {} ({})", it.what, it.n, jobs.join(" ")))?;
        }
        for it in &self.broken {
            let job = it.job.map_or_else(String::new, |it| format!("{it}: "));
            print::line(format!("broken: {job}{}", it.what))?;
        }
        if self.is_good() {
            return print::line(format!("all promises held, with seed {}", self.seed));
        }
        print::line(format!("a promise was broken, with seed {}", self.seed))?;
        if let Some(kept) = &self.kept {
            print::line(format!("notes, logs and store are kept: {kept} and {}", self.store))?;
        }
        Ok(())
    }
}

fn list_of(left_out: &[&str]) -> String {
    if left_out.is_empty() { "none".to_owned() } else { left_out.join(", ") }
}
