//! What became of the accepted jobs, by the store and by the log that their attempts wrote.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use taskloom::{FailReason, JobId, StateName, TaskSystem};

/// How many jobs one read takes.
const GET_MAX: usize = 500;

/// What became of the accepted jobs.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) n_accepted: usize,
    pub(crate) n_succeeded: usize,
    /// Given up by the rule of three crashes.
    pub(crate) n_quarantined: usize,
    /// Of these, how many never wrote a line: claimed ahead of a free slot, thrice.
    pub(crate) n_quarantined_unbegun: usize,
    /// Gone, unfinished, or succeeded without an attempt that ended.
    pub(crate) lost: Vec<String>,
    /// In the store although no submit of theirs was seen to return.
    pub(crate) n_unacknowledged: usize,
    pub(crate) n_started_twice: usize,
    pub(crate) n_ended_twice: usize,
    /// Started more often than attempts were cut.
    pub(crate) unexplained: Vec<String>,
    /// Attempts of those that started twice that the store recorded as lost.
    pub(crate) n_lost_attempts: usize,
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let acknowledged = (self.n_accepted, self.n_succeeded, self.lost.len());
        let (accepted, finished, lost) = acknowledged;
        writeln!(f, "accepted {accepted}, finished {finished}, lost {lost}")?;
        let (n, unbegun) = (self.n_quarantined, self.n_quarantined_unbegun);
        writeln!(f, "quarantined after 3 crashes {n}, of which {unbegun} never began")?;
        writeln!(f, "durable though not acknowledged {}", self.n_unacknowledged)?;
        let (starts, ends) = (self.n_started_twice, self.n_ended_twice);
        writeln!(f, "started more than once {starts}, ended more than once {ends}")?;
        let unexplained = self.unexplained.len();
        write!(f, "attempts lost {}, starts unexplained {unexplained}", self.n_lost_attempts)
    }
}

/// How often a job started and ended, by the log.
#[derive(Debug, Default, Clone, Copy)]
struct Lines {
    n_starts: usize,
    n_ends: usize,
}

fn read_log(path: &Path) -> HashMap<JobId, Lines> {
    let mut lines: HashMap<JobId, Lines> = HashMap::new();
    let text = std::fs::read_to_string(path).expect("the log reads");
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [job, _attempt, what] = words[..] else { panic!("a torn line: {line}") };
        let lines = lines.entry(job.parse().expect("an id")).or_default();
        match what {
            "start" => lines.n_starts += 1,
            "end" => lines.n_ends += 1,
            other => panic!("a torn line: {other}"),
        }
    }
    lines
}

/// Looks at every accepted job, and at every job that started twice.
pub(crate) async fn read(system: &TaskSystem, accepted: &[JobId], log: &Path) -> History {
    let lines = read_log(log);
    let mut history = History { n_accepted: accepted.len(), ..History::default() };
    for part in accepted.chunks(GET_MAX) {
        let views = system.store().get(part.to_vec()).await.expect("the store reads");
        for (id, view) in part.iter().zip(views) {
            let lines = lines.get(id).copied().unwrap_or_default();
            let state = view.as_ref().map(|it| (it.state, it.reason));
            match state {
                Some((StateName::Succeeded, _)) if 0 < lines.n_ends => history.n_succeeded += 1,
                Some((StateName::Failed, Some(FailReason::Quarantined))) => {
                    history.n_quarantined += 1;
                    history.n_quarantined_unbegun += usize::from(lines.n_starts == 0);
                }
                other => history.lost.push(format!("{id}: {other:?}, {lines:?}")),
            }
        }
    }
    let counts = system.store().counts().await.expect("the store reads");
    let n_durable: u64 = counts.iter().map(|it| it.n).sum();
    history.n_unacknowledged = usize::try_from(n_durable).expect("few") - accepted.len();
    explain(system, &lines, &mut history).await;
    history
}

/// Every start after the first needs an attempt that was cut before it.
async fn explain(system: &TaskSystem, lines: &HashMap<JobId, Lines>, history: &mut History) {
    for (&id, lines) in lines {
        history.n_ended_twice += usize::from(1 < lines.n_ends);
        if lines.n_starts <= 1 {
            continue;
        }
        history.n_started_twice += 1;
        let attempts = system.store().attempts(id).await.expect("the store reads");
        let n_lost = attempts.iter().filter(|it| it.outcome == "lost").count();
        history.n_lost_attempts += n_lost;
        if n_lost + 1 < lines.n_starts {
            history.unexplained.push(format!("{id}: {lines:?}, {n_lost} lost"));
        }
    }
}
