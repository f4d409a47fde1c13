//! What can go wrong, as an application sees it.

use taskloom_dispatch::RegistryError;
use taskloom_model::{FailReason, JobId};
use taskloom_store::{AttemptError, StoreError};

use crate::InvocationError;

/// Anything that [`crate::TaskSystem`] can say.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store could not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A submitted invocation has a bad option or arguments.
    #[error(transparent)]
    Invocation(#[from] InvocationError),
    /// Two tasks have one name.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A job that was waited for did not succeed.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The address of the store has an unknown setting.
    #[error("the store's address has {0}; known is ?synchronous=full|normal")]
    Address(String),
}

impl Error {
    /// The stable code, for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Error::Store(error) => error.code(),
            Error::Invocation(_) => "submit.invocation",
            Error::Registry(_) => "start.task_name",
            Error::Job(error) => error.code(),
            Error::Address(_) => "start.address",
        }
    }
}

/// Why a job gave no result.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// It failed.
    #[error("job {id} failed ({}): {}", reason.as_str(), said(error.as_ref()))]
    Failed {
        /// The job.
        id: JobId,
        /// Why it was given up.
        reason: FailReason,
        /// What its last attempt said.
        error: Option<AttemptError>,
    },
    /// It was cancelled.
    #[error("job {id} was cancelled")]
    Cancelled {
        /// The job.
        id: JobId,
    },
    /// The store has no such job: never accepted there, or pruned.
    #[error("there is no job {id}; it was never accepted here, or is pruned")]
    Unknown {
        /// The job.
        id: JobId,
    },
    /// Its result is not of the expected type.
    #[error("the result of job {id} is not of the expected type: {why}")]
    Result {
        /// The job.
        id: JobId,
        /// What the parser says.
        why: String,
    },
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl JobError {
    /// The stable code, for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            JobError::Failed { .. } => "job.failed",
            JobError::Cancelled { .. } => "job.cancelled",
            JobError::Unknown { .. } => "job.unknown",
            JobError::Result { .. } => "job.result",
            JobError::Store(error) => error.code(),
        }
    }
}

fn said(error: Option<&AttemptError>) -> &str {
    error.map_or("no attempt said why", |it| &it.message)
}
