//! Rows in groups.
//!
//! # Invariants
//! - A row that is refused changes nothing.
//! - Groups come out in the order of their keys, so the same rows give the same file.

use std::collections::HashMap;

use jaq_json::{Map, Val};
use taskloom_dispatch::TaskError;

use super::aggregate::Tally;
use super::args::GroupPlan;
use super::values;

/// How many values the quantiles of all groups may keep together: 256 MiB of them.
const VALUES_MAX: isize = 32 << 20;

/// What is known of each group so far.
pub(super) struct Groups {
    plan: GroupPlan,
    fields: Vec<Val>,
    columns: Vec<Option<Val>>,
    tallies: HashMap<Box<[Val]>, Box<[Tally]>>,
    /// The key of the row at hand, kept to spare an allocation for each row.
    key: Vec<Val>,
    n_values: isize,
}

impl Groups {
    pub(super) fn new(plan: GroupPlan) -> Groups {
        let fields = plan.fields.iter().map(|it| values::text(it)).collect();
        let columns = plan.aggregates.iter().map(|(_, it)| it.field().map(values::text)).collect();
        let mut groups =
            Groups { plan, fields, columns, tallies: HashMap::new(), key: Vec::new(), n_values: 0 };
        if groups.plan.fields.is_empty() {
            // All rows are one group, even when there are none.
            let empty = groups.start();
            groups.tallies.insert(Box::default(), empty);
        }
        groups
    }

    fn start(&self) -> Box<[Tally]> {
        self.plan.aggregates.iter().map(|(_, it)| it.start()).collect()
    }

    /// Why a row can't be used; `None` when it can.
    pub(super) fn fault(&self, row: &Val) -> Option<String> {
        let Val::Obj(row) = row else {
            return Some(format!(
                "a row to be grouped must be an object, not {}",
                values::kind(row)
            ));
        };
        for (column, (_, aggregate)) in self.columns.iter().zip(&self.plan.aggregates) {
            let Some(name) = column.as_ref().filter(|_| aggregate.needs_number()) else { continue };
            match row.get(name) {
                None | Some(Val::Null | Val::Num(_)) => (),
                Some(value) => {
                    let (name, kind) = (values::plain(name), values::kind(value));
                    return Some(format!("field `{name}` is {kind}, not a number"));
                }
            }
        }
        None
    }

    /// Adds a row that [`Groups::fault`] finds none in.
    pub(super) fn add(&mut self, row: &Val) -> Result<(), TaskError> {
        let Val::Obj(row) = row else { return Ok(()) };
        self.key.clear();
        self.key.extend(self.fields.iter().map(|it| row.get(it).cloned().unwrap_or_default()));
        if !self.tallies.contains_key(self.key.as_slice()) {
            if self.plan.groups_max <= self.tallies.len() {
                let message = format!("there are more than {} groups", self.plan.groups_max);
                return Err(TaskError::permanent(message).code("data.groups"));
            }
            let start = self.start();
            self.tallies.insert(self.key.as_slice().into(), start);
        }
        let Some(tallies) = self.tallies.get_mut(self.key.as_slice()) else { return Ok(()) };
        for (column, tally) in self.columns.iter().zip(tallies) {
            let value = match column {
                None => &Val::Bool(true),
                Some(name) => row.get(name).unwrap_or(&Val::Null),
            };
            if !matches!(value, Val::Null) {
                self.n_values += tally.add(value);
            }
        }
        if VALUES_MAX < self.n_values {
            let message = "the quantiles of all groups need more than 32 Mi values in memory";
            return Err(TaskError::permanent(message).code("data.memory"));
        }
        Ok(())
    }

    /// How many groups there are.
    pub(super) fn len(&self) -> usize {
        self.tallies.len()
    }

    /// The row of each group, in the order of the keys.
    pub(super) fn into_rows(self) -> impl Iterator<Item = Val> {
        let names: Vec<Val> =
            self.plan.aggregates.iter().map(|(name, _)| values::text(name)).collect();
        let fields = self.fields;
        let mut groups: Vec<_> = self.tallies.into_iter().collect();
        groups.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        groups.into_iter().map(move |(key, tallies)| {
            let key = fields.iter().cloned().zip(key);
            let tallies = names.iter().cloned().zip(tallies.into_iter().map(Tally::end));
            Val::obj(key.chain(tallies).collect::<Map>())
        })
    }
}
