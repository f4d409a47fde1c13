//! `taskloom verify`: is anything wrong in the store?

use std::process::ExitCode;

use anyhow::Result;
use taskloom::TaskSystem;

use super::Place;
use crate::exit::FAILED;
use crate::print;

pub(super) async fn run(place: &Place) -> Result<ExitCode> {
    let system = TaskSystem::open(&place.store).connect().await?;
    let breaches = system.store().verify().await?;
    let n_jobs: u64 = system.store().counts().await?.iter().map(|it| it.n).sum();
    if place.json {
        print::json(&serde_json::json!({ "jobs": n_jobs, "breaches": breaches }))?;
    } else if breaches.is_empty() {
        print::line(format!("nothing is wrong with {} jobs", print::grouped(n_jobs)))?;
    } else {
        for breach in &breaches {
            print::line(format!("{}: {}", breach.what, print::grouped(breach.n as u64)))?;
            for id in &breach.jobs {
                print::line(format!("  {id}"))?;
            }
        }
    }
    Ok(if breaches.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}
