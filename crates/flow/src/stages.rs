//! Pipelines: inputs that pass through stages, each with its own workers and a bounded line in
//! front of it.
//!
//! # Invariants
//! - Each line holds at most `queue` items, those in work and those kept for the order included;
//!   a full line holds up the stages before it, and in the end the source.
//! - An item leaves the pipeline once, at its end or as a failure; none is lost unless the pipeline
//!   is dropped or fails fast.
//! - Items move on in chunks when that is cheaper, and none waits for a chunk to fill.

mod line;
mod meter;
mod outbox;
mod run;
mod source;
mod worker;

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, ready};
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::Arc;
use std::time::Duration;

use crate::Cancellation;
use futures::stream::unfold;
use futures::{StreamExt as _, TryFutureExt as _};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

pub use meter::StageStats;
pub use run::{StageFailures, StagesReport, StagesRun, StagesStream};

use crate::{BoxError, Failure, Inputs, Offload, TaskGroup};
use line::{AnyLine, Entry, Finished, Line, Order};
use meter::{Meter, Pace};
use outbox::{Outbox, Reorder};
use run::Shared;
use source::{Batcher, Source};
use worker::Worker;

/// How many items a line holds unless told otherwise: some chunks for every worker.
const QUEUE_DEFAULT: usize = 1_024;
/// How many failures wait to be read. The first ones tell most; the rest is counted.
const FAILURES_MAX: usize = 1_024;

/// An item that a stage lost to an error or a panic.
#[derive(Debug, thiserror::Error)]
#[error("stage `{stage}`: {fault}")]
pub struct StageFailure {
    /// The name of the stage.
    pub stage: &'static str,
    /// What went wrong.
    pub fault: Failure,
}

/// A pipeline in the making: a source, then stages, then [`for_each`](Stages::for_each) or
/// [`into_stream`](Stages::into_stream), which start it.
///
/// Every stage has a name, a number of workers, and a function that returns a `Result`; any error
/// will do that `?` turns into a `Box<dyn Error + Send + Sync>`. An error or a panic costs its item
/// and no other: it is counted and goes to [`StagesRun::failures`], unless
/// [`fail_fast`](Stages::fail_fast) is asked for.
///
/// [`queue`](Stages::queue), [`in_order`](Stages::in_order) and [`by_key`](Stages::by_key) hold for
/// the stages that follow them; without the latter two, items pass each other.
///
/// ```
/// use std::convert::Infallible;
/// use futures::StreamExt;
/// use taskloom_flow::Stages;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let fetch = |id: u32| async move {
///     let page = if id == 3 { "gone".to_owned() } else { format!("{id}0") };
///     Ok::<_, Infallible>(page)
/// };
/// let mut numbers = Stages::from(1..=5)
///     .in_order()
///     .map("fetch", 8, fetch)
///     .cpu("parse", 2, |page| page.parse::<u32>())
///     .batch(2)
///     .into_stream();
/// let batches: Vec<Vec<u32>> = numbers.by_ref().collect().await;
/// assert_eq!(batches, [[10, 20], [40, 50]]);
///
/// let report = numbers.finish().await.unwrap();
/// assert_eq!(report.stages[2].name, "parse");
/// assert_eq!(report.stages[2].n_errors, 1);
/// assert_eq!(report.failures[0].to_string(), "stage `parse`: invalid digit found in string");
/// # }
/// ```
#[must_use = "a pipeline starts with `for_each` or `into_stream`"]
pub struct Stages<T> {
    upstream: Upstream<T>,
    order: Order<T>,
    queue: usize,
    fail_fast: bool,
}

/// Starts all stages so far, with the line that they are to fill.
type Upstream<T> = Box<dyn FnOnce(Arc<Line<T>>, &mut Launch) + Send>;

/// What a pipeline is started with.
struct Launch {
    group: TaskGroup,
    shared: Arc<Shared>,
    stop: Cancellation,
    meters: Vec<Arc<Meter>>,
}

/// The workers of a stage.
#[derive(Clone, Copy)]
struct Crew {
    name: &'static str,
    n_workers: usize,
    /// On threads of their own, and not on the runtime.
    on_threads: bool,
}

impl Crew {
    fn new(name: &'static str, n_workers: usize) -> Self {
        Crew { name, n_workers: n_workers.max(1), on_threads: false }
    }

    fn on_threads(name: &'static str, n_threads: usize) -> Self {
        Crew { on_threads: true, ..Crew::new(name, n_threads) }
    }
}

impl<T> fmt::Debug for Stages<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stages")
            .field("queue", &self.queue)
            .field("fail_fast", &self.fail_fast)
            .finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Stages<T> {
    /// A pipeline fed by a stream or an iterator, which is pulled while there is room. Its stage
    /// is called `source`; a panic of it counts as an error and as its end.
    pub fn from<K, I>(inputs: I) -> Self
    where
        I: Inputs<K, Item = T>,
        I::Stream: Send + 'static,
    {
        let inputs = inputs.into_inputs();
        let upstream = move |output: Arc<Line<T>>, launch: &mut Launch| {
            let meter = launch.meter::<T>("source", None);
            let pace = Pace::new(output.capacity, 1);
            let shared = Arc::clone(&launch.shared);
            let source = Source { output: output.sender(), meter, shared, pace };
            let stop = launch.stop.clone();
            launch.group.spawn("source", source.run(inputs, stop));
        };
        let upstream = Box::new(upstream);
        Stages { upstream, order: Order::Any, queue: QUEUE_DEFAULT, fail_fast: false }
    }

    /// How many items may be in front of and inside each stage that follows: 1,024 by default. At
    /// least one for each worker.
    pub fn queue(mut self, n_max: usize) -> Self {
        self.queue = n_max.max(1);
        self
    }

    /// The stages that follow pass items on in the order they got them. A slow item then holds up
    /// those after it, though not their work, as far as `queue` reaches.
    pub fn in_order(mut self) -> Self {
        self.order = Order::Fifo;
        self
    }

    /// The stages that follow keep the items of one key in order and work on one of them at a time;
    /// different keys pass each other. What a stage makes of an item has that item's key.
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use taskloom_flow::Stages;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let orders = [("anna", 1), ("bert", 1), ("anna", 2), ("bert", 2)];
    /// let book = |(_customer, _order)| async move { Ok::<_, Infallible>(()) };
    /// let run = Stages::from(orders).by_key(|order| order.0).for_each("book", 8, book);
    /// assert_eq!(run.join().await.unwrap().stages[1].n_out, 4);
    /// # }
    /// ```
    pub fn by_key<H: Hash>(mut self, key: impl Fn(&T) -> H + Send + Sync + 'static) -> Self {
        let hasher = RandomState::new();
        self.order = Order::ByKey(Some(Arc::new(move |item| hasher.hash_one(key(item)))));
        self
    }

    /// No order for the stages that follow: the fastest, and the default.
    pub fn in_any_order(mut self) -> Self {
        self.order = Order::Any;
        self
    }

    /// The first error or panic, of any stage, ends the pipeline at once: what is on its way is
    /// dropped, and [`StagesRun::join`] returns the failure.
    pub fn fail_fast(mut self) -> Self {
        self.fail_fast = true;
        self
    }

    /// A stage of `n_workers` routines, at least one, that call `f` with one item each.
    pub fn map<U, F, Fut, E>(self, name: &'static str, n_workers: usize, f: F) -> Stages<U>
    where
        U: Send + 'static,
        F: Fn(T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<U, E>> + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        self.stage(Crew::new(name, n_workers), move |item| f(item).map_ok(Some))
    }

    /// The same as [`Stages::map`], for functions that pass on only some items: `Ok(None)` is no
    /// error, and the item goes no further.
    pub fn filter_map<U, F, Fut, E>(self, name: &'static str, n_workers: usize, f: F) -> Stages<U>
    where
        U: Send + 'static,
        F: Fn(T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<U>, E>> + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        self.stage(Crew::new(name, n_workers), f)
    }

    /// The same as [`Stages::map`], for functions that make several items of one, such as a
    /// `Vec`. They all are in memory at a time, so the bound of the line does not hold for them.
    pub fn flat_map<I, F, Fut, E>(
        self,
        name: &'static str,
        n_workers: usize,
        f: F,
    ) -> Stages<I::Item>
    where
        I: IntoIterator<Item: Send + 'static> + Send + 'static,
        F: Fn(T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<I, E>> + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        self.stage(Crew::new(name, n_workers), f)
    }

    /// A stage for CPU-bound work, on `n_threads` threads of its own ([`Offload`]), at least one:
    /// the runtime is not held up.
    ///
    /// Dropping the pipeline lets a thread finish the item it is at.
    pub fn cpu<U, F, E>(self, name: &'static str, n_threads: usize, f: F) -> Stages<U>
    where
        U: Send + 'static,
        F: Fn(T) -> Result<U, E> + Send + Sync + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        self.stage(Crew::on_threads(name, n_threads), move |item| ready(f(item).map(Some)))
    }

    /// Makes batches of `n_max` items; the last may be smaller. 0 counts as 1. The stage is called
    /// `batch`.
    ///
    /// After [`by_key`](Stages::by_key) batches go on in order, for there are several keys in one.
    pub fn batch(self, n_max: usize) -> Stages<Vec<T>> {
        self.batches(n_max, None)
    }

    /// The same as [`Stages::batch`], for inputs that come now and then: a batch goes on at the
    /// latest `delay_max` after its first item.
    pub fn batch_or_after(self, n_max: usize, delay_max: Duration) -> Stages<Vec<T>> {
        self.batches(n_max, Some(delay_max))
    }

    /// Ends the pipeline with a stage of `n_workers` routines, at least one, that call `f` with
    /// one item each, and starts it.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn for_each<F, Fut, E>(self, name: &'static str, n_workers: usize, f: F) -> StagesRun
    where
        F: Fn(T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        let Stages { upstream, order, queue, fail_fast } = self;
        let f = move |item| f(item).map_ok(Some);
        start(fail_fast, |launch| {
            let line = launch.line(queue, n_workers, order, upstream);
            launch.workers(Crew::new(name, n_workers), &line, None, Arc::new(f));
        })
        .0
    }

    /// Starts the pipeline and gives its outputs as a stream.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn into_stream(self) -> StagesStream<T> {
        let Stages { upstream, order, queue, fail_fast } = self;
        let (run, taker) =
            start(fail_fast, |launch| launch.line(queue, 1, order, upstream).taker());
        let ready = (taker, VecDeque::new(), Finished::default());
        let items = unfold(ready, |(taker, mut chunk, mut finished)| async move {
            if chunk.is_empty() && !taker.take(&mut chunk, Pace::N_MAX, &mut finished).await {
                return None;
            }
            let Entry { tag, value, .. } = chunk.pop_front()?;
            taker.finish(tag, &mut finished);
            Some((value, (taker, chunk, finished)))
        });
        StagesStream::new(items.fuse().boxed(), run)
    }

    fn stage<I, F, Fut, E>(self, crew: Crew, f: F) -> Stages<I::Item>
    where
        I: IntoIterator<Item: Send + 'static>,
        F: Fn(T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<I, E>> + Send + 'static,
        I: Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        let Stages { upstream, order, queue, fail_fast } = self;
        let order_after = order.inherited();
        let upstream = Box::new(move |output: Arc<Line<I::Item>>, launch: &mut Launch| {
            let line = launch.line(queue, crew.n_workers, order, upstream);
            launch.workers(crew, &line, Some(&output), Arc::new(f));
        });
        Stages { upstream, order: order_after, queue, fail_fast }
    }

    fn batches(self, n_max: usize, delay_max: Option<Duration>) -> Stages<Vec<T>> {
        let Stages { upstream, order, queue, fail_fast } = self;
        let order_after = match &order {
            Order::Any => Order::Any,
            Order::Fifo | Order::ByKey(_) => Order::Fifo,
        };
        let upstream = Box::new(move |output: Arc<Line<Vec<T>>>, launch: &mut Launch| {
            let line = launch.line(queue, 1, order, upstream);
            let meter = launch.meter("batch", Some(&line));
            let shared = Arc::clone(&launch.shared);
            let (input, output) = (line.taker(), output.sender());
            let n_max = n_max.max(1);
            let batcher = Batcher { input, output, meter, shared, n_max, delay_max };
            launch.group.spawn("batch", batcher.run());
        });
        Stages { upstream, order: order_after, queue, fail_fast }
    }
}

impl<T> Order<T> {
    /// The order of what a stage makes of such items.
    fn inherited<U>(&self) -> Order<U> {
        match self {
            Order::Any => Order::Any,
            Order::Fifo => Order::Fifo,
            Order::ByKey(_) => Order::ByKey(None),
        }
    }
}

/// Starts a pipeline with what `build` adds at its end.
fn start<R>(fail_fast: bool, build: impl FnOnce(&mut Launch) -> R) -> (StagesRun, R) {
    let (failures_in, failures) = mpsc::channel(FAILURES_MAX);
    let shared = Shared::new(fail_fast, failures_in);
    let stop = Cancellation::new();
    let mut launch = Launch { group: TaskGroup::isolated(), shared, stop, meters: Vec::new() };
    let built = build(&mut launch);
    let Launch { group, shared, stop, meters } = launch;
    (StagesRun::new(shared, group, stop, meters, failures), built)
}

impl Launch {
    /// Makes the line in front of a stage and starts all that fills it.
    fn line<T: Send + 'static>(
        &mut self,
        queue: usize,
        n_workers: usize,
        order: Order<T>,
        upstream: Upstream<T>,
    ) -> Arc<Line<T>> {
        let line = Line::new(queue.max(n_workers), order);
        self.shared.add_line(Arc::clone(&line) as Arc<dyn AnyLine>);
        upstream(Arc::clone(&line), self);
        line
    }

    fn meter<T: Send + 'static>(
        &mut self,
        name: &'static str,
        line: Option<&Arc<Line<T>>>,
    ) -> Arc<Meter> {
        let line = line.map(|it| Arc::clone(it) as Arc<dyn AnyLine>);
        let meter = Meter::new(name, line);
        self.meters.push(Arc::clone(&meter));
        meter
    }

    /// Starts the workers of a stage, between the line before it and the one after it.
    fn workers<T, I, F, Fut, E>(
        &mut self,
        crew: Crew,
        input: &Arc<Line<T>>,
        output: Option<&Arc<Line<I::Item>>>,
        f: Arc<F>,
    ) where
        T: Send + 'static,
        I: IntoIterator<Item: Send + 'static> + Send + 'static,
        F: Fn(T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<I, E>> + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        let Crew { name, n_workers, on_threads } = crew;
        let meter = self.meter(name, Some(input));
        let reorders = matches!(input.order, Order::Fifo) && 1 < n_workers;
        let reorder = reorders.then(Reorder::new);
        let threads = on_threads.then(|| Arc::new(Offload::with_backlog(name, n_workers, 0)));
        for _ in 0..n_workers {
            let worker = Worker {
                input: input.taker(),
                outbox: Outbox::new(output.map(Line::sender), reorder.clone()),
                meter: Arc::clone(&meter),
                shared: Arc::clone(&self.shared),
                pace: Pace::new(input.capacity, n_workers),
                has_peers: 1 < n_workers,
            };
            let work = worker.run(Arc::clone(&f));
            match &threads {
                None => drop(self.group.spawn(name, work)),
                Some(threads) => drop(self.group.spawn(name, on_thread(Arc::clone(threads), work))),
            }
        }
    }
}

/// Runs `work` on a thread, which follows the clock of this runtime.
async fn on_thread(threads: Arc<Offload>, work: impl Future<Output = ()> + Send + 'static) {
    let runtime = Handle::current();
    let ended = threads.run(move |_| {
        let _entered = runtime.enter();
        futures::executor::block_on(work);
    });
    if let Err(error) = ended.await {
        panic!("{error}");
    }
}

#[cfg(test)]
mod tests;
