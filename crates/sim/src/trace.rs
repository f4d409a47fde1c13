//! What happened: the last lines for a person, and a number that stands for all of them.

use std::collections::VecDeque;
use std::time::Duration;

/// How many lines are kept: most of a history.
const LINES_MAX: usize = 2_000;

#[derive(Debug)]
pub(crate) struct Trace {
    lines: VecDeque<String>,
    hash: u64,
}

impl Default for Trace {
    fn default() -> Self {
        Trace { lines: VecDeque::with_capacity(LINES_MAX), hash: 0xCBF2_9CE4_8422_2325 }
    }
}

impl Trace {
    pub(crate) fn line(&mut self, at: Duration, text: &str) {
        let line = format!("{:>9.3} s  {text}", at.as_secs_f64());
        // FNV-1a: two histories with one number are one history.
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }
}
