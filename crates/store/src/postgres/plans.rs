//! The plans of the statements that every job passes: whatever the statistics say, they find their
//! rows by an index.

use super::PostgresOptions;
use super::claim::{CLAIM, CLAIM_RANGES, FRONT, FRONT_RANGES};
use super::finish::FINISH;
use super::open::{Opened, Server};
use super::rows::{LOAD_ENDED, LOAD_HOT};
use super::write::{ADD_COUNTS, PUT_HOT};
use crate::conformance::{Durability, PrivateServer};

/// A statement with arguments, and the index its plan must name.
const STATEMENTS: [(&str, &str, &str); 9] = [
    (CLAIM, "1, 100, 7, 0", "hot_ready"),
    (FRONT, "'{1,2,3}', 100", "hot_ready"),
    (CLAIM_RANGES, "'{1,1}', 100, 7, 0, '{8,9}', '{0,0}', '{9,9}'", "hot_ready"),
    (FRONT_RANGES, "'{1,2}', 100, '{9,9}', '{0,0}', '{9,9}'", "hot_ready"),
    (FINISH, "'{1,2}', '{1,1}', '{0,0}', '{null,null}', 0, 7", "hot_pkey"),
    (LOAD_HOT, "'{1,2}'", "hot_pkey"),
    (LOAD_ENDED, "'{1,2}'", "ended_pkey"),
    (
        PUT_HOT,
        "'{1}','{1}','{1}','{1}','{1}','{1}','{1}','{1}','{1}','{1}','{1}','{1}','{1}'",
        "hot_pkey",
    ),
    (ADD_COUNTS, "1, '{1}', '{1}', '{1}'", ""),
];

const FILL: &str = "INSERT INTO jobs (job, created, lane, policy, rank, args) \
     SELECT n, 0, n % 3 + 1, 1, 9, '{}' FROM generate_series(1, 100000) AS n; \
     INSERT INTO hot (job, fence, node, started, lane, attempts, crashes, snoozes, rank, state, \
     flags) SELECT n, 1, CASE WHEN n % 50 = 0 THEN 7 END, 0, n % 3 + 1, 1, 0, 0, 9, \
     CASE WHEN n % 50 = 0 THEN 3 ELSE 2 END, 0 FROM generate_series(1, 50000) AS n; \
     INSERT INTO ended (job, at, fence, attempts, crashes, snoozes, state) \
     SELECT n, 0, 1, 1, 0, 0, 5 FROM generate_series(50001, 100000) AS n;";

/// The plans as the lanes get them.
fn plans(url: &str, before: &str) -> Vec<(String, &'static str)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = Server::open(url, &PostgresOptions::default()).await.unwrap();
        let Opened { session, mut driver, .. } = server.writer().await.unwrap();
        let explaining = async {
            session.batch(before).await?;
            let mut plans = Vec::new();
            for (n, (sql, args, index)) in STATEMENTS.into_iter().enumerate() {
                session.batch(&format!("PREPARE p{n} AS {sql}")).await?;
                let explain = format!("EXPLAIN EXECUTE p{n}({args})");
                let mut plan = String::new();
                for message in session.client.simple_query(&explain).await? {
                    if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
                        plan.push_str(row.get(0).unwrap_or(""));
                        plan.push('\n');
                    }
                }
                plans.push((plan, index));
            }
            Ok(plans)
        };
        driver.drive(explaining).await.unwrap()
    })
}

#[track_caller]
fn check_plans(server: &PrivateServer, before: &str) {
    for (plan, index) in plans(&server.database().unwrap(), before) {
        for table in ["hot", "jobs", "ended", "counts"] {
            let is_scanned = plan.contains(&format!("Seq Scan on {table}"));
            assert!(!is_scanned, "walks {table}, after {before:?}:\n{plan}");
        }
        assert!(plan.contains(index), "not by {index}, after {before:?}:\n{plan}");
        assert!(!plan.contains("hot_leases"), "walks all leases, after {before:?}:\n{plan}");
    }
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
    // When nearly all of the jobs were running.
    check_plans(&server, &format!("{FILL} UPDATE hot SET state = 3, node = 7; ANALYZE"));
}
