//! What the store holds, beside what it has told: every job, its attempts, its result, the counts.

use std::collections::BTreeMap;

use taskloom_model::{JobId, StateName};
use taskloom_store::{AttemptView, JobView, Store, StoreError};

use crate::book::{Book, LeaseEnd, Record, SharedBook};
use crate::script::result_of;

/// Compares the store with the book.
pub(crate) async fn compare(store: &dyn Store, book: &SharedBook) -> Result<(), StoreError> {
    let ids: Vec<JobId> = book.lock().jobs.values().map(|it| it.id).collect();
    let views = store.get(ids.clone()).await?;
    for (id, view) in ids.iter().zip(views) {
        let mut attempts = Vec::new();
        if view.as_ref().is_some_and(|it| it.state.is_ended()) {
            attempts = store.attempts(*id).await?;
        }
        let mut book = book.lock();
        match view {
            Some(view) => book.check_view(&view, &attempts),
            None => book.promise(false, || format!("job {} is lost", id.key())),
        }
    }
    let mut counts: BTreeMap<(String, String, StateName), u64> = BTreeMap::new();
    for it in store.counts().await? {
        if 0 < it.n {
            counts.insert((it.queue.to_string(), it.task.to_string(), it.state), it.n);
        }
    }
    let breaches = store.verify().await?;
    let mut book = book.lock();
    book.promise(breaches.is_empty(), || format!("the store is wrong: {breaches:?}"));
    let mut known = BTreeMap::new();
    for it in book.jobs.values() {
        *known.entry((it.queue.clone(), it.task.clone(), it.state)).or_default() += 1;
    }
    book.promise(counts == known, || format!("the counts are {counts:?}, not {known:?}"));
    Ok(())
}

impl Book {
    fn check_view(&mut self, view: &JobView, attempts: &[AttemptView]) {
        let key = view.id.key();
        let Some(job) = self.jobs.get(&key).cloned() else { return };
        let used = (view.attempts, view.crashes, view.snoozes, view.fence.0);
        let known = (job.attempts, job.crashes, job.snoozes, job.fence);
        self.promise(view.state == job.state && used == known, || {
            format!(
                "job {key} is {}, with attempts, crashes, snoozes, fence {used:?}; told was {}, \
                 {known:?}",
                view.state, job.state
            )
        });
        self.promise(view.cancel_requested == job.cancel_requested, || {
            format!("job {key}: its wish to cancel is {}", view.cancel_requested)
        });
        self.promise(job.state.is_ended() || view.due == job.due, || {
            format!("job {key} is due at {:?}, not {:?}", view.due, job.due)
        });
        let n_waits = u32::try_from(job.waits.len()).ok().filter(|_| view.n_unfinished.is_some());
        self.promise(view.n_unfinished == n_waits, || {
            format!("job {key} waits for {:?} jobs, not {n_waits:?}", view.n_unfinished)
        });
        if job.state.is_ended() {
            self.check_attempts(key, &job, attempts);
            self.check_result(key, &job, view);
        }
    }

    /// Each lease has left one record, but those that were given back.
    fn check_attempts(&mut self, key: u64, job: &Record, attempts: &[AttemptView]) {
        let recorded: Vec<(u64, &str, u32)> =
            attempts.iter().map(|it| (it.fence.0, it.outcome, it.attempt)).collect();
        let leases = self.leases.range((key, 0)..(key + 1, 0));
        let ended = leases.filter_map(|(&(_, fence), it)| match it.end {
            Some(LeaseEnd::Recorded(word)) => Some((fence, word, it.attempt)),
            Some(LeaseEnd::Lost) => Some((fence, "lost", it.attempt)),
            Some(LeaseEnd::Released) | None => None,
        });
        let ended: Vec<_> = ended.collect();
        self.promise(recorded == ended, || {
            format!("the attempts of job {key} are {recorded:?}, not {ended:?}")
        });
        let max = job.rules.retry.max_attempts;
        self.promise(job.attempts <= max, || format!("job {key} used more than {max} attempts"));
    }

    /// The result is that of the attempt under the last fence.
    fn check_result(&mut self, key: u64, job: &Record, view: &JobView) {
        let result = view.result.as_ref().map(|it| it.get().to_owned());
        let expected = (job.state == StateName::Succeeded).then(|| result_of(key, job.fence));
        self.promise(result == expected, || {
            format!("the result of job {key} is {result:?}, not {expected:?}")
        });
    }
}
