//! The life of one worker of a stage: take a chunk, call the function with each item, move on
//! what is ready.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use futures::future::join;
use futures::poll;
use tokio::task::coop::consume_budget;

use super::line::{Aborted, Entry, Finished, Taker};
use super::meter::{Chunk, Meter, Pace, Tally};
use super::outbox::Outbox;
use super::run::Shared;
use super::{BoxError, Failure};
use crate::{Panicked, catch_panic, catch_panic_blocking};

pub(super) struct Worker<T: Send, U: Send> {
    pub(super) input: Taker<T>,
    pub(super) outbox: Outbox<U>,
    pub(super) meter: Arc<Meter>,
    pub(super) shared: Arc<Shared>,
    pub(super) pace: Pace,
    /// Others work on the same line.
    pub(super) has_peers: bool,
}

/// What a worker has in hand.
struct Hand<T> {
    /// Taken and not begun.
    chunk: Chunk<T>,
    /// Ended, with places to give back.
    finished: Finished,
    tally: Tally,
}

impl<T: Send, U: Send> Worker<T, U> {
    /// Works until the line ends, or the pipeline.
    pub(super) async fn run<F, Fut, I, E>(mut self, f: Arc<F>)
    where
        F: Fn(T) -> Fut,
        Fut: Future<Output = Result<I, E>>,
        I: IntoIterator<Item = U>,
        E: Into<BoxError>,
    {
        let (finished, tally) = (Finished::default(), Tally::default());
        let mut hand = Hand { chunk: Chunk::new(), finished, tally };
        while self.input.take(&mut hand.chunk, self.pace.n(), &mut hand.finished).await {
            // Lines that are never empty would keep the thread from others.
            consume_budget().await;
            if self.work_off(&mut hand, &*f).await.is_err() {
                return;
            }
        }
    }

    async fn work_off<F, Fut, I, E>(&mut self, hand: &mut Hand<T>, f: &F) -> Result<(), Aborted>
    where
        F: Fn(T) -> Fut,
        Fut: Future<Output = Result<I, E>>,
        I: IntoIterator<Item = U>,
        E: Into<BoxError>,
    {
        let mut began = self.shared.clock.now();
        let mut n_done = 0;
        let mut waited = false;
        while let Some(Entry { tag, at, value }) = hand.chunk.pop_front() {
            hand.tally.n_in += 1;
            let mut call = pin!(catch_panic(async { f(value).await }));
            let ended = match poll!(call.as_mut()) {
                Poll::Ready(ended) => ended,
                Poll::Pending => {
                    waited = true;
                    if self.has_peers {
                        self.input.give_back(&mut hand.chunk);
                    }
                    let now = self.shared.clock.now();
                    self.meter.tell(&mut hand.tally, now, now.saturating_sub(began));
                    began = now;
                    // Both at once: a full line ahead does not hold up the call.
                    let (ended, delivered) = join(call, self.deliver_done(hand, began)).await;
                    delivered?;
                    ended
                }
            };
            self.settle(hand, tag, ended);
            hand.tally.time(at);
            n_done += 1;
        }
        let now = self.shared.clock.now();
        if waited && self.has_peers {
            self.pace.slow_down();
        } else {
            self.pace.learn(n_done, now.saturating_sub(began));
        }
        self.meter.tell(&mut hand.tally, now, now.saturating_sub(began));
        self.outbox.deliver(now, &self.input, &mut hand.finished).await
    }

    async fn deliver_done(&mut self, hand: &mut Hand<T>, now: u64) -> Result<(), Aborted> {
        self.outbox.deliver(now, &self.input, &mut hand.finished).await?;
        // Now, and not with the next chunk: the call in hand may take long.
        self.input.release(&mut hand.finished);
        Ok(())
    }

    /// Puts what became of an item in its place: the outbox, or the failures.
    fn settle<I, E>(&mut self, hand: &mut Hand<T>, tag: u64, ended: Result<Result<I, E>, Panicked>)
    where
        I: IntoIterator<Item = U>,
        E: Into<BoxError>,
    {
        let n_before = self.outbox.batch.len();
        let fault = match ended {
            // The outputs may be an iterator of the user's, the key a function of theirs.
            Ok(Ok(outputs)) => {
                catch_panic_blocking(|| self.outbox.add(tag, outputs)).err().map(Failure::Panicked)
            }
            Ok(Err(error)) => Some(Failure::Error(error.into())),
            Err(panicked) => Some(Failure::Panicked(panicked)),
        };
        if let Some(fault) = fault {
            self.outbox.batch.truncate(n_before);
            hand.tally.n_errors += 1;
            hand.tally.n_panics += u64::from(matches!(fault, Failure::Panicked(_)));
            self.shared.report(self.meter.name(), fault);
        }
        hand.tally.n_out += (self.outbox.batch.len() - n_before) as u64;
        self.outbox.finish(tag, n_before);
        self.input.finish(tag, &mut hand.finished);
    }
}
