//! What a PostgreSQL server uses meanwhile: CPU, log and commits.

use std::collections::HashMap;

use anyhow::Result;
use serde::Serialize;
use taskloom::torture::{ServerUse, server_use};

use super::load::rounded;
use super::place::Bench;

/// What the server used, a job.
#[derive(Debug, Serialize)]
pub(super) struct ServerCost {
    /// User and system time of all its processes; `None`: it is on another machine.
    cpu_us: Option<f64>,
    wal_bytes: f64,
    commits: f64,
}

impl ServerCost {
    pub(super) fn cpu_us(&self) -> Option<f64> {
        self.cpu_us
    }

    pub(super) fn text(&self) -> String {
        let cpu = match self.cpu_us {
            Some(cpu) => format!("{cpu:.1} µs CPU"),
            None => "CPU unseen (another machine)".to_owned(),
        };
        format!("{cpu}, {:.0} bytes WAL, {:.4} commits", self.wal_bytes, self.commits)
    }
}

/// Watches the server of a bench; nothing, when that is a file.
#[derive(Debug)]
pub(super) struct Watch {
    url: String,
    before: Option<(ServerUse, HashMap<u32, u64>)>,
}

impl Watch {
    pub(super) async fn begin(bench: &Bench) -> Result<Watch> {
        let url = bench.url.clone();
        let before = if bench.is_server { Some(now(&url).await?) } else { None };
        Ok(Watch { url, before })
    }

    /// What was used since, for each of `n`.
    pub(super) async fn end(self, n: u32) -> Result<Option<ServerCost>> {
        let Some((before, cpu_before)) = self.before else { return Ok(None) };
        let (after, cpu_after) = now(&self.url).await?;
        let each = |used: f64| used / f64::from(n);
        let cpu =
            cpu_after.iter().map(|(pid, cpu)| cpu - cpu_before.get(pid).unwrap_or(&0).min(cpu));
        let cpu: u64 = cpu.sum();
        Ok(Some(ServerCost {
            cpu_us: after.pid.map(|_| rounded(each(cpu as f64 / 1e3))),
            wal_bytes: rounded(each((after.wal_bytes - before.wal_bytes) as f64)),
            commits: each((after.n_commits - before.n_commits) as f64),
        }))
    }
}

async fn now(url: &str) -> Result<(ServerUse, HashMap<u32, u64>)> {
    let used = server_use(url.to_owned()).await?;
    Ok((used, used.pid.map(family_cpu).unwrap_or_default()))
}

/// Nanoseconds of CPU of a process and its children, by process.
fn family_cpu(parent: u32) -> HashMap<u32, u64> {
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|it| it.file_name().to_str()?.parse::<u32>().ok());
    let of_family = |pid: &u32| *pid == parent || parent_of(*pid) == Some(parent);
    pids.filter(of_family).filter_map(|pid| Some((pid, cpu_of(pid)?))).collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
}

fn cpu_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    stat.split(' ').next()?.parse().ok()
}
