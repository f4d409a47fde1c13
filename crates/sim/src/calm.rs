//! What must be true once nothing has gone wrong for a while: who is healthy works, and nothing
//! hangs. Faults may delay the work, and may not stop it.

use std::time::Duration;

use taskloom_model::StateName;

use crate::book::{Body, Book, Lease, Record};
use crate::weather::Rates;
use crate::world::World;

/// Longer than every wait of a node after errors, with a beat, a grace and a rescue behind it.
const CALM: Duration = Duration::from_secs(10);
/// How long a body may run on after its job was cancelled: a beat, and its grace.
const HEARS_MAX: Duration = Duration::from_secs(4);
/// How late a job may be made ready.
const LATE_MAX: Duration = Duration::from_secs(3);

impl World {
    /// Faults end, everybody wakes, some time passes; then all must be in order.
    pub(crate) async fn calm(&mut self) {
        self.tell("calm");
        self.ground.weather.set(Rates::default());
        self.wake(Duration::MAX);
        self.pass(CALM).await;
        let views: Vec<usize> =
            self.programs.iter().filter(|it| !it.is_draining).map(|it| it.view).collect();
        let mut book = self.ground.book.lock();
        book.check_nodes(&views);
        book.check_leases(&views);
        if !views.is_empty() {
            book.check_progress(&views);
        }
    }
}

impl Book {
    /// Healthy programs know that they were taken for dead, and have registered again.
    fn check_nodes(&mut self, views: &[usize]) {
        for view in views {
            let node = self.views.get(view).and_then(|it| it.node);
            let record = node.and_then(|it| self.nodes.get(&it));
            let is_known = record.is_some_and(|it| !it.is_gone);
            self.promise(is_known, || format!("program {view} is healthy and not registered"));
        }
    }

    fn current_leases(&self) -> Vec<(u64, Record, Lease)> {
        let running = self.jobs.iter().filter(|(_, it)| it.state == StateName::Running);
        let with_lease = running.filter_map(|(&key, it)| {
            let lease = self.leases.get(&(key, it.fence))?;
            Some((key, it.clone(), lease.clone()))
        });
        with_lease.collect()
    }

    /// How many bodies run at a program.
    pub(crate) fn n_open(&self, view: usize) -> usize {
        self.leases.values().filter(|it| it.view == view && it.body == Body::Open).count()
    }

    /// Healthy programs know what they have claimed, run it, and end what was cancelled.
    fn check_leases(&mut self, views: &[usize]) {
        for (key, job, lease) in self.current_leases() {
            let view = lease.view;
            if !views.contains(&view) {
                continue;
            }
            let fence = job.fence;
            let is_its_own = self.views.get(&view).is_some_and(|it| it.node == Some(lease.node));
            self.promise(!is_its_own || lease.is_delivered, || {
                format!(
                    "job {key}, fence {fence}, is claimed by program {view}, which lives and \
                         has never heard of it"
                )
            });
            let is_idle = lease.body == Body::NotBegun && self.n_open(view) == 0;
            self.promise(!is_its_own || !is_idle, || {
                format!("job {key}, fence {fence}, waits at program {view}, which is idle")
            });
            let is_over = matches!(lease.body, Body::Ended(_));
            self.promise(!is_its_own || !is_over, || {
                format!("job {key}, fence {fence}, has ended at program {view}, untold")
            });
            // It may have begun just now: the next beat tells it.
            let is_told = lease.begun + HEARS_MAX < self.elapsed();
            let hears = job.cancel_requested && lease.body == Body::Open && is_told;
            self.promise(!is_its_own || !hears, || {
                format!("job {key}, fence {fence}, was cancelled and runs on at program {view}")
            });
        }
    }

    /// Ready jobs are run, and due ones become ready.
    fn check_progress(&mut self, views: &[usize]) {
        let ready = self.jobs.iter().find(|(_, it)| it.state == StateName::Ready);
        let ready = ready.map(|(&key, _)| key);
        let idle = views.iter().find(|it| self.n_open(**it) == 0).copied();
        self.promise(ready.is_none() || idle.is_none(), || {
            format!("job {ready:?} is ready, and program {idle:?} idles")
        });
        let now = self.now();
        let late = self.jobs.iter().find(|(_, it)| {
            let is_due = it.due.is_some_and(|at| LATE_MAX < now.since(at));
            !it.state.is_ended() && is_due
        });
        let late = late.map(|(&key, _)| key);
        self.promise(late.is_none(), || format!("job {late:?} is due, and is not made ready"));
    }
}
