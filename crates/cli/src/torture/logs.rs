//! What the workers logged: the errors that the store told them, and outcomes that came too late.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;

use anyhow::Result;
use serde_json::Value;

/// What one worker process logged.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Errors of the store, by their code.
    pub(super) store_errors: BTreeMap<String, u64>,
    /// Outcomes that the fence refused.
    pub(super) n_refused: u64,
    /// How often it was taken for dead while it lived.
    pub(super) n_evicted: u64,
    /// The first panic outside of a task.
    pub(super) panic: Option<String>,
}

/// Reads the log at `path`; a worker that never got to its log said nothing.
pub(super) fn read(path: &Path) -> Result<Log> {
    let mut log = Log::default();
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(log),
        Err(error) => return Err(error.into()),
    };
    for line in BufReader::new(file).split(b'\n') {
        let line = line?;
        log.add(&String::from_utf8_lossy(&line));
    }
    Ok(log)
}

impl Log {
    fn add(&mut self, line: &str) {
        let Ok(entry) = serde_json::from_str::<Value>(line) else {
            if line.contains("panicked at") {
                self.panic.get_or_insert_with(|| line.to_owned());
            }
            return;
        };
        // The last word of a worker that the store kept from starting or from draining.
        let said = entry.get("error").unwrap_or(&entry["fields"]);
        if let Some(code) = said["code"].as_str().filter(|it| it.starts_with("store.")) {
            *self.store_errors.entry(code.to_owned()).or_default() += 1;
        }
        match entry["fields"]["message"].as_str() {
            Some("a late outcome is refused") => self.n_refused += 1,
            Some(message) if message.starts_with("this node was taken for dead") => {
                self.n_evicted += 1;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_understood() {
        let mut log = Log::default();
        for line in [
            r#"{"level":"WARN","fields":{"message":"a late outcome is refused","refusal":"it"}}"#,
            r#"{"level":"WARN","fields":{"message":"a commit failed","code":"store.locked"}}"#,
            r#"{"error":{"code":"store.locked","message":"it"}}"#,
            r#"{"fields":{"message":"this node was taken for dead; its jobs belong to others"}}"#,
            r#"{"fields":{"mess"#,
            "thread 'main' panicked at src/main.rs:1:2:",
        ] {
            log.add(line);
        }
        assert_eq!((log.n_refused, log.n_evicted, log.store_errors["store.locked"]), (1, 1, 2));
        assert!(log.panic.is_some());
    }
}
