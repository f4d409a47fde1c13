//! The ledger of attempts: which bodies run where, as the bodies themselves tell it, and what
//! their nodes had heard by then.

use taskloom_model::NodeId;
use taskloom_store::Claimed;

use crate::book::{Body, Book, GRACE, LeaseEnd, SLACK, Said};

impl Book {
    /// A node hears of what it has claimed.
    pub(crate) fn deliver(&mut self, view: usize, claimed: &[Claimed]) {
        for it in claimed {
            let (key, fence) = (it.id.key(), it.fence.0);
            if let Some(lease) = self.leases.get_mut(&(key, fence)) {
                lease.is_delivered = true;
            }
            self.tell(&format!("  program {view} has job {key}, fence {fence}"));
        }
    }

    /// A node hears that it was taken for dead: what it runs must end.
    pub(crate) fn hear_evicted(&mut self, view: usize, node: NodeId) {
        self.summary.n_evicted += 1;
        self.end_bodies(view, |it| it == node);
    }

    /// A node hears of its id; what it ran under another one must end.
    pub(crate) fn hear_registered(&mut self, view: usize, node: NodeId) {
        self.views.entry(view).or_default().node = Some(node);
        self.end_bodies(view, |it| it != node);
    }

    fn end_bodies(&mut self, view: usize, of: impl Fn(NodeId) -> bool) {
        let by = self.elapsed() + GRACE + SLACK;
        let leases = self.leases.values_mut();
        for lease in leases.filter(|it| it.view == view && of(it.node) && it.body == Body::Open) {
            lease.body_ends_by = Some(lease.body_ends_by.map_or(by, |it| it.min(by)));
        }
    }

    /// A body begins.
    pub(crate) fn begin(&mut self, view: usize, key: u64, fence: u64) {
        self.summary.n_begun += 1;
        self.tell(&format!("  program {view} begins job {key}, fence {fence}"));
        let now = self.elapsed();
        let Some(lease) = self.leases.get_mut(&(key, fence)) else {
            self.promise(false, || format!("job {key} begins under fence {fence}, never given"));
            return;
        };
        let before = lease.clone();
        (lease.body, lease.begun) = (Body::Open, now);
        let node = before.node;
        self.promise(before.view == view && before.is_delivered, || {
            format!("program {view} begins job {key}, claimed by program {}", before.view)
        });
        self.promise(before.body == Body::NotBegun, || {
            format!("job {key} begins twice under fence {fence}")
        });
        let knows_better = self.views.get(&view).is_some_and(|it| it.node != Some(node));
        let may = match before.end {
            None => true,
            Some(LeaseEnd::Lost) => !knows_better,
            Some(LeaseEnd::Recorded(_) | LeaseEnd::Released) => false,
        };
        self.promise(may, || {
            format!("job {key} begins under fence {fence}, which ended: {:?}", before.end)
        });
        let (n_open, n_slots) =
            (self.n_open(view), self.views.get(&view).map_or(0, |it| it.n_slots));
        self.promise(n_open <= n_slots, || {
            format!("program {view} runs {n_open} attempts in {n_slots} slots")
        });
        // Others may run only where a lease was lost and nobody could tell them yet.
        let other = self.leases.range((key, 0)..(key + 1, 0)).find(|((_, other), it)| {
            *other != fence && it.body == Body::Open && it.end != Some(LeaseEnd::Lost)
        });
        let other = other.map(|((_, other), _)| *other).filter(|_| before.end.is_none());
        self.promise(other.is_none(), || {
            format!("job {key} has two owners: fences {fence} and {other:?}")
        });
    }

    /// A body ends.
    pub(crate) fn body_ended(&mut self, key: u64, fence: u64, said: Said) {
        self.tell(&format!("  job {key}, fence {fence}, ends: {said:?}"));
        if let Some(lease) = self.leases.get_mut(&(key, fence)) {
            lease.body = Body::Ended(said);
        }
    }

    /// Bodies whose nodes know that their lease is lost end soon.
    pub(crate) fn check_bodies(&mut self) {
        let now = self.elapsed();
        let late = self
            .leases
            .iter()
            .find(|(_, it)| it.body == Body::Open && it.body_ends_by.is_some_and(|by| by < now));
        let late = late.map(|(&it, _)| it);
        self.promise(late.is_none(), || {
            format!("(job, fence) {late:?} runs on, though its node knows that the lease is lost")
        });
    }

    /// A program is gone, and nothing of it may run on.
    pub(crate) fn check_silent(&mut self, view: usize) {
        let open = self.leases.iter().find(|(_, it)| it.view == view && it.body == Body::Open);
        let open = open.map(|(&it, _)| it);
        self.promise(open.is_none(), || format!("program {view} is gone and runs {open:?}"));
    }
}
