//! A handle on an accepted job: await it, look at it, cancel it.

use std::future::IntoFuture;
use std::marker::PhantomData;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use taskloom_model::{JobId, StateName};
use taskloom_store::{Changed, JobView, Store, StoreError};

use crate::JobError;
use crate::waiters::Waiters;

/// A handle on an accepted job whose result is a `T`. Awaiting it waits for the job to end,
/// whichever process runs it. Dropping it changes nothing: the job is durable.
#[derive(Debug)]
pub struct JobHandle<T> {
    id: JobId,
    duplicate: bool,
    pub(crate) link: Link,
    result: PhantomData<fn() -> T>,
}

/// What a handle needs of the system.
#[doc(hidden)]
#[derive(Debug, Clone)]
pub struct Link {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) waiters: Arc<Waiters>,
}

impl<T> Clone for JobHandle<T> {
    fn clone(&self) -> Self {
        JobHandle {
            id: self.id,
            duplicate: self.duplicate,
            link: self.link.clone(),
            result: PhantomData,
        }
    }
}

impl<T> JobHandle<T> {
    pub(crate) fn new(id: JobId, duplicate: bool, link: Link) -> Self {
        JobHandle { id, duplicate, link, result: PhantomData }
    }

    /// The job.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.id
    }

    /// Whether an unfinished job with the same unique text was there already; then this is it.
    #[must_use]
    pub fn is_duplicate(&self) -> bool {
        self.duplicate
    }

    /// The job as it is now; `None` once it is pruned.
    ///
    /// # Errors
    /// What the store says.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn view(&self) -> Result<Option<JobView>, StoreError> {
        Ok(self.link.store.get(vec![self.id]).await?.pop().flatten())
    }

    /// Cancels the job. One that runs is asked to end, and is `running` until it has.
    ///
    /// # Errors
    /// [`JobError::Unknown`], or what the store says.
    ///
    /// # Cancel safety
    /// A dropped call may have cancelled the job.
    pub async fn cancel(&self) -> Result<StateName, JobError> {
        let changed = self.link.store.cancel(vec![self.id]).await?;
        match changed.first() {
            Some(Changed::Now(state)) => Ok(*state),
            // It has ended already: that is what was wanted.
            Some(Changed::Refused(taskloom_model::Refusal::WrongState { state })) => Ok(*state),
            _ => Err(JobError::Unknown { id: self.id }),
        }
    }
}

impl<T: DeserializeOwned + Send + 'static> IntoFuture for JobHandle<T> {
    type Output = Result<T, JobError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let mut waited = self.link.waiters.wait_for(&[self.id]).await?;
            let view = match waited.pop() {
                Some(waited) => waited.await.map_err(|_| StoreError::Closed)?,
                None => None,
            };
            result_of(self.id, view.map(|it| *it))
        })
    }
}

/// The result of an ended job.
pub(crate) fn result_of<T: DeserializeOwned>(
    id: JobId,
    view: Option<JobView>,
) -> Result<T, JobError> {
    let Some(view) = view else { return Err(JobError::Unknown { id }) };
    match view.state {
        StateName::Succeeded => {
            let text = view.result.as_ref().map_or("null", |it| it.get());
            serde_json::from_str(text)
                .map_err(|error| JobError::Result { id, why: error.to_string() })
        }
        StateName::Cancelled => Err(JobError::Cancelled { id }),
        _ => Err(JobError::Failed {
            id,
            reason: view.reason.unwrap_or(taskloom_model::FailReason::Exhausted),
            error: view.error,
        }),
    }
}
