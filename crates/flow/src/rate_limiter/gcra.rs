//! The generic cell rate algorithm (GCRA), and what slows it down. Nothing here reads the clock:
//! every moment is the time since the limiter was made.
//!
//! # Invariants
//! - In any span `t`, at most `burst + t / interval_min` calls pass: the interval is never shorter
//!   than `interval_min`, and `next` never runs further ahead of the clock than a burst.
//! - `next` and `paused_until` never go back.
//!
//! # Calls in hand
//! Reading the clock costs more than all the rest. When a reading shows that several calls would
//! conform at once, an eighth of a burst is kept in hand for callers to take without one: what
//! conforms now conforms later. At the next reading they count as if all had been taken at that
//! moment, which is the latest and so the strictest: the bound above holds, and the first burst
//! after a quiet time may be up to an eighth smaller.

use std::time::Duration;

/// Refusals within this time of a slowing are answers to the calls before it.
const SETTLE: Duration = Duration::from_secs(1);
/// Each step back to the full rate adds one part in so many of it.
const STEPS_TO_FULL: u32 = 10;
/// How long after its last change a slower rate is still worth remembering.
const SLOWED_KEPT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Gcra {
    /// Between two calls as things are; moves between the two below.
    interval: Duration,
    interval_min: Duration,
    interval_max: Duration,
    /// How far ahead of the clock `next` may run: the burst.
    ahead_max: Duration,
    /// When a call would be due if all came evenly spaced. Moved by each call let through.
    next: Duration,
    /// Nothing passes before this moment.
    paused_until: Duration,
    /// When `interval` last changed.
    changed_at: Duration,
    /// Calls that may be taken without a look at the clock, and how many were since the last look;
    /// those are not in `next` yet.
    n_in_hand: u32,
    n_taken: u32,
    /// The most to have in hand.
    n_in_hand_max: u32,
}

impl Gcra {
    pub(super) fn new(interval: Duration, burst: u32) -> Self {
        let ahead_max = interval.saturating_mul(burst.saturating_sub(1));
        Gcra {
            interval,
            interval_min: interval,
            interval_max: interval,
            ahead_max,
            next: Duration::ZERO,
            paused_until: Duration::ZERO,
            changed_at: Duration::ZERO,
            n_in_hand: 0,
            n_taken: 0,
            n_in_hand_max: burst / 8,
        }
    }

    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    pub(super) fn set_interval_max(&mut self, interval: Duration) {
        self.interval_max = self.interval_min.max(interval);
    }

    /// Takes a call that is in hand.
    #[inline]
    pub(super) fn take(&mut self) -> bool {
        let is_there = 0 < self.n_in_hand;
        if is_there {
            self.n_in_hand -= 1;
            self.n_taken += 1;
        }
        is_there
    }

    /// Lets `n` calls through at `now`, or says when to ask again.
    #[inline]
    pub(super) fn pass(&mut self, now: Duration, n: u32) -> Result<(), Duration> {
        let due = self.due(now, n, 0);
        if now < due {
            return Err(due);
        }
        self.next = self.next.max(now).saturating_add(self.interval.saturating_mul(n));
        if 0 < self.n_in_hand_max {
            let room = now.saturating_add(self.ahead_max).saturating_sub(self.next);
            let n_conforming = room.as_nanos() / self.interval.as_nanos().max(1);
            let n_conforming = u32::try_from(n_conforming).unwrap_or(u32::MAX);
            self.n_in_hand = n_conforming.min(self.n_in_hand_max);
        }
        Ok(())
    }

    /// Counts what was taken from the hand, and empties it.
    #[inline]
    fn settle(&mut self, now: Duration) {
        let n_taken = std::mem::take(&mut self.n_taken);
        self.n_in_hand = 0;
        if 0 < n_taken {
            let taken = self.interval.saturating_mul(n_taken);
            self.next = self.next.max(now).saturating_add(taken);
        }
    }

    /// When `n` calls may pass together if `n_before` others pass first, one at a time.
    #[inline]
    pub(super) fn due(&mut self, now: Duration, n: u32, n_before: u32) -> Duration {
        self.settle(now);
        let base = self.next.max(now).max(self.paused_until);
        // A slower rate has a smaller burst; what does not fit it waits until all of it is there.
        let own = self.interval.saturating_mul(n.saturating_sub(1)).min(self.ahead_max);
        let others = self.interval.saturating_mul(n_before);
        let last = base.saturating_add(others).saturating_add(own);
        last.saturating_sub(self.ahead_max).max(self.paused_until)
    }

    pub(super) fn pause(&mut self, now: Duration, delay: Duration) {
        self.settle(now);
        let until = now + delay;
        self.paused_until = self.paused_until.max(until);
    }

    /// Halves the rate, down to the floor; once for all refusals that come together.
    pub(super) fn slow_down(&mut self, now: Duration) {
        let is_settled = self.changed_at + SETTLE <= now || self.interval == self.interval_min;
        if is_settled && self.interval < self.interval_max {
            self.settle(now);
            self.interval = self.interval.saturating_mul(2).min(self.interval_max);
            self.changed_at = now;
        }
    }

    /// Adds a step to the rate, up to the full one, when the last change is some time ago.
    pub(super) fn speed_up(&mut self, now: Duration) {
        if self.interval == self.interval_min || now < self.changed_at + SETTLE {
            return;
        }
        self.settle(now);
        // As rates: 1/interval + 1/step.
        let step = self.interval_min.saturating_mul(STEPS_TO_FULL).as_nanos();
        let interval = self.interval.as_nanos();
        let nanos = (interval * step).div_ceil(interval + step);
        let interval = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.interval = interval.max(self.interval_min);
        self.changed_at = now;
    }

    /// From when on the state is worth no more than that of a new limiter.
    pub(super) fn fresh_at(&mut self, now: Duration) -> Duration {
        self.settle(now);
        let used_until = self.next.max(self.paused_until);
        if self.interval == self.interval_min {
            return used_until;
        }
        used_until.max(self.changed_at + SLOWED_KEPT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn slowable() -> Gcra {
        let mut gcra = Gcra::new(millis(100), 1);
        gcra.set_interval_max(millis(350));
        gcra
    }

    #[test]
    fn refusals_halve_the_rate_down_to_the_floor() {
        let mut gcra = slowable();
        let mut slowed = |at| {
            gcra.slow_down(millis(at));
            gcra.interval().as_millis()
        };
        assert_eq!([slowed(500), slowed(600), slowed(1499)], [200, 200, 200], "they came together");
        assert_eq!([slowed(1500), slowed(9000)], [350, 350]);
    }

    #[test]
    fn quiet_successes_bring_the_full_rate_back_step_by_step() {
        let mut gcra = slowable();
        gcra.slow_down(millis(0));
        gcra.speed_up(millis(999));
        assert_eq!(gcra.interval(), millis(200), "it is not quiet yet");
        let mut rates = Vec::new();
        for second in 1..=6 {
            gcra.speed_up(millis(1000 * second));
            gcra.speed_up(millis(1000 * second + 1));
            rates.push(gcra.interval().as_secs_f64().recip().round());
        }
        assert_eq!(rates, [6.0, 7.0, 8.0, 9.0, 10.0, 10.0]);
        assert_eq!(gcra.interval(), millis(100));
    }

    #[test]
    fn without_a_floor_the_rate_stays() {
        let mut gcra = Gcra::new(millis(100), 1);
        gcra.slow_down(millis(5000));
        assert_eq!(gcra.interval(), millis(100));
        gcra.set_interval_max(millis(1));
        gcra.slow_down(millis(9000));
        assert_eq!(gcra.interval(), millis(100), "a floor over the rate is none");
    }

    #[test]
    fn calls_that_come_together_pass_even_at_a_slower_rate() {
        let mut gcra = Gcra::new(millis(100), 5);
        gcra.set_interval_max(millis(10_000));
        gcra.slow_down(millis(0));
        assert_eq!(gcra.pass(millis(0), 5), Ok(()));
        assert_eq!(gcra.pass(millis(0), 5), Err(millis(1000)));
        assert_eq!(gcra.pass(millis(1000), 5), Ok(()));
    }

    #[test]
    fn a_state_is_fresh_once_use_pause_and_slowness_are_over() {
        let mut gcra = slowable();
        gcra.pass(millis(50), 1).unwrap();
        assert_eq!(gcra.fresh_at(millis(100)), millis(150));
        gcra.pause(millis(100), millis(600));
        assert_eq!(gcra.fresh_at(millis(100)), millis(700));
        gcra.slow_down(millis(100));
        assert_eq!(gcra.fresh_at(millis(100)), millis(60_100));
    }

    #[test]
    fn the_longest_times_do_not_overflow() {
        let year = Duration::from_secs(366 * 86_400);
        let mut gcra = Gcra::new(year, u32::MAX);
        gcra.pass(millis(1), u32::MAX).unwrap();
        assert_eq!(gcra.pass(millis(1), 1), Err(millis(1) + year));
        assert!(gcra.due(millis(1), u32::MAX, u32::MAX) < Duration::MAX);
        let mut gcra = Gcra::new(year, 1);
        gcra.set_interval_max(year * 2);
        gcra.slow_down(millis(9000));
        gcra.speed_up(millis(90_000));
        assert!(year < gcra.interval() && gcra.interval() < year * 2);
    }

    /// How many calls pass at once at `now`, with and without a look at the clock.
    fn n_at_once(gcra: &mut Gcra, now: Duration) -> usize {
        (0..1000).take_while(|_| gcra.take() || gcra.pass(now, 1).is_ok()).count()
    }

    #[test]
    fn what_was_in_hand_before_a_quiet_time_adds_nothing_to_the_burst() {
        let mut gcra = Gcra::new(millis(100), 80);
        gcra.pass(millis(0), 1).unwrap();
        assert!(gcra.take(), "there are calls in hand");
        // The one taken at the start counts now: a pessimist's burst.
        assert_eq!(n_at_once(&mut gcra, millis(900_000)), 79);
        assert_eq!(n_at_once(&mut gcra, millis(900_000)), 0);
        assert_eq!(n_at_once(&mut gcra, millis(900_250)), 2);
        assert_eq!(n_at_once(&mut gcra, millis(1_800_000)), 80);
    }

    proptest::proptest! {
        /// However calls come, and whether or not they take from the hand.
        #[test]
        fn no_span_sees_more_than_its_share(
            burst in 1_u32..100,
            steps in proptest::collection::vec((0_u64..3000, 0_usize..40), 1..60),
        ) {
            let mut gcra = Gcra::new(millis(100), burst);
            let (mut now, mut passed) = (0, Vec::new());
            for (wait, n_tries) in steps {
                now += wait;
                let tries = (0..n_tries).filter(|_| gcra.take() || gcra.pass(millis(now), 1).is_ok());
                passed.extend(tries.map(|_| now));
            }
            for (i, first) in passed.iter().enumerate() {
                for (n, last) in (1..).zip(&passed[i..]) {
                    let share = u64::from(burst) + (last - first) / 100;
                    proptest::prop_assert!(n <= share, "{n} calls in {} ms", last - first);
                }
            }
        }
    }

    #[test]
    fn a_pause_and_a_slower_rate_empty_the_hand() {
        let mut gcra = Gcra::new(millis(100), 80);
        gcra.set_interval_max(millis(200));
        gcra.pass(millis(0), 1).unwrap();
        gcra.pause(millis(0), millis(500));
        assert!(!gcra.take());
        gcra.pass(millis(500), 1).unwrap();
        gcra.slow_down(millis(5000));
        assert!(!gcra.take());
    }
}
