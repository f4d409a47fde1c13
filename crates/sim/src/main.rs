//! Plays histories from the command line: one with its trace, or any number.

use std::process::ExitCode;
use std::time::Instant;

use taskloom_sim::{N_STEPS, Summary, simulate_traced};

const USAGE: &str = "usage: taskloom-sim [--seed SEED | --seeds N [--from SEED]] [--steps N]";

fn main() -> ExitCode {
    match Request::read(std::env::args().skip(1)) {
        Some(request) => request.play(),
        None => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

struct Request {
    from: u64,
    n_seeds: u64,
    n_steps: usize,
}

impl Request {
    fn read(mut args: impl Iterator<Item = String>) -> Option<Request> {
        let mut request = Request { from: 0, n_seeds: 100, n_steps: N_STEPS };
        while let Some(name) = args.next() {
            let value: u64 = args.next()?.parse().ok()?;
            match name.as_str() {
                "--seed" => (request.from, request.n_seeds) = (value, 1),
                "--seeds" => request.n_seeds = value,
                "--from" => request.from = value,
                "--steps" => request.n_steps = usize::try_from(value).ok()?,
                _ => return None,
            }
        }
        Some(request)
    }

    /// Of one history all is shown, of many only what went wrong.
    fn show(&self, trace: &[String]) {
        if self.n_seeds == 1 {
            trace.iter().for_each(|it| println!("{it}"));
        }
    }

    fn play(&self) -> ExitCode {
        let began = Instant::now();
        let mut sum = Summary::default();
        for seed in self.from..self.from + self.n_seeds {
            match simulate_traced(seed, self.n_steps) {
                Ok((summary, trace)) => {
                    self.show(&trace);
                    sum += summary;
                }
                Err(broken) => {
                    self.show(&broken.trace);
                    println!("{broken}");
                    println!("{} seeds were good", seed - self.from);
                    return ExitCode::FAILURE;
                }
            }
        }
        let (n, secs) = (self.n_seeds, began.elapsed().as_secs_f64());
        let each = 1_000.0 * secs / n as f64;
        println!("{sum}");
        println!("{n} histories kept every promise: {secs:.1} s, {each:.2} ms each");
        println!("trace {:016x}", sum.trace_hash);
        ExitCode::SUCCESS
    }
}
