//! Rows in the order asked for, no more of them in memory than are given out.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use jaq_json::Val;
use taskloom_dispatch::TaskError;

use super::args::DataArgs;
use super::values;

/// The first rows of those seen, in the order of a field.
pub(super) struct Sorted {
    field: Val,
    descending: bool,
    n_max: usize,
    is_top: bool,
    /// The row to be given out last is on top.
    rows: BinaryHeap<Placed>,
    n_seen: u64,
}

struct Placed {
    key: Option<Val>,
    descending: bool,
    /// Rows of one key stay in the order in which they came.
    seen: u64,
    row: Val,
}

impl Sorted {
    /// Without a limit, more rows than may be sorted are an error.
    pub(super) fn new(field: &str, descending: bool, limit: Option<u64>) -> Sorted {
        let n_max = limit.unwrap_or(DataArgs::SORTED_ROWS_MAX).min(DataArgs::SORTED_ROWS_MAX);
        Sorted {
            field: values::text(field),
            descending,
            n_max: usize::try_from(n_max).unwrap_or(usize::MAX),
            is_top: limit.is_some(),
            rows: BinaryHeap::new(),
            n_seen: 0,
        }
    }

    pub(super) fn add(&mut self, row: Val) -> Result<(), TaskError> {
        let key = match &row {
            Val::Obj(fields) => fields.get(&self.field).filter(|it| **it != Val::Null).cloned(),
            _ => None,
        };
        self.n_seen += 1;
        let placed = Placed { key, descending: self.descending, seen: self.n_seen, row };
        if self.rows.len() < self.n_max {
            self.rows.push(placed);
            return Ok(());
        }
        if !self.is_top {
            let message = format!("more than {} rows are to be sorted: give a `limit`", self.n_max);
            return Err(TaskError::permanent(message).code("data.memory"));
        }
        if let Some(mut last) = self.rows.peek_mut()
            && placed < *last
        {
            *last = placed;
        }
        Ok(())
    }

    pub(super) fn into_rows(self) -> impl Iterator<Item = Val> {
        self.rows.into_sorted_vec().into_iter().map(|it| it.row)
    }
}

impl Ord for Placed {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_key = match (&self.key, &other.key) {
            (Some(one), Some(other)) if self.descending => other.cmp(one),
            (Some(one), Some(other)) => one.cmp(other),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => Ordering::Equal,
        };
        by_key.then(self.seen.cmp(&other.seen))
    }
}

impl PartialOrd for Placed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Placed {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Placed {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sorted(
        keys: &[Option<u8>],
        descending: bool,
        limit: Option<u64>,
    ) -> Vec<(Option<u8>, usize)> {
        let mut rows = Sorted::new("k", descending, limit);
        for (place, key) in keys.iter().enumerate() {
            let json = serde_json::json!({ "k": key, "place": place });
            rows.add(serde_json::from_value(json).unwrap()).unwrap();
        }
        let row = |it: Val| {
            let json = serde_json::to_value(values::Json(&it)).unwrap();
            (json["k"].as_u64().map(|it| it as u8), json["place"].as_u64().unwrap() as usize)
        };
        rows.into_rows().map(row).collect()
    }

    proptest! {
        #[test]
        fn the_top_rows_are_the_first_of_a_stable_sort(
            keys in proptest::collection::vec(proptest::option::of(0_u8..5), 0..40),
            descending: bool,
            limit in 0_u64..50,
        ) {
            let mut expected: Vec<_> =
                keys.iter().copied().enumerate().map(|(place, key)| (key, place)).collect();
            expected.sort_by_key(|(key, _)| {
                (key.is_none(), key.map(|it| if descending { 255 - it } else { it }))
            });
            prop_assert_eq!(&sorted(&keys, descending, None), &expected);
            expected.truncate(limit as usize);
            prop_assert_eq!(sorted(&keys, descending, Some(limit)), expected);
        }
    }
}
