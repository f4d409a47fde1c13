//! Where calls wait for the thread that does them: a queue whose readers sleep without spinning, so
//! that an idle store costs next to nothing. Its bound is kept by its senders, by permits.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

#[derive(Debug)]
pub(crate) struct Inbox<T> {
    queue: Mutex<Queue<T>>,
    arrived: Condvar,
}

#[derive(Debug)]
struct Queue<T> {
    items: VecDeque<T>,
    is_closed: bool,
}

/// What a wait has brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// Items were taken.
    Some,
    /// Nothing came in time.
    Nothing,
    /// Nothing will come any more.
    Closed,
}

impl<T> Inbox<T> {
    pub(crate) fn new() -> Self {
        let queue = Queue { items: VecDeque::new(), is_closed: false };
        Inbox { queue: Mutex::new(queue), arrived: Condvar::new() }
    }

    /// Puts an item in. Gives it back once the inbox is closed.
    pub(crate) fn put(&self, item: T) -> Result<(), T> {
        let mut queue = self.queue.lock();
        if queue.is_closed {
            return Err(item);
        }
        queue.items.push_back(item);
        self.arrived.notify_one();
        Ok(())
    }

    /// Takes nothing more in. What is in it is still taken out.
    pub(crate) fn close(&self) {
        self.queue.lock().is_closed = true;
        self.arrived.notify_all();
    }

    /// Moves at most `n_max` items to `taken`, waiting up to `patience` for the first.
    pub(crate) fn take(
        &self,
        n_max: usize,
        patience: Duration,
        taken: &mut impl Extend<T>,
    ) -> Arrived {
        let deadline = Instant::now() + patience;
        let mut queue = self.queue.lock();
        while queue.items.is_empty() {
            if queue.is_closed {
                return Arrived::Closed;
            }
            if self.arrived.wait_until(&mut queue, deadline).timed_out() {
                break;
            }
        }
        if queue.items.is_empty() {
            return Arrived::Nothing;
        }
        let n = queue.items.len().min(n_max);
        taken.extend(queue.items.drain(..n));
        Arrived::Some
    }

    /// Moves at most `n_max` items to `taken`, without waiting.
    pub(crate) fn take_now(&self, n_max: usize, taken: &mut impl Extend<T>) {
        let mut queue = self.queue.lock();
        let n = queue.items.len().min(n_max);
        taken.extend(queue.items.drain(..n));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: Duration = Duration::ZERO;

    #[test]
    fn items_come_out_in_order_and_not_too_many_at_once() {
        let inbox = Inbox::new();
        (0..5).for_each(|it| inbox.put(it).unwrap());
        let mut taken = Vec::new();
        assert_eq!(inbox.take(3, AT_ONCE, &mut taken), Arrived::Some);
        assert_eq!(taken, [0, 1, 2]);
        assert_eq!(inbox.take(3, AT_ONCE, &mut taken), Arrived::Some);
        assert_eq!(taken, [0, 1, 2, 3, 4]);
        assert_eq!(inbox.take(3, AT_ONCE, &mut taken), Arrived::Nothing);
    }

    #[test]
    fn a_closed_inbox_gives_out_what_it_holds_and_takes_nothing_more() {
        let inbox = Inbox::new();
        inbox.put(1).unwrap();
        inbox.close();
        assert_eq!(inbox.put(2), Err(2));
        let mut taken = Vec::new();
        assert_eq!(inbox.take(9, AT_ONCE, &mut taken), Arrived::Some);
        assert_eq!(taken, [1]);
        assert_eq!(inbox.take(9, AT_ONCE, &mut taken), Arrived::Closed);
    }
}
