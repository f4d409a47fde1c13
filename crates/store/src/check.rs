//! What no store accepts: refused before it costs the backend anything.

use serde::de::IgnoredAny;

use crate::{NewJob, StoreError};

/// Refuses what no store accepts.
pub(crate) fn check(jobs: &[NewJob], payload_max: usize) -> Result<(), StoreError> {
    for job in jobs {
        let bytes = job.args.len();
        if payload_max < bytes {
            return Err(StoreError::TooLarge { what: "the arguments", bytes, max: payload_max });
        }
        for (what, text) in [
            ("the task's name", Some(&*job.task)),
            ("the queue's name", Some(&*job.queue)),
            ("the key", job.key.as_deref()),
            ("the unique text", job.unique.as_deref()),
        ] {
            if text == Some("") {
                return Err(StoreError::Empty { what });
            }
            let bytes = text.map_or(0, str::len);
            if NAME_MAX < bytes {
                return Err(StoreError::TooLarge { what, bytes, max: NAME_MAX });
            }
        }
        if AFTER_MAX < job.after.len() {
            let (what, bytes) = ("the list of dependencies", job.after.len());
            return Err(StoreError::TooLarge { what, bytes, max: AFTER_MAX });
        }
        job.rules.retry.check().map_err(StoreError::Policy)?;
        serde_json::from_str::<IgnoredAny>(&job.args).map_err(|error| StoreError::Args {
            task: job.task.to_string(),
            why: error.to_string(),
        })?;
    }
    Ok(())
}

/// The longest name, key or unique text, in bytes.
const NAME_MAX: usize = 255;
/// The most jobs one job may depend on.
const AFTER_MAX: usize = 10_000;

/// Refuses names with a NUL, which PostgreSQL keeps in no text. JSON has none.
#[cfg(feature = "postgres")]
pub(crate) fn check_nul(jobs: &[NewJob]) -> Result<(), StoreError> {
    for job in jobs {
        for (what, text) in [
            ("the task's name", Some(&*job.task)),
            ("the queue's name", Some(&*job.queue)),
            ("the key", job.key.as_deref()),
            ("the unique text", job.unique.as_deref()),
        ] {
            if text.is_some_and(|it| it.contains('\0')) {
                return Err(StoreError::Nul { what });
            }
        }
    }
    Ok(())
}
