//! The plans of the statements that every job passes: whatever the statistics say, they find their
//! rows by an index, and each row of the history in its own part.

use super::PostgresOptions;
use super::arrivals::ARRIVALS;
use super::claim::{CLAIM, CLAIM_RANGES, FRONT, FRONT_RANGES};
use super::finish::FINISH;
use super::nodes::{PUT_PROGRESS, TO_CANCEL};
use super::open::{Opened, Server};
use super::read::{ATTEMPTS, LOGS, SCAN_ALL, SCAN_STATES, VIEWS};
use super::rows::{LOAD_ENDED, LOAD_HOT};
use super::upkeep::FORGET;
use super::write::{
    ADD_COUNTS, ADD_LOGS, DROP_DEADLINES, FREE_UNIQUES, KEEP_ATTEMPTS, LEAVE_ENDED, PUT_EXTRAS,
    PUT_HOT,
};
use crate::conformance::{Durability, PrivateServer};

/// A statement with arguments, and the index its plan must name.
const STATEMENTS: [(&str, &str, &str); 14] = [
    (CLAIM, "1, 100, 7, 0", "hot_ready"),
    (FRONT, "'{1,2,3}', 100", "hot_ready"),
    (CLAIM_RANGES, "'{1,1}', 100, 7, 0, '{8,9}', '{0,0}', '{9,9}'", "hot_ready"),
    (FRONT_RANGES, "'{1,2}', 100, '{9,9}', '{0,0}', '{9,9}'", "hot_ready"),
    (FINISH, "'{1,2}', '{1,1}', '{0,0}', '{null,null}', 0, 7", "hot_pkey"),
    (LOAD_HOT, "'{1,2}'", "hot_pkey"),
    (LOAD_ENDED, "'{1,2}'", "ended_p0_pkey"),
    (
        PUT_HOT,
        "'{1}','{1}','{1}','{1}','{1}','{1}','{1}','{1}','{1}','{1}','{1}','{1}','{1}'",
        "hot_pkey",
    ),
    (PUT_PROGRESS, "'{1,2}', '{1,1}', '{1,1}'", "hot_pkey"),
    (FREE_UNIQUES, "'{a,b}', '{1,2}'", "uniques_pkey"),
    (DROP_DEADLINES, "'{1,2}', '{1,2}'", "deadlines_pkey"),
    (TO_CANCEL, "7", "hot_cancel"),
    (ARRIVALS, "100, 0", "arrivals_pkey"),
    (ADD_COUNTS, "1, '{1}', '{0}', '{1}', '{1}'", ""),
];

const FILL: &str = "INSERT INTO jobs (job, created, lane, policy, rank, args) \
     SELECT n, 0, n % 3 + 1, 1, 9, '{}' FROM generate_series(1, 100000) AS n; \
     INSERT INTO hot (job, fence, node, started, lane, attempts, crashes, snoozes, rank, state, \
     flags) SELECT n, 1, CASE WHEN n % 50 = 0 THEN 7 END, 0, n % 3 + 1, 1, 0, 0, 9, \
     CASE WHEN n % 50 = 0 THEN 3 ELSE 2 END, 0 FROM generate_series(1, 50000) AS n; \
     INSERT INTO ended (job, at, fence, attempts, crashes, snoozes, state) \
     SELECT n, 0, 1, 1, 0, 0, 5 FROM generate_series(50001, 100000) AS n;";

/// The plans as the lanes get them, of statements with their arguments, after `before` was done.
fn plans(url: &str, before: &str, (how, asked): (&str, Vec<(&str, &str)>)) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = Server::open(url, &PostgresOptions::default()).await.unwrap();
        let Opened { session, mut driver, .. } = server.writer().await.unwrap();
        let explaining = async {
            session.batch(before).await?;
            let mut plans = Vec::new();
            for (n, (sql, args)) in asked.into_iter().enumerate() {
                session.batch(&format!("PREPARE p{n} AS {sql}")).await?;
                let explain = format!("BEGIN; {how} EXECUTE p{n}({args}); ROLLBACK");
                let mut plan = String::new();
                for message in session.client.simple_query(&explain).await? {
                    if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
                        plan.push_str(row.get(0).unwrap_or(""));
                        plan.push('\n');
                    }
                }
                plans.push(plan);
            }
            Ok(plans)
        };
        driver.drive(explaining).await.unwrap()
    })
}

#[track_caller]
fn check_plans(server: &PrivateServer, before: &str) {
    let asked = STATEMENTS.iter().map(|(sql, args, _)| (*sql, *args)).collect();
    let plans = plans(&server.database().unwrap(), before, ("EXPLAIN", asked));
    for (plan, (_, _, index)) in plans.iter().zip(STATEMENTS) {
        for table in ["hot", "jobs", "ended", "counts", "arrivals"] {
            let is_scanned = plan.contains(&format!("Seq Scan on {table}"));
            assert!(!is_scanned, "walks {table}, after {before:?}:\n{plan}");
        }
        assert!(plan.contains(index), "not by {index}, after {before:?}:\n{plan}");
        let lines: Vec<&str> = plan.lines().collect();
        let is_walk = |it: &[&str]| {
            ["using hot_", "using arrivals_", "using uniques_", "using deadlines_"]
                .iter()
                .any(|index| it[0].contains(index))
                && !it[1].contains("Index Cond")
        };
        assert!(!lines.windows(2).any(is_walk), "walks an index, after {before:?}:\n{plan}");
        assert!(!plan.contains("hot_leases"), "walks all leases, after {before:?}:\n{plan}");
    }
}

/// What a vacuum leaves of `hot` in the catalog, when nearly all its rows are dead and must stay.
fn after_vacuum(pages: u32) -> String {
    format!(
        "UPDATE pg_class SET reltuples = 1000, relpages = {pages} WHERE oid = 'hot'::regclass; \
         UPDATE pg_class SET reltuples = {pages} * 60, relpages = {pages} / 4 \
         WHERE relname IN ('hot_pkey', 'hot_ready', 'hot_leases')"
    )
}

#[test]
fn claim_and_finish_find_their_rows_by_index_whatever_the_statistics() {
    let started = PrivateServer::start(&std::env::temp_dir(), Durability::None);
    let server = started.unwrap_or_else(|why| panic!("{why}"));
    check_plans(&server, "SELECT 1");
    check_plans(&server, "ANALYZE");
    check_plans(&server, &format!("{FILL} ANALYZE"));
    // Of an empty table, and of one that was full and is empty.
    check_plans(&server, &format!("ANALYZE; {FILL}"));
    check_plans(&server, &format!("{FILL} ANALYZE; DELETE FROM hot; DELETE FROM ended"));
    // Between a vacuum that saw that hardly any row is left, and could remove none, and the ANALYZE
    // that comes after it.
    for pages in [100, 10_000, 100_000] {
        check_plans(&server, &format!("{FILL} ANALYZE; {}", after_vacuum(pages)));
    }
    // When nearly all of the jobs were running.
    check_plans(&server, &format!("{FILL} UPDATE hot SET state = 3, node = 7; ANALYZE"));
}

/// Two jobs in each of eight parts, the first of them unfinished, each with an attempt and a line
/// of log.
const EIGHT_PARTS: &str = "SELECT add_part('p' || n, n << 24, n + 1 << 24) \
     FROM generate_series(2, 7::bigint) AS n; \
     INSERT INTO jobs (job, created, lane, policy, rank, args) \
     SELECT (n << 24) + i, 0, 1, 1, 9, '{}' FROM generate_series(0, 7::bigint) AS n, \
     generate_series(1, 2) AS i; \
     INSERT INTO hot (job, fence, lane, attempts, crashes, snoozes, rank, state, flags) \
     SELECT job, 1, 1, 1, 0, 0, 9, 2, 0 FROM jobs WHERE job % 2 = 1; \
     INSERT INTO ended (job, at, fence, attempts, crashes, snoozes, state) \
     SELECT job, 0, 1, 1, 0, 0, 6 FROM jobs WHERE job % 2 = 0; \
     INSERT INTO logs (job, fence, at, level, text) SELECT job, 1, 0, 'info', '' FROM jobs; \
     INSERT INTO attempts SELECT job, 1, 1, 1, 0, 0, 0, NULL FROM jobs; \
     INSERT INTO lanes VALUES (1, 'q', 't'); INSERT INTO policies (body) VALUES ('{}'); ANALYZE";

/// How often a plan with its numbers has begun to look into a part.
fn n_looks(plan: &str) -> usize {
    let tables = ["jobs", "ended", "attempts", "logs"];
    let is_look = |it: &&str| tables.iter().any(|table| it.contains(&format!(" on {table}_")));
    let n_loops = |it: &str| it.split("loops=").nth(1)?.trim_end_matches(')').parse::<usize>().ok();
    plan.lines().filter(|it| it.contains("Scan")).filter(is_look).filter_map(n_loops).sum()
}

#[test]
fn a_row_of_the_history_is_looked_for_in_its_own_part_only() {
    let started = PrivateServer::start(&std::env::temp_dir(), Durability::None);
    let server = started.unwrap_or_else(|why| panic!("{why}"));
    let keys: Vec<String> =
        (0..8_u64).flat_map(|n| [(n << 24) + 1, (n << 24) + 2]).map(|it| it.to_string()).collect();
    let keys = format!("'{{{}}}'", keys.join(","));
    let (first, texts) = ("33554433", "array_fill('x'::text, ARRAY[16])");
    let extras = format!("{keys}, {texts}");
    let logs = format!("{keys}, {keys}, {keys}, {texts}, {texts}");
    // With how many looks at most: one a key; when rows go, one a part for all keys.
    let mut statements = vec![
        (CLAIM, "1, 100, 7, 0", 8),
        (LOAD_HOT, &*keys, 8),
        (LOAD_ENDED, &keys, 16 + 8),
        (KEEP_ATTEMPTS, &keys, 16),
        (LEAVE_ENDED, &keys, 8),
        (PUT_EXTRAS, &extras, 16),
        (ADD_LOGS, &logs, 16),
        (VIEWS, &keys, 3 * 16),
        (ATTEMPTS, first, 2),
        (LOGS, "33554433, 9", 1),
        // Pages of a list: the newest part has enough, or all are asked for each state.
        (SCAN_ALL, "99999999999, 2", 1),
        (SCAN_STATES, "99999999999, 9, '{6,16}', '{6,16}'", 2 * 9),
    ];
    // The last is of a table without parts.
    statements.extend(FORGET[..4].iter().map(|sql| (*sql, &*keys, 8)));
    let asked = statements.iter().map(|it| (it.0, it.1)).collect();
    let how = "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF)";
    let plans = plans(&server.database().unwrap(), EIGHT_PARTS, (how, asked));
    for (plan, (_, _, n_max)) in plans.iter().zip(statements) {
        let n = n_looks(plan);
        assert!(0 < n && n <= n_max, "{n} looks, not {n_max}:\n{plan}");
        let has_scan = plan.lines().any(|it| it.contains("Seq Scan on") && !it.contains("never"));
        assert!(!has_scan, "walks a table:\n{plan}");
    }
}
