//! Quantiles of a group: exact for its first values, a sketch beyond.

use std::collections::BTreeMap;

/// How many values of one group are kept before they become a sketch.
const VALUES_MAX: usize = 10_000;
/// How far a sketched quantile may be from a true one, relative to it.
const ERROR_MAX: f64 = 0.005;
/// How many buckets a sketch has at most: the smallest ones then become one.
const BUCKETS_MAX: usize = 8_192;

/// The values of a group. Up to 10,000 of them the quantile is exact, interpolated between the
/// two nearest values as NumPy does; beyond, a value within 0.5% of a true one (`DDSketch`).
#[derive(Debug, Clone, Default)]
pub(super) struct Quantiles {
    values: Vec<f64>,
    sketch: Option<Box<Sketch>>,
}

impl Quantiles {
    /// Adds a value and says how many more (or fewer) are kept now.
    pub(super) fn add(&mut self, value: f64) -> isize {
        if let Some(sketch) = &mut self.sketch {
            return sketch.add(value);
        }
        self.values.push(value);
        if self.values.len() <= VALUES_MAX {
            return 1;
        }
        let mut sketch = Sketch::default();
        let n_buckets: isize = self.values.iter().map(|&it| sketch.add(it)).sum();
        let n_values = self.values.len();
        self.values = Vec::new();
        self.sketch = Some(Box::new(sketch));
        n_buckets + 1 - isize::try_from(n_values).unwrap_or(isize::MAX)
    }

    /// The value below which `fraction` of the values are; `None` when there are none.
    pub(super) fn quantile(&mut self, fraction: f64) -> Option<f64> {
        if let Some(sketch) = &self.sketch {
            return sketch.quantile(fraction);
        }
        self.values.sort_by(f64::total_cmp);
        let place = fraction * (self.values.len().checked_sub(1)? as f64);
        let low = self.values[place.floor() as usize];
        let high = self.values[place.ceil() as usize];
        Some(low + (high - low) * place.fract())
    }
}

/// Counts of values in buckets, each of which is wider than the one before by a constant factor.
#[derive(Debug, Clone, Default)]
struct Sketch {
    n_values: u64,
    n_zeros: u64,
    positive: BTreeMap<i32, u64>,
    negative: BTreeMap<i32, u64>,
}

impl Sketch {
    /// The factor between two buckets.
    const GROWTH: f64 = (1.0 + ERROR_MAX) / (1.0 - ERROR_MAX);

    fn add(&mut self, value: f64) -> isize {
        self.n_values += 1;
        if value.abs() < f64::MIN_POSITIVE {
            self.n_zeros += 1;
            return 0;
        }
        let buckets = if 0.0 < value { &mut self.positive } else { &mut self.negative };
        let n_before = buckets.len();
        let bucket = (value.abs().ln() / Self::GROWTH.ln()).ceil() as i32;
        *buckets.entry(bucket).or_default() += 1;
        if BUCKETS_MAX < buckets.len()
            && let Some((_, n_lost)) = buckets.pop_first()
            && let Some(mut lowest) = buckets.first_entry()
        {
            *lowest.get_mut() += n_lost;
        }
        buckets.len() as isize - n_before as isize
    }

    fn quantile(&self, fraction: f64) -> Option<f64> {
        let rank = fraction * (self.n_values.checked_sub(1)? as f64);
        let value = |bucket: i32| 2.0 * Self::GROWTH.powi(bucket) / (Self::GROWTH + 1.0);
        let negative = self.negative.iter().rev().map(|(&at, &n)| (-value(at), n));
        let zeros = std::iter::once((0.0, self.n_zeros));
        let positive = self.positive.iter().map(|(&at, &n)| (value(at), n));
        let mut n_below = 0;
        let mut last = None;
        for (value, n) in negative.chain(zeros).chain(positive).filter(|it| 0 < it.1) {
            n_below += n;
            last = Some(value);
            if rank < n_below as f64 {
                break;
            }
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_exact(values: &[f64], fraction: f64, expected: Option<f64>) {
        let mut quantiles = Quantiles::default();
        for &value in values {
            quantiles.add(value);
        }
        assert_eq!(quantiles.quantile(fraction), expected, "{fraction} of {values:?}");
    }

    #[test]
    fn a_quantile_of_few_values_is_exact() {
        check_exact(&[], 0.5, None);
        check_exact(&[7.0], 0.99, Some(7.0));
        check_exact(&[4.0, 1.0, 3.0, 2.0], 0.5, Some(2.5));
        check_exact(&[4.0, 1.0, 3.0, 2.0], 0.0, Some(1.0));
        check_exact(&[4.0, 1.0, 3.0, 2.0], 1.0, Some(4.0));
        check_exact(&[-1.0, 0.0, 10.0], 0.75, Some(5.0));
    }

    #[test]
    fn a_quantile_of_many_values_is_within_its_error() {
        let mut quantiles = Quantiles::default();
        let mut n_kept = 0;
        // Every whole number from -100,000 to 300,000, in a scattered order.
        for n in 0_i64..400_001 {
            let value = (n * 7_919) % 400_001 - 100_000;
            n_kept += quantiles.add(value as f64);
        }
        assert!(n_kept < 5_000, "{n_kept} values are kept");
        for (fraction, expected) in [
            (0.0, -100_000.0),
            (0.1, -60_000.0),
            (0.25, 0.0),
            (0.5, 100_000.0),
            (0.95, 280_000.0),
            (1.0, 300_000.0),
        ] {
            let actual = quantiles.quantile(fraction).unwrap();
            let error = (actual - expected).abs();
            assert!(error <= 0.0051 * expected.abs() + 1.0, "{fraction}: {actual}, not {expected}");
        }
    }
}
