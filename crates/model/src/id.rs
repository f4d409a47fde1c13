//! The identities of things: jobs, nodes, fences, priorities.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Time;

/// The public identity of a job: a version-7 UUID that also carries the store's own integer key,
/// so that a store finds a job by its id without a second index.
///
/// Layout: 48 bits of creation time (ms), 4 bits of version, 12 + 10 bits of the store's salt,
/// 2 bits of variant, 12 bits more of salt, 40 bits of key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(Uuid);

impl JobId {
    /// The largest key an id can carry: about 1.1 trillion jobs a store.
    pub const KEY_MAX: u64 = (1 << 40) - 1;

    /// Composes the id of the job with `key` in the store with `salt`, created at `created`.
    ///
    /// # Panics
    /// When `key` is over [`JobId::KEY_MAX`].
    #[must_use]
    pub fn compose(created: Time, salt: u32, key: u64) -> Self {
        assert!(key <= Self::KEY_MAX, "a store holds at most {} jobs", Self::KEY_MAX);
        let millis = u128::try_from(created.as_millis().max(0)).unwrap_or(0) & ((1 << 48) - 1);
        let salt = u128::from(salt);
        let bits = (millis << 80)
            | (0x7 << 76)
            | ((salt >> 20) << 64)
            | (0b10 << 62)
            | ((salt & 0xF_FFFF) << 40)
            | u128::from(key);
        JobId(Uuid::from_u128(bits))
    }

    /// The store's integer key of the job.
    #[must_use]
    pub fn key(self) -> u64 {
        u64::try_from(self.0.as_u128() & u128::from(Self::KEY_MAX)).unwrap_or(0)
    }

    /// When the job was accepted.
    #[must_use]
    pub fn created(self) -> Time {
        Time::from_millis(i64::try_from(self.0.as_u128() >> 80).unwrap_or(0))
    }

    /// The salt of the store that made the id.
    #[must_use]
    pub fn salt(self) -> u32 {
        let bits = self.0.as_u128();
        let salt = (((bits >> 64) & 0xFFF) << 20) | ((bits >> 40) & 0xF_FFFF);
        u32::try_from(salt).unwrap_or(0)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for JobId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        Uuid::parse_str(text).map(JobId)
    }
}

/// The number that tells the current lease of a job from a lost one. It only grows.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Fence(pub u64);

impl Fence {
    /// The fence of the next claim.
    #[must_use]
    pub fn next(self) -> Fence {
        Fence(self.0 + 1)
    }
}

/// One running copy of the program. Every start of a process is a new node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How urgent a job is: 0 (the default) to 9 (first). Strict: a higher one always goes first.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(try_from = "u8", into = "u8")]
pub struct Priority(u8);

impl Priority {
    /// The most urgent.
    pub const MAX: Priority = Priority(9);

    /// A priority from 0 to 9.
    ///
    /// # Errors
    /// [`PriorityError`] above 9.
    pub const fn new(level: u8) -> Result<Self, PriorityError> {
        if level <= 9 { Ok(Priority(level)) } else { Err(PriorityError(level)) }
    }

    /// The level, 0 to 9.
    #[must_use]
    pub const fn level(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for Priority {
    type Error = PriorityError;

    fn try_from(level: u8) -> Result<Self, PriorityError> {
        Priority::new(level)
    }
}

impl From<Priority> for u8 {
    fn from(priority: Priority) -> u8 {
        priority.0
    }
}

/// A priority over 9.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PriorityError(pub u8);

impl fmt::Display for PriorityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "priority {} is over 9, the most urgent", self.0)
    }
}

impl std::error::Error for PriorityError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_carries_time_salt_and_key() {
        for (millis, salt, key) in
            [(0, 0, 0), (1_700_000_000_123, 0xDEAD_BEEF, 7), (1 << 47, u32::MAX, JobId::KEY_MAX)]
        {
            let id = JobId::compose(Time::from_millis(millis), salt, key);
            assert_eq!((id.created().as_millis(), id.salt(), id.key()), (millis, salt, key));
            let text = id.to_string();
            assert_eq!(text.parse::<JobId>().unwrap(), id);
            assert_eq!(text.as_bytes()[14], b'7', "a version-7 UUID: {text}");
            assert!(b"89ab".contains(&text.as_bytes()[19]), "of the standard variant: {text}");
        }
    }
}
