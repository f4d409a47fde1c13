//! The latest outcomes of calls, and whether they are reason enough to trip.
//!
//! # Invariants
//! - `n_failed` is the number of failures among `outcomes`, which are at most `n_window`.

use std::collections::VecDeque;

use super::BreakerTrip;

#[derive(Debug)]
pub(super) struct Window {
    trip: BreakerTrip,
    /// Whether each of the latest calls failed, the oldest first. Empty for `Consecutive`.
    outcomes: VecDeque<bool>,
    /// Among those; for `Consecutive`, in a row.
    n_failed: u32,
}

impl Window {
    pub(super) fn new(trip: BreakerTrip) -> Self {
        Window { trip, outcomes: VecDeque::new(), n_failed: 0 }
    }

    pub(super) fn clear(&mut self) {
        self.outcomes.clear();
        self.n_failed = 0;
    }

    /// The share of failures among the outcomes remembered; `None` when there are none, or when
    /// only those in a row count.
    pub(super) fn failed_share(&self) -> Option<f64> {
        let n_outcomes = u32::try_from(self.outcomes.len()).ok().filter(|it| 0 < *it)?;
        Some(f64::from(self.n_failed) / f64::from(n_outcomes))
    }

    /// Adds an outcome, and says whether it is time to trip.
    pub(super) fn push(&mut self, failed: bool) -> bool {
        match self.trip {
            BreakerTrip::Consecutive { n_failures } => {
                self.n_failed = if failed { self.n_failed.saturating_add(1) } else { 0 };
                n_failures <= self.n_failed
            }
            BreakerTrip::Rate { failed_share, n_window, n_calls_min } => {
                if self.outcomes.len() == n_window as usize {
                    let forgotten = self.outcomes.pop_front();
                    self.n_failed -= u32::from(forgotten == Some(true));
                }
                self.outcomes.push_back(failed);
                self.n_failed += u32::from(failed);
                n_calls_min as usize <= self.outcomes.len()
                    && self.failed_share().is_some_and(|it| failed_share <= it)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Pushes `f` for a failure and `.` for a success; where it trips stands `!`.
    #[track_caller]
    fn check_trips(trip: BreakerTrip, outcomes: &str, expected: &str) {
        let mut window = Window::new(trip);
        let trips = outcomes.chars().map(|it| if window.push(it == 'f') { '!' } else { '.' });
        assert_eq!(trips.collect::<String>(), expected, "{outcomes}");
    }

    #[test]
    fn failures_in_a_row_trip_and_a_success_begins_anew() {
        let trip = BreakerTrip::Consecutive { n_failures: 3 };
        check_trips(trip, "ff.fff.f", ".....!..");
        check_trips(BreakerTrip::Consecutive { n_failures: 1 }, ".f", ".!");
    }

    #[test]
    fn a_share_of_failures_trips_once_there_are_enough_calls() {
        let trip = BreakerTrip::Rate { failed_share: 0.5, n_window: 4, n_calls_min: 3 };
        check_trips(trip, "ff", "..");
        check_trips(trip, "fff", "..!");
        check_trips(trip, "f..f", "...!");
        check_trips(trip, "f...f.", "......");
        check_trips(trip, "f...ff", ".....!");
    }

    proptest! {
        #[test]
        fn the_share_is_that_of_the_latest_calls(
            outcomes in proptest::collection::vec(any::<bool>(), 1..200),
            n_window in 1_u32..40,
        ) {
            let trip = BreakerTrip::Rate { failed_share: 0.7, n_window, n_calls_min: 1 };
            let mut window = Window::new(trip);
            for (n, failed) in outcomes.iter().enumerate() {
                let trips = window.push(*failed);
                let latest = &outcomes[(n + 1).saturating_sub(n_window as usize)..=n];
                let n_failed = u32::try_from(latest.iter().filter(|it| **it).count()).unwrap();
                let share = f64::from(n_failed) / f64::from(u32::try_from(latest.len()).unwrap());
                prop_assert_eq!(window.failed_share(), Some(share));
                prop_assert_eq!(trips, 0.7 <= share);
            }
        }
    }
}
