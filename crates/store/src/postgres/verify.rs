//! Checking a store: what must hold after every commit, asked of all tables in one snapshot.

use std::collections::BTreeMap;
use std::time::Duration;

use taskloom_model::{JobId, Time};

use super::Result;
use super::readers::Reader;
use crate::Breach;

/// How long it may take: it reads the whole store.
pub(super) const VERIFY_MAX: Duration = Duration::from_secs(60 * 60);
/// How many jobs of a breach are named.
const NAMED_MAX: usize = 20;

/// What must not be found, by the number that [`FOUND`] gives it.
const RULES: [&str; 10] = [
    "a job stands nowhere",
    "a job stands in two places",
    "something belongs to a job that was never submitted",
    "a ready job is in another lane than it was submitted to",
    "a blocked job counts other dependencies than it has",
    "a job is blocked by one that has ended",
    "an ended job keeps its unique text or its deadline",
    "a running job is held by a node that is not registered",
    "an attempt has a later fence than its job",
    "a job that has just arrived is not where such jobs are",
];

/// The jobs of every breach: one statement, so one snapshot.
const FOUND: &str = "\
    WITH found (rule, job) AS ( \
    SELECT 0, job FROM jobs j WHERE NOT EXISTS (SELECT 1 FROM hot h WHERE h.job = j.job) \
        AND NOT EXISTS (SELECT 1 FROM ended e WHERE e.job = j.job) \
    UNION ALL SELECT 1, job FROM hot JOIN ended USING (job) \
    UNION ALL SELECT 2, job FROM (SELECT job FROM hot UNION ALL SELECT job FROM ended \
        UNION ALL SELECT job FROM attempts UNION ALL SELECT job FROM logs \
        UNION ALL SELECT job FROM uniques UNION ALL SELECT job FROM deadlines \
        UNION ALL SELECT job FROM arrivals) AS o \
        WHERE NOT EXISTS (SELECT 1 FROM jobs j WHERE j.job = o.job) \
    UNION ALL SELECT 3, h.job FROM hot h JOIN jobs j USING (job) \
        WHERE h.lane <> j.lane OR h.rank <> j.rank \
    UNION ALL SELECT 4, job FROM hot h WHERE state = 1 AND n_unfinished IS DISTINCT FROM \
        (SELECT count(*) FROM dependencies d WHERE d.job = h.job) \
    UNION ALL SELECT 5, d.job FROM dependencies d JOIN hot h USING (job) WHERE h.state = 1 \
        AND NOT EXISTS (SELECT 1 FROM hot o WHERE o.job = d.on_job) \
    UNION ALL SELECT 6, job FROM ended e WHERE EXISTS \
        (SELECT 1 FROM uniques u WHERE u.job = e.job) \
        OR EXISTS (SELECT 1 FROM deadlines d WHERE d.job = e.job) \
    UNION ALL SELECT 7, job FROM hot h WHERE node IS NOT NULL \
        AND NOT EXISTS (SELECT 1 FROM nodes n WHERE n.id = h.node) \
    UNION ALL SELECT 8, a.job FROM attempts a JOIN (SELECT job, fence FROM hot \
        UNION ALL SELECT job, fence FROM ended) AS s USING (job) WHERE s.fence < a.fence \
    UNION ALL SELECT 9, coalesce(h.job, a.job) FROM (SELECT * FROM hot WHERE flags < 0) AS h \
        FULL JOIN arrivals a ON a.job = h.job WHERE h.job IS NULL OR a.job IS NULL \
        OR h.lane <> a.lane OR h.state <> 0 OR h.at IS NOT NULL \
    UNION ALL SELECT 10, count(*) FROM (SELECT FROM (SELECT lane, part, state, n FROM counts \
        UNION ALL SELECT lane, job >> 24, 0::smallint, 1 FROM arrivals \
        UNION ALL SELECT lane, job >> 24, state, -1 FROM hot \
        UNION ALL SELECT j.lane, job >> 24, e.state % 10, -1 FROM ended e JOIN jobs j USING (job)) AS c \
        GROUP BY lane, part, state HAVING sum(n) <> 0) AS wrong HAVING 0 < count(*)) \
    SELECT f.rule, f.job, coalesce(j.created, 0) FROM found f LEFT JOIN jobs j USING (job)";

/// As long as it takes, and by the plans that suit whole tables.
const BEGIN: &str = "BEGIN READ ONLY; SET LOCAL statement_timeout = 0; \
    SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on";

pub(super) async fn verify(reader: &Reader) -> Result<Vec<Breach>> {
    reader.session.batch(BEGIN).await?;
    let rows = reader.session.query(FOUND, &[]).await;
    reader.session.batch("COMMIT").await?;
    let mut found: BTreeMap<i32, (usize, Vec<JobId>)> = BTreeMap::new();
    for row in rows? {
        let (rule, job, created): (i32, i64, i64) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let (n, named) = found.entry(rule).or_default();
        if usize::try_from(rule).is_ok_and(|it| it < RULES.len()) {
            *n += 1;
            if named.len() < NAMED_MAX {
                let key = u64::try_from(job).unwrap_or(0);
                named.push(JobId::compose(Time::from_millis(created), reader.salt, key));
            }
        } else {
            // Of counts: how many of them are wrong, and no job.
            *n = usize::try_from(job).unwrap_or(usize::MAX);
        }
    }
    let breach = |(rule, (n, jobs)): (i32, (usize, Vec<JobId>))| {
        let rule = usize::try_from(rule).ok().and_then(|it| RULES.get(it).copied());
        let what = rule.unwrap_or("a lane counts other jobs than it has").to_owned();
        Breach { what, n, jobs }
    };
    Ok(found.into_iter().map(breach).collect())
}
