//! What a worker has ready to move on; in order, once all that came before has.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::line::{Aborted, Entry, Finished, KeyOf, Sender, Taker};

/// The outputs of one worker on their way to the next line.
pub(super) struct Outbox<U: Send> {
    /// `None` after the last stage: its outputs go nowhere.
    to: Option<Sender<U>>,
    key_of: Option<KeyOf<U>>,
    pub(super) batch: Vec<Entry<U>>,
    /// In order, with several workers.
    in_turn: Option<InTurn<U>>,
}

struct InTurn<U> {
    shared: Arc<Reorder<U>>,
    /// Finished and not delivered yet. The batch of the last one is still in the outbox.
    runs: Vec<Run<U>>,
}

/// The outputs of `n` inputs in a row, from number `first` on.
struct Run<U> {
    first: u64,
    n: usize,
    outputs: Vec<Entry<U>>,
}

/// Where the workers of one stage bring their outputs into the order of their inputs. It is
/// bounded by the line, in which each input holds its place until its outputs have moved on.
pub(super) struct Reorder<U> {
    state: Mutex<ReorderState<U>>,
}

struct ReorderState<U> {
    /// The number of the input whose outputs move on next.
    due: u64,
    runs: BTreeMap<u64, Run<U>>,
    /// A worker is moving outputs on; the others leave theirs here for it.
    moving: bool,
}

impl<U> Reorder<U> {
    pub(super) fn new() -> Arc<Self> {
        let state = ReorderState { due: 0, runs: BTreeMap::new(), moving: false };
        Arc::new(Reorder { state: Mutex::new(state) })
    }

    /// Leaves `runs` here; `true` when the caller must move on what is due.
    fn leave(&self, runs: &mut Vec<Run<U>>) -> bool {
        let mut state = self.state.lock();
        state.runs.extend(runs.drain(..).map(|run| (run.first, run)));
        let must_move = !state.moving && state.runs.contains_key(&state.due);
        state.moving |= must_move;
        must_move
    }

    /// Takes what is due, and of how many inputs it is; 0 ends the caller's duty.
    fn take_due(&self, batch: &mut Vec<Entry<U>>) -> usize {
        let mut state = self.state.lock();
        let mut n = 0;
        let mut due = state.due;
        while let Some(run) = state.runs.remove(&due) {
            n += run.n;
            due += run.n as u64;
            batch.extend(run.outputs);
        }
        state.due = due;
        state.moving = 0 < n;
        n
    }
}

impl<U: Send> Outbox<U> {
    pub(super) fn new(to: Option<Sender<U>>, reorder: Option<Arc<Reorder<U>>>) -> Self {
        let key_of = to.as_ref().and_then(Sender::key_of);
        let reorder = reorder.filter(|_| to.is_some());
        let in_turn = reorder.map(|shared| InTurn { shared, runs: Vec::new() });
        Outbox { to, key_of, batch: Vec::new(), in_turn }
    }

    /// Adds outputs of the input tagged `tag`.
    pub(super) fn add(&mut self, tag: u64, outputs: impl IntoIterator<Item = U>) {
        let key_of = self.key_of.as_ref();
        self.batch.extend(outputs.into_iter().map(|value| {
            let tag = key_of.map_or(tag, |it| it(&value));
            Entry { tag, at: 0, value }
        }));
    }

    /// Notes that the input numbered `number` gave all its outputs: those since `n_before`.
    pub(super) fn finish(&mut self, number: u64, n_before: usize) {
        let Some(in_turn) = &mut self.in_turn else { return };
        match in_turn.runs.last_mut() {
            Some(run) if run.first + run.n as u64 == number => run.n += 1,
            last => {
                let rest = self.batch.split_off(n_before);
                let ended = std::mem::replace(&mut self.batch, rest);
                if let Some(last) = last {
                    last.outputs = ended;
                }
                in_turn.runs.push(Run { first: number, n: 1, outputs: Vec::new() });
            }
        }
    }

    /// Moves on what is ready, stamped `now`, and gives back the places of what has moved.
    ///
    /// `finished` holds the inputs of what is in here; in order, whoever moves the outputs on
    /// gives back the places.
    pub(super) async fn deliver<T: Send>(
        &mut self,
        now: u64,
        input: &Taker<T>,
        finished: &mut Finished,
    ) -> Result<(), Aborted> {
        for entry in &mut self.batch {
            entry.at = now;
        }
        let Some(to) = &self.to else {
            self.batch.clear();
            return Ok(());
        };
        let Some(in_turn) = &mut self.in_turn else { return to.send(&mut self.batch).await };
        finished.n = 0;
        let Some(last) = in_turn.runs.last_mut() else { return Ok(()) };
        last.outputs = std::mem::take(&mut self.batch);
        if !in_turn.shared.leave(&mut in_turn.runs) {
            return Ok(());
        }
        loop {
            let n = in_turn.shared.take_due(&mut self.batch);
            if n == 0 {
                return Ok(());
            }
            let mut moved = Finished::places(n);
            to.send(&mut self.batch).await?;
            input.release(&mut moved);
        }
    }
}
