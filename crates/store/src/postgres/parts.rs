//! The parts that the history lies in: which is dropped whole, which must be made, and where old
//! jobs are forgotten one by one.
//!
//! A part is 2^24 keys of `jobs`, `ended`, `attempts` and `logs`. Keys come from one sequence, so a
//! part is a stretch of time. It is dropped once all its jobs are old enough, but for a few that
//! outlive it; those move to the part before it, its heir, whose range then takes in that of the
//! dropped one. The first heir is `elder`, which has no keys of its own.
//!
//! # Invariants
//! - No two parts overlap, and whoever needs a part that is missing makes it.
//! - A transaction of ours locks `jobs` before anything else, so a drop, which locks it against
//!   all, meets none in the middle: neither a deadlock nor a count without its row.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use taskloom_model::Time;

use super::Result;
use super::lane::Ask;
use super::names::Names;
use super::readers::Reader;
use super::session::Session;
use super::tx::Tx;
use crate::{Prune, StoreError};

/// How many bits of a key number the jobs of one part; `schema.sql` has it too.
const PART_BITS: u32 = 24;
/// How many jobs may outlive a part that is dropped: traffic waits while they move.
const SURVIVORS_MAX: i32 = 10_000;
/// How long a drop takes at most; others wait for it less than they wait for a lock.
const LIMIT_DROP: &str = "SET statement_timeout = '4s'";
/// How long to leave a part alone that could not be dropped.
const TRY_EVERY: Duration = Duration::from_secs(50);
/// Held by the process that drops parts, until its connection ends.
const LOCK_PARTS: i64 = 0x546B_6C35 << 32;

/// The number of the part that a key was given in.
pub(super) fn part_of(key: u64) -> i32 {
    i32::try_from(key >> PART_BITS).unwrap_or(i32::MAX)
}

/// A part, as it is known before a prune.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    name: String,
    begins: i64,
    ends: i64,
    /// When the oldest job in it was created, if it has any.
    first: Option<Time>,
    /// When the newest was.
    last: Option<Time>,
}

/// All parts, in the order of their keys.
#[derive(Debug)]
pub(super) struct Look {
    parts: Vec<Part>,
    /// The key that was given last.
    newest: i64,
}

/// What is to be done with the parts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Where old jobs are forgotten one by one.
    pub(super) one_by_one: Vec<String>,
    /// What may be dropped whole, oldest first.
    candidates: Vec<Candidate>,
    /// The sequence will come to keys that have no part.
    lacks_next: bool,
}

/// A part that may be dropped whole.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    name: String,
    heir: String,
    ends: i64,
    /// It should be gone by now: if too many jobs outlive it, the next one's turn has come.
    is_overdue: bool,
}

/// Each part with the times of its first and its last job: a look into an index for each.
pub(super) const LOOK: &str = "SELECT p.name, p.begins, p.ends, \
     (SELECT created FROM jobs WHERE job >= p.begins AND job < p.ends ORDER BY job LIMIT 1), \
     (SELECT created FROM jobs WHERE job >= p.begins AND job < p.ends ORDER BY job DESC LIMIT 1), \
     (SELECT last_value FROM job_key) FROM parts p ORDER BY p.begins";

pub(super) async fn look(reader: &Reader) -> Result<Look> {
    let mut look = Look { parts: Vec::new(), newest: 0 };
    for row in reader.session.query(LOOK, &[]).await? {
        let time = |at| -> Result<Option<Time>> {
            Ok(row.try_get::<_, Option<i64>>(at)?.map(Time::from_millis))
        };
        look.parts.push(Part {
            name: row.try_get(0)?,
            begins: row.try_get(1)?,
            ends: row.try_get(2)?,
            first: time(3)?,
            last: time(4)?,
        });
        look.newest = row.try_get(5)?;
    }
    Ok(look)
}

impl Look {
    /// What `prune` asks for at `now`.
    ///
    /// A part is left to be dropped whole as long as that keeps no job much longer than was asked:
    /// half as long again. What was filled too slowly for that, what should have been dropped by
    /// now, what new jobs come to, and what has taken in another part, is pruned one by one.
    pub(super) fn plan(&self, prune: &Prune, now: Time) -> Plan {
        // Of the two kinds, the one that is kept for the shorter time.
        let old_before = prune.succeeded_before.max(prune.failed_before);
        let quarter = now.since(old_before) / 4;
        let standing = self.newest >> PART_BITS;
        let mut plan = Plan { lacks_next: self.lacks(standing + 1), ..Plan::default() };
        for (place, part) in self.parts.iter().enumerate() {
            let is_closed = part.ends <= standing << PART_BITS;
            let has_grown = 1 << PART_BITS < part.ends - part.begins || part.begins < 0;
            let filled = self.filled(place);
            let is_slow = part.first.is_some_and(|first| quarter < filled.since(first));
            let is_overdue = filled + quarter < old_before;
            let has_old = part.first.is_some_and(|first| first < old_before);
            if has_old && (!is_closed || has_grown || is_slow || is_overdue) {
                plan.one_by_one.push(part.name.clone());
            }
            let is_past = part.first.is_none() || filled < prune.succeeded_before;
            if let Some(heir) = place.checked_sub(1)
                && is_closed
                && is_past
            {
                let (name, heir) = (part.name.clone(), self.parts[heir].name.clone());
                plan.candidates.push(Candidate { name, heir, ends: part.ends, is_overdue });
            }
        }
        plan
    }

    /// When the last job of a part was created, or a little later: when the first after it was.
    fn filled(&self, place: usize) -> Time {
        let later = self.parts[place + 1..].iter().find_map(|it| it.first);
        later.or(self.parts[place].last).unwrap_or_default()
    }

    /// Whether the part with this number is missing.
    fn lacks(&self, number: i64) -> bool {
        let begins = number << PART_BITS;
        number < 1 << (40 - PART_BITS)
            && !self.parts.iter().any(|it| it.begins <= begins && begins < it.ends)
    }
}

impl Plan {
    /// Whether a part may be dropped.
    pub(super) fn drops(&self) -> bool {
        !self.candidates.is_empty()
    }
}

/// When parts may be cared for again, after a try that failed.
#[derive(Debug, Default)]
pub(super) struct Patience(Mutex<Option<Instant>>);

impl Patience {
    /// Whether something is to be done that was not tried in vain a moment ago.
    pub(super) fn allows(&self, plan: &Plan) -> bool {
        let has_work = plan.lacks_next || plan.drops();
        has_work && self.0.lock().is_none_or(|tried| TRY_EVERY < tried.elapsed())
    }

    /// Notes whether what there was to do could be done.
    pub(super) fn tried(&self, is_done: bool) {
        *self.0.lock() = (!is_done).then(Instant::now);
    }
}

/// Makes the parts that are missing, on a connection that writes.
pub(super) const MAKE_PARTS: &str = "SELECT make_parts()";

/// Makes and drops parts. Answers how many jobs are forgotten with a part; `None` when no part was
/// dropped.
pub(super) struct Care {
    plan: Plan,
    prune: Prune,
    dropped: Option<u64>,
}

impl Care {
    pub(super) fn new(plan: Plan, prune: Prune) -> Care {
        Care { plan, prune, dropped: None }
    }
}

impl Ask for Care {
    type Answer = Option<u64>;

    /// All of it happens here, in transactions of its own: locks are held as short as can be.
    async fn prepare(&mut self, _names: &mut Names, session: &Session) -> Result<()> {
        if self.plan.lacks_next {
            session.query(MAKE_PARTS, &[]).await?;
        }
        // Through a pooler no lock outlives a transaction: the parts wait for another process, or
        // lose their jobs one by one.
        if session.is_pooled() {
            return Ok(());
        }
        let taken = session.query("SELECT pg_try_advisory_lock($1)", &[&LOCK_PARTS]).await?;
        if !taken.first().map_or(Ok(false), |row| row.try_get(0))? {
            return Ok(());
        }
        for candidate in &self.plan.candidates {
            match drop_part(session, candidate, &self.prune).await {
                Ok(Some(n)) => {
                    self.dropped = Some(n);
                    return Ok(());
                }
                Ok(None) if candidate.is_overdue => {}
                Ok(None) => return Ok(()),
                // Somebody reads for long; another time.
                Err(StoreError::Locked { .. } | StoreError::ReadTimeout { .. }) => {
                    let part = &*candidate.name;
                    tracing::info!(part, "a part could not be dropped yet: others use its tables");
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn perform(&self, _tx: &mut Tx<'_>) -> Result<Option<u64>> {
        Ok(self.dropped)
    }
}

const FEW_SURVIVE: &str = "SELECT survivors($1, $2, $3, $4) IS NOT NULL";
const PROMISE_END: &str = "SELECT promise_end($1, $2, $3)";
const PROVE_END: &str = "SELECT prove_end($1, $2, $3)";
const DROP_PART: &str = "SELECT drop_part($1, $2, $3, $4, $5)";
const HISTORY: [&str; 4] = ["jobs", "ended", "attempts", "logs"];

/// Drops a part, unless too many jobs outlive it.
async fn drop_part(session: &Session, part: &Candidate, prune: &Prune) -> Result<Option<u64>> {
    let Candidate { name, heir, ends, .. } = part;
    let (succeeded, failed) = (prune.succeeded_before.as_millis(), prune.failed_before.as_millis());
    let few = session.query(FEW_SURVIVE, &[name, &succeeded, &failed, &SURVIVORS_MAX]).await?;
    if !few.first().map_or(Ok(false), |row| row.try_get(0))? {
        return Ok(None);
    }
    for sql in [PROMISE_END, PROVE_END] {
        for base in HISTORY {
            session.query(sql, &[&base, heir, ends]).await?;
        }
    }
    session.batch(LIMIT_DROP).await?;
    let rows = session.query(DROP_PART, &[name, heir, &succeeded, &failed, &SURVIVORS_MAX]).await?;
    let n: Option<i64> = rows.first().map_or(Ok(None), |row| row.try_get(0))?;
    let n = n.map(|n| u64::try_from(n).unwrap_or(0));
    if let Some(n_jobs) = n {
        tracing::info!(part = &**name, n_jobs, "dropped a part of the history");
    }
    Ok(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const HOUR: Duration = Duration::from_secs(3_600);
    const NOW: Time = Time::from_millis(1_700_000_000_000);

    fn ago(ago: Duration) -> Option<Time> {
        Some(NOW - ago)
    }

    /// `elder`, and the parts from 0 on with the times of their first and last job; the sequence
    /// stands in the last but one.
    fn look(times: &[(Option<Time>, Option<Time>)]) -> Look {
        let elder = Part { name: "elder".into(), begins: -1, ends: 0, first: None, last: None };
        let mut parts = vec![elder];
        for (n, &(first, last)) in (0_i64..).zip(times) {
            let (begins, ends) = (n << PART_BITS, (n + 1) << PART_BITS);
            parts.push(Part { name: format!("p{n}"), begins, ends, first, last });
        }
        let newest = parts[parts.len() - 2].ends - 1;
        Look { parts, newest }
    }

    /// With successes kept for eight days and failures for thirty.
    #[track_caller]
    fn check_plan(look: &Look, one_by_one: &[&str], candidates: &[&str]) {
        check_plan_for((8, 30), look, one_by_one, candidates);
    }

    /// With successes and failures kept for so many days.
    #[track_caller]
    fn check_plan_for(
        (succeeded, failed): (u32, u32),
        look: &Look,
        one_by_one: &[&str],
        candidates: &[&str],
    ) {
        let prune = Prune {
            succeeded_before: NOW - succeeded * DAY,
            failed_before: NOW - failed * DAY,
            events_before: NOW - DAY,
            limit: 1_000,
        };
        let plan = look.plan(&prune, NOW);
        assert_eq!(plan.one_by_one, one_by_one);
        let names: Vec<&str> = plan.candidates.iter().map(|it| &*it.name).collect();
        assert_eq!(names, candidates);
        assert!(!plan.lacks_next);
    }

    #[test]
    fn a_part_waits_for_its_time_and_a_slow_one_is_pruned_at_once() {
        let fast = |days| (ago(days * DAY), ago(days * DAY - HOUR));
        let (open, next) = (fast(1), (None, None));
        check_plan(&look(&[fast(7), open, next]), &[], &[]);
        check_plan(&look(&[fast(9), fast(9), open, next]), &["p1"], &["p0"]);
        check_plan(&look(&[fast(10), fast(9), fast(8), open, next]), &[], &["p0"]);
        let slow = (ago(10 * DAY), ago(7 * DAY));
        check_plan(&look(&[slow, fast(7), open, next]), &["p0"], &[]);
        // Two days after it should have gone, too many outlive it.
        check_plan(&look(&[fast(11), fast(11), fast(2), open, next]), &["p0", "p1"], &["p0"]);
        // The one that new jobs come to.
        check_plan(&look(&[fast(20), next]), &["p0"], &[]);
        // An empty one, also when nothing comes after it.
        check_plan(&look(&[(None, None), next, next]), &[], &["p0"]);
    }

    #[test]
    fn failures_that_are_kept_for_less_than_successes_do_not_wait_for_them() {
        let of = |days| (ago(days * DAY), ago(days * DAY));
        let (open, next) = (of(1), (None, None));
        check_plan_for((30, 8), &look(&[of(9), of(9), open, next]), &["p1"], &[]);
        check_plan_for((30, 8), &look(&[of(12), of(12), open, next]), &["p0", "p1"], &[]);
        check_plan_for((30, 8), &look(&[of(31), of(31), open, next]), &["p0", "p1"], &["p0"]);
    }

    #[test]
    fn what_has_taken_in_another_part_is_pruned_one_by_one() {
        let mut grown = look(&[(ago(9 * DAY), ago(DAY)), (ago(DAY), ago(DAY)), (None, None)]);
        grown.parts[0].first = ago(40 * DAY);
        check_plan(&grown, &["elder", "p0"], &[]);
        grown.parts.remove(1);
        grown.parts[0].ends = 1 << PART_BITS;
        check_plan(&grown, &["elder"], &[]);
    }

    #[test]
    fn the_next_part_is_made_ahead_until_the_last_key() {
        let mut look = look(&[(None, None), (None, None)]);
        assert!(!look.lacks(1) && look.lacks(2));
        look.parts[2].ends = 1 << 40;
        assert!(!look.lacks(65_535) && !look.lacks(65_536));
    }
}
