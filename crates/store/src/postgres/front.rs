//! Where claims begin to look while dead rows pile up: what a transaction that somebody holds open
//! might still see can't be removed, and a claim would walk over every job that has run since.
//!
//! As long as there are many dead rows, a claim begins where the first ready job stood a moment
//! ago, or if there was none, at the newest key of that moment. What stands behind that (retried,
//! rescued, promoted, committed late) is found by a sweep: now and then a claim also looks at a
//! window further back, as wide as it can be for its time. Such a job may then run some seconds
//! after younger ones of its priority. With few dead rows every claim looks from the start.
//!
//! # Invariants
//! - Every ready job is at or behind the front of its lane and rank, or the sweep comes by.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// From so many dead rows on, claims begin at the front; and no more below half of it. Walking over
/// them takes some 20 ms.
pub(super) const MANY_DEAD: i64 = 50_000;
/// How old a front is: transactions that had their keys before that have committed.
const LAG: Duration = Duration::from_millis(100);
/// The same where no job was ready. A slow commit would be all that there is, and lie behind it.
const LAG_NONE: Duration = Duration::from_millis(500);
/// How often a claim sweeps, and how long that may take.
const SWEEP_EVERY: Duration = Duration::from_millis(100);
const SWEEP_TIME: Duration = Duration::from_millis(5);
/// What a swept job costs.
const CLAIM_TIME: Duration = Duration::from_micros(30);
/// How many keys a sweep looks at, at first and at least.
const WIDTH_FIRST: i64 = 1 << 16;
const WIDTH_MIN: i64 = 1 << 10;
/// How fast a window grows: all keys there may be, within two seconds.
const GROWTH: i64 = 4;
/// Windows from the start to the front at least: what is cheap to look at, as nothing dead is left
/// there, says little of what comes next.
const WINDOWS_MIN: i64 = 16;

/// The first ready jobs of one lane and rank, as they were seen.
#[derive(Debug, Clone, Copy)]
struct Front {
    /// Where claims begin.
    settled: i64,
    newer: Newer,
}

/// Where claims will begin.
#[derive(Debug, Clone, Copy)]
struct Newer {
    from: Instant,
    first: i64,
    /// No job was ready, and this is the newest key there was.
    is_none: bool,
}

/// Where one connection begins to look for ready jobs.
#[derive(Debug, Default)]
pub(super) struct Fronts {
    is_guarded: bool,
    /// By lane and rank.
    fronts: BTreeMap<(i32, i16), Front>,
    /// When a claim last asked for the newest key.
    asked: Option<Instant>,
    sweep: Sweep,
    /// Where upkeep begins to look: for arrivals by their keys, for what is due and what is late by
    /// its time.
    pub(super) arrivals: Floor,
    pub(super) due: Floor,
    pub(super) late: Floor,
}

/// Where a look at an index begins whose first entries come and go. Most looks begin where the first
/// one stood a moment ago, and some at the start, as seldom as they are slow.
#[derive(Debug, Default)]
pub(super) struct Floor {
    front: Option<Front>,
    /// When a look last began at the start, and how long it took.
    whole: Option<(Instant, Duration)>,
}

/// How often a look begins at the start, if that is quick; else a twentieth of the time goes into
/// it.
const WHOLE_EVERY: Duration = Duration::from_secs(1);
const WHOLE_SHARE: u32 = 20;

impl Floor {
    /// Where the next look begins.
    pub(super) fn begins(&self, is_guarded: bool, now: Instant) -> i64 {
        let is_due = |(at, took): (Instant, Duration)| {
            WHOLE_EVERY.max(took * WHOLE_SHARE) <= now.duration_since(at)
        };
        if !is_guarded || self.whole.is_none_or(is_due) {
            return i64::MIN;
        }
        self.front.map_or(i64::MIN, |it| it.settled)
    }

    /// Notes that a look that began at `begun` and ended `now` has found nothing before `first`.
    pub(super) fn saw(&mut self, from: i64, first: i64, (begun, now): (Instant, Instant)) {
        if from == i64::MIN {
            self.whole = Some((now, now.duration_since(begun)));
        }
        Front::note(&mut self.front, (first, false), now);
    }
}

impl Front {
    /// What was seen first a moment ago is the front; what is seen now will be.
    fn note(front: &mut Option<Front>, (first, is_none): (i64, bool), now: Instant) {
        let lag = if is_none { LAG_NONE } else { LAG };
        let newer = Newer { from: now + lag, first, is_none };
        let front = front.get_or_insert(Front { settled: i64::MIN, newer });
        if front.newer.from <= now {
            *front = Front { settled: front.newer.first, newer };
        } else if front.newer.is_none && !is_none {
            front.newer = newer;
        }
    }
}

#[derive(Debug)]
struct Sweep {
    from: i64,
    width: i64,
    /// How many keys the last window had: fewer than the width at the end.
    span: i64,
    last: Option<Instant>,
}

impl Default for Sweep {
    fn default() -> Sweep {
        Sweep { from: 0, width: WIDTH_FIRST, span: 0, last: None }
    }
}

/// Parts of lanes to claim from, as columns: keys from `low` to before `high`, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    pub(super) lanes: Vec<i32>,
    pub(super) ranks: Vec<i16>,
    pub(super) low: Vec<i64>,
    pub(super) high: Vec<i64>,
}

/// One more than the last rank.
pub(super) const RANKS_END: i16 = 10;
/// Priorities 9 to 0, the urgent ones first.
const RANKS: std::ops::Range<i16> = 0..RANKS_END;

impl Fronts {
    /// Whether claims begin at the front from now on.
    pub(super) fn guard(&mut self, is_guarded: bool) {
        if is_guarded != self.is_guarded {
            *self = Fronts { is_guarded, ..Fronts::default() };
        }
    }

    pub(super) fn is_guarded(&self) -> bool {
        self.is_guarded
    }

    /// What is at or after the front of some lanes, by rank.
    pub(super) fn ahead(&self, lanes: &[i32]) -> Ranges {
        let mut ranges = Ranges::default();
        for rank in RANKS {
            for &lane in lanes {
                let front = self.fronts.get(&(lane, rank)).map_or(i64::MIN, |it| it.settled);
                ranges.push((lane, rank), front, i64::MAX);
            }
        }
        ranges
    }

    /// Whether the next look ahead shall ask for the newest key.
    pub(super) fn asks_for_newest(&mut self, now: Instant) -> bool {
        let asks = self.asked.is_none_or(|it| LAG <= now.duration_since(it));
        if asks {
            self.asked = Some(now);
        }
        asks
    }

    /// Notes what a claim has seen [`ahead`](Fronts::ahead) of some lanes, in the ranks before `end`:
    /// the first job of a lane and rank, or that there was none, when no key was above `newest`
    /// before the look.
    pub(super) fn saw(
        &mut self,
        (lanes, end): (&[i32], i16),
        firsts: &BTreeMap<(i32, i16), i64>,
        (newest, now): (Option<i64>, Instant),
    ) {
        for place in RANKS.flat_map(|rank| lanes.iter().map(move |&lane| (lane, rank))) {
            let seen = match firsts.get(&place) {
                Some(&first) => Some((first, false)),
                None => newest.filter(|_| place.1 < end).map(|it| (it, true)),
            };
            if let Some(seen) = seen {
                let mut front = self.fronts.get(&place).copied();
                Front::note(&mut front, seen, now);
                self.fronts.extend(front.map(|it| (place, it)));
            }
        }
    }

    /// The next window of a sweep, when it is time for one.
    pub(super) fn window(&mut self, lanes: &[i32], now: Instant) -> Option<Ranges> {
        let is_early = self.sweep.last.is_some_and(|it| now.duration_since(it) < SWEEP_EVERY);
        let end = self.fronts.values().map(|it| it.settled).max().unwrap_or(0);
        if is_early || end <= 0 {
            return None;
        }
        self.sweep.last = Some(now);
        let low = if end <= self.sweep.from { 0 } else { self.sweep.from };
        let width = self.sweep.width.min((end / WINDOWS_MIN).max(WIDTH_FIRST));
        let high = low.saturating_add(width).min(end);
        (self.sweep.from, self.sweep.span) = (high, high - low);
        let mut ranges = Ranges::default();
        for rank in RANKS {
            for &lane in lanes {
                ranges.push((lane, rank), low, high);
            }
        }
        Some(ranges)
    }

    /// Notes how long a sweep took that found `n` jobs: the next one is as wide as fits its time.
    pub(super) fn swept(&mut self, took: Duration, n: usize) {
        let walked = took.saturating_sub(CLAIM_TIME * u32::try_from(n).unwrap_or(u32::MAX));
        let Sweep { width, span, .. } = &mut self.sweep;
        *width = if walked <= SWEEP_TIME {
            width.saturating_mul(GROWTH)
        } else {
            let times = walked.as_nanos() / SWEEP_TIME.as_nanos() + 1;
            (*span / i64::try_from(times).unwrap_or(i64::MAX)).max(WIDTH_MIN)
        };
    }
}

impl Ranges {
    fn push(&mut self, (lane, rank): (i32, i16), low: i64, high: i64) {
        if low < high {
            self.lanes.push(lane);
            self.ranks.push(rank);
            self.low.push(low);
            self.high.push(high);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: i32 = 3;

    fn lows(fronts: &Fronts) -> Vec<i64> {
        fronts.ahead(&[LANE]).low
    }

    /// Notes that rank 9 had this job first, and nothing of the others.
    fn see(fronts: &mut Fronts, first: i64, now: Instant) {
        fronts.saw((&[LANE], 0), &[((LANE, 9), first)].into(), (None, now));
    }

    #[test]
    fn a_front_is_where_the_first_job_was_a_moment_ago() {
        let mut fronts = Fronts::default();
        fronts.guard(true);
        let began = Instant::now();
        assert_eq!(lows(&fronts), vec![i64::MIN; 10], "from the start, when nothing is known");
        see(&mut fronts, 100, began);
        see(&mut fronts, 200, began + LAG / 2);
        assert_eq!(lows(&fronts)[9], i64::MIN, "what is committed late may stand before it");
        see(&mut fronts, 300, began + LAG);
        assert_eq!(lows(&fronts)[9], 100);
        see(&mut fronts, 400, began + 2 * LAG);
        assert_eq!(lows(&fronts), [[i64::MIN; 9].as_slice(), &[300]].concat(), "other ranks stay");
        fronts.guard(false);
        assert_eq!(lows(&fronts), vec![i64::MIN; 10]);
    }

    #[test]
    fn where_no_job_was_ready_the_newest_key_is_the_front_a_little_later() {
        let mut fronts = Fronts::default();
        fronts.guard(true);
        let (began, none) = (Instant::now(), BTreeMap::new());
        fronts.saw((&[LANE], 5), &none, (Some(100), began));
        fronts.saw((&[LANE], 5), &none, (None, began + LAG_NONE));
        assert_eq!(lows(&fronts), vec![i64::MIN; 10], "nobody knew the newest key");
        fronts.saw((&[LANE], 5), &none, (Some(200), began + LAG_NONE));
        let (seen, unseen) = (vec![100; 5], vec![i64::MIN; 5]);
        assert_eq!(lows(&fronts), [seen, unseen].concat(), "ranks from 5 on were not looked at");
        // A job that was found counts sooner than the newest key.
        let found = [((LANE, 0), 150)].into();
        fronts.saw((&[LANE], 5), &found, (Some(300), began + LAG_NONE + LAG));
        assert_eq!(lows(&fronts)[0], 100);
        fronts.saw((&[LANE], 5), &none, (Some(400), began + LAG_NONE + 2 * LAG));
        assert_eq!(lows(&fronts)[..2], [150, 100]);
        assert!(fronts.asks_for_newest(began) && !fronts.asks_for_newest(began + LAG / 2));
        assert!(fronts.asks_for_newest(began + LAG));
    }

    #[test]
    fn a_floor_follows_and_the_start_is_looked_at_now_and_then() {
        let (mut floor, began) = (Floor::default(), Instant::now());
        let ms = Duration::from_millis;
        assert_eq!(floor.begins(true, began), i64::MIN);
        floor.saw(i64::MIN, 7, (began, began + ms(100)));
        assert_eq!(floor.begins(true, began + ms(100)), i64::MIN, "nothing is settled yet");
        floor.saw(i64::MIN + 1, 9, (began, began + ms(200)));
        assert_eq!(floor.begins(true, began + ms(200)), 7);
        assert_eq!(floor.begins(false, began + ms(200)), i64::MIN);
        assert_eq!(floor.begins(true, began + ms(1_999)), 7, "the start was slow to look at");
        assert_eq!(floor.begins(true, began + ms(2_100)), i64::MIN);
        floor.saw(i64::MIN, 11, (began + ms(2_100), began + ms(2_101)));
        assert_eq!(floor.begins(true, began + ms(2_200)), 9);
        assert_eq!(floor.begins(true, began + ms(3_101)), i64::MIN, "it was quick");
    }

    #[test]
    fn a_sweep_comes_by_every_key_behind_the_front() {
        let mut fronts = Fronts::default();
        fronts.guard(true);
        let mut now = Instant::now();
        assert_eq!(fronts.window(&[LANE], now), None, "nothing is behind the start");
        for _ in 0..2 {
            see(&mut fronts, 1_000_000, now);
            now += LAG;
        }
        let mut next = 0;
        while next < 1_000_000 {
            let window = fronts.window(&[LANE], now).expect("it is time");
            assert_eq!((window.low[9], window.lanes.len()), (next, 10));
            next = window.high[9];
            assert_eq!(fronts.window(&[LANE], now), None, "it was just done");
            fronts.swept(SWEEP_TIME * 3, 0);
            now += SWEEP_EVERY;
        }
        assert_eq!(fronts.sweep.width, WIDTH_MIN);
        assert_eq!(next, 1_000_000);
        assert_eq!(fronts.window(&[LANE], now).expect("it is time").low[9], 0, "and again");
    }

    #[test]
    fn a_cheap_sweep_soon_sees_all_there_may_be() {
        let mut fronts = Fronts::default();
        let mut took = Duration::ZERO;
        while fronts.sweep.width < 1 << 40 {
            fronts.swept(Duration::from_millis(4), 0);
            took += SWEEP_EVERY;
        }
        assert!(took <= Duration::from_secs(2), "{took:?}");
        let before = fronts.sweep.width;
        fronts.swept(Duration::from_millis(34), 1_000);
        assert!(before < fronts.sweep.width, "jobs take time, and are no reason to slow down");
        // There were much fewer keys than that.
        fronts.sweep.span = 1_000_000;
        fronts.swept(SWEEP_TIME * 9, 0);
        assert_eq!(fronts.sweep.width, 100_000, "the next one fits");
    }
}
