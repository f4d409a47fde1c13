//! What a history has met, so that a test can tell that it was not an idle one.

/// What a history has met, and the number of its trace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Summary {
    /// The same for the same history: of every line of its trace.
    pub trace_hash: u64,
    pub n_jobs: u64,
    pub n_duplicates: u64,
    pub n_claims: u64,
    pub n_begun: u64,
    pub n_succeeded: u64,
    pub n_failed: u64,
    pub n_cancelled: u64,
    pub n_errored: u64,
    pub n_panics: u64,
    pub n_timed_out: u64,
    pub n_snoozed: u64,
    pub n_interrupted: u64,
    pub n_lost: u64,
    pub n_quarantined: u64,
    pub n_expired: u64,
    pub n_retried: u64,
    pub n_unblocked: u64,
    /// Outcomes refused: of a lost lease, or told twice.
    pub n_refused: u64,
    /// Store errors before the commit, and after it.
    pub n_errors: u64,
    pub n_lost_answers: u64,
    pub n_slow_calls: u64,
    pub n_started: u64,
    pub n_killed: u64,
    pub n_drained: u64,
    pub n_hurried: u64,
    pub n_paused: u64,
    /// Nodes that were taken for dead, and heard of it.
    pub n_evicted: u64,
    pub n_clock_jumps: u64,
    pub n_events: u64,
    pub n_commits: u64,
}

impl Summary {
    fn fields(&mut self) -> [(&'static str, &mut u64); 29] {
        [
            ("jobs", &mut self.n_jobs),
            ("duplicates", &mut self.n_duplicates),
            ("claims", &mut self.n_claims),
            ("attempts begun", &mut self.n_begun),
            ("succeeded", &mut self.n_succeeded),
            ("failed", &mut self.n_failed),
            ("cancelled", &mut self.n_cancelled),
            ("errored", &mut self.n_errored),
            ("panics", &mut self.n_panics),
            ("timed out", &mut self.n_timed_out),
            ("snoozed", &mut self.n_snoozed),
            ("interrupted", &mut self.n_interrupted),
            ("lost", &mut self.n_lost),
            ("quarantined", &mut self.n_quarantined),
            ("expired", &mut self.n_expired),
            ("retried by an operator", &mut self.n_retried),
            ("unblocked", &mut self.n_unblocked),
            ("outcomes refused", &mut self.n_refused),
            ("store errors", &mut self.n_errors),
            ("lost answers", &mut self.n_lost_answers),
            ("slow calls", &mut self.n_slow_calls),
            ("nodes started", &mut self.n_started),
            ("nodes killed", &mut self.n_killed),
            ("nodes drained", &mut self.n_drained),
            ("drains hurried", &mut self.n_hurried),
            ("nodes paused", &mut self.n_paused),
            ("nodes evicted", &mut self.n_evicted),
            ("clock jumps", &mut self.n_clock_jumps),
            ("events", &mut self.n_events),
        ]
    }

    /// What never happened: a test of many seeds wants this to be empty.
    #[must_use]
    pub fn missing(mut self) -> Vec<&'static str> {
        let fields = self.fields().into_iter();
        fields.filter(|(_, n)| **n == 0).map(|(name, _)| name).collect()
    }
}

impl std::ops::AddAssign for Summary {
    fn add_assign(&mut self, mut other: Summary) {
        for ((_, sum), (_, n)) in self.fields().into_iter().zip(other.fields()) {
            *sum += *n;
        }
        self.n_commits += other.n_commits;
        self.trace_hash ^= other.trace_hash;
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut copy = *self;
        for (name, n) in copy.fields() {
            writeln!(f, "{n:>10} {name}")?;
        }
        write!(f, "{:>10} commits", self.n_commits)
    }
}
