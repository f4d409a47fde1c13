//! The first stage, which pulls the inputs, and the one that makes batches.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::Cancellation;
use futures::{Stream, StreamExt as _, poll};
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep_until};

use super::Failure;
use super::line::{Aborted, Entry, Finished, KeyOf, Sender, Taker};
use super::meter::{Chunk, Meter, Pace, Tally};
use super::run::Shared;
use crate::{Panicked, catch_panic, catch_panic_blocking};

/// Pulls inputs while there is room for them, until they end or it is told to stop.
pub(super) struct Source<T: Send> {
    pub(super) output: Sender<T>,
    pub(super) meter: Arc<Meter>,
    pub(super) shared: Arc<Shared>,
    pub(super) pace: Pace,
}

impl<T: Send> Source<T> {
    pub(super) async fn run(mut self, inputs: impl Stream<Item = T>, stop: Cancellation) {
        let mut inputs = pin!(inputs);
        let key_of = self.output.key_of();
        let mut batch = Vec::new();
        let mut is_open = true;
        while is_open && !stop.is_cancelled() {
            consume_budget().await;
            let began = self.shared.clock.now();
            is_open = self.gather(inputs.as_mut(), key_of.as_ref(), &mut batch).await;
            let now = self.shared.clock.now();
            if batch.is_empty() && is_open {
                let input = tokio::select! {
                    biased;
                    _ = stop.cancelled() => return,
                    input = catch_panic(inputs.next()) => input,
                };
                is_open = self.add(input, key_of.as_ref(), &mut batch);
            } else {
                self.pace.learn(batch.len(), now.saturating_sub(began));
            }
            if self.pass_on(&mut batch, now.saturating_sub(began)).await.is_err() {
                return;
            }
        }
    }

    /// Takes the inputs that are there already, up to a chunk; `false` when they have ended.
    async fn gather(
        &self,
        mut inputs: Pin<&mut impl Stream<Item = T>>,
        key_of: Option<&KeyOf<T>>,
        batch: &mut Vec<Entry<T>>,
    ) -> bool {
        while batch.len() < self.pace.n() {
            let Poll::Ready(input) = poll!(catch_panic(inputs.next())) else { return true };
            if !self.add(input, key_of, batch) {
                return false;
            }
        }
        true
    }

    /// Adds an input to the batch; `false` when there was none, and there will be none any more.
    fn add(
        &self,
        input: Result<Option<T>, Panicked>,
        key_of: Option<&KeyOf<T>>,
        batch: &mut Vec<Entry<T>>,
    ) -> bool {
        let fault = match input {
            Ok(None) => return false,
            Ok(Some(value)) => match catch_panic_blocking(|| key_of.map_or(0, |it| it(&value))) {
                Ok(tag) => {
                    batch.push(Entry { tag, at: 0, value });
                    return true;
                }
                Err(panicked) => panicked,
            },
            Err(panicked) => {
                // A stream that panicked may not be polled again.
                self.fail(panicked);
                return false;
            }
        };
        self.fail(fault);
        true
    }

    fn fail(&self, panicked: Panicked) {
        let mut tally = Tally { n_in: 1, n_errors: 1, n_panics: 1, ..Tally::default() };
        self.meter.tell(&mut tally, 0, 0);
        self.shared.report(self.meter.name(), Failure::Panicked(panicked));
    }

    async fn pass_on(&self, batch: &mut Vec<Entry<T>>, busy: u64) -> Result<(), Aborted> {
        let now = self.shared.clock.now();
        for entry in batch.iter_mut() {
            entry.at = now;
        }
        let n = batch.len() as u64;
        let mut tally = Tally { n_in: n, n_out: n, ..Tally::default() };
        self.meter.tell(&mut tally, now, busy);
        self.output.send(batch).await
    }
}

/// Makes batches of `n_max` items, or of those that came within `delay_max` of the first.
pub(super) struct Batcher<T: Send> {
    pub(super) input: Taker<T>,
    pub(super) output: Sender<Vec<T>>,
    pub(super) meter: Arc<Meter>,
    pub(super) shared: Arc<Shared>,
    pub(super) n_max: usize,
    pub(super) delay_max: Option<Duration>,
}

impl<T: Send> Batcher<T> {
    pub(super) async fn run(self) {
        let mut batch = Vec::new();
        let mut due = Instant::now();
        let mut chunk = Chunk::new();
        let mut finished = Finished::default();
        let mut tally = Tally::default();
        loop {
            consume_budget().await;
            let n_missing = self.n_max - batch.len();
            let taken = self.input.take(&mut chunk, n_missing, &mut finished);
            let is_open = match self.delay_max {
                Some(_) if !batch.is_empty() => tokio::select! {
                    biased;
                    is_open = taken => is_open,
                    () = sleep_until(due) => true,
                },
                Some(_) | None => taken.await,
            };
            let is_due = chunk.is_empty();
            if batch.is_empty() {
                due = Instant::now() + self.delay_max.unwrap_or_default();
            }
            // They have left the line: a batch may be larger than that.
            tally.n_in += chunk.len() as u64;
            for entry in chunk.drain(..) {
                self.input.finish(entry.tag, &mut finished);
                tally.time(entry.at);
                batch.push(entry.value);
            }
            if (batch.len() == self.n_max || is_due) && !batch.is_empty() {
                let now = self.shared.clock.now();
                tally.n_out += 1;
                self.meter.tell(&mut tally, now, 0);
                let value = std::mem::take(&mut batch);
                let mut passed_on = vec![Entry { tag: 0, at: now, value }];
                if self.output.send(&mut passed_on).await.is_err() {
                    return;
                }
            }
            if !is_open {
                return;
            }
        }
    }
}
